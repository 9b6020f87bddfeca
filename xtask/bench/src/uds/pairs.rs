//! Pairs of processes, one pair for each way, as candidates.

use super::part::Task;
use crate::measure::{Candidate, Watch};
use crate::orders::{Order, Report};
use crate::peer::Peer;
use anyhow::{Context, Result};
use tempfile::TempDir;

/// Which of a round's times is measured.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    /// From the start of filling to the end of looking.
    Round,
    /// From filled to received.
    Transfer,
    /// Processor time of both processes that is neither filling nor looking.
    Work,
    /// The same of the sender alone.
    SenderWork,
}

/// The two processes of one way.
struct Pair {
    sender: Peer,
    receiver: Peer,
    next: u64,
    _directory: TempDir,
}

impl Pair {
    fn start(way: &str, bytes: u64) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut task = Task {
            way: way.to_owned(),
            bytes,
            directory: directory.path().to_owned(),
            address: String::new(),
        };
        let mut receiver = Peer::start("uds.receiver")?;
        receiver.control.say(&task)?;
        task.address = receiver.control.hear()?;
        let mut sender = Peer::start("uds.sender")?;
        sender.control.say(&task)?;
        Ok(Self {
            sender,
            receiver,
            next: 0,
            _directory: directory,
        })
    }

    fn round(&mut self, count: u64) -> Result<(Report, Report)> {
        let order = Order {
            first: self.next,
            count,
        };
        self.next += count;
        self.receiver.control.say(&order)?;
        self.sender.control.say(&order)?;
        let sent = self.sender.control.hear().context("the sender")?;
        Ok((sent, self.receiver.control.hear().context("the receiver")?))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Some have servers, and files in shared memory.
        self.sender.end();
        self.receiver.end();
    }
}

/// Payloads of a round: a megabyte at least, so that it takes longer than its start.
fn payloads(bytes: u64) -> u64 {
    ((1 << 20) / bytes.max(1)).clamp(1, 4096)
}

/// A way, as a candidate of its name.
pub(super) fn candidate(
    way: &'static str,
    transport: &'static str,
    bytes: u64,
    what: What,
) -> Candidate<'static> {
    Candidate::new(way, transport, move || {
        let mut pair = Pair::start(way, bytes)?;
        let count = payloads(bytes);
        Ok(move |watch: &mut Watch| {
            let (sent, received) = pair.round(count)?;
            watch.add_time(match what {
                What::Round => received.ended.saturating_sub(sent.began),
                What::Transfer => received.began.saturating_sub(sent.ended),
                What::Work => sent.moving + received.moving,
                What::SenderWork => sent.moving,
            });
            watch.add_cpu(sent.cpu);
            watch.add_cpu(received.cpu);
            watch.add_peak(sent.peak + received.peak);
            watch.delivered_by(&received.method, count);
            // The receiver ends at the first byte that is another.
            watch.verified_all(true, count)
        })
    })
}
