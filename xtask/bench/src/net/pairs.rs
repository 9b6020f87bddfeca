//! Pairs of processes, one pair for each way, as candidates.

use super::part::Task;
#[cfg(feature = "peers")]
use super::TLS;
use crate::measure::{Candidate, Watch};
use crate::orders::{Order, Report};
use crate::peer::Peer;
use crate::usage;
use anyhow::{Context, Result};
use roadrunner_netns::{Host, Pair as Hosts};

/// Which of a round's times is measured.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    /// From the start of filling to the end of looking.
    Round,
    /// From filled to received.
    Transfer,
    /// Processor time of the sender that is not filling.
    SenderWork,
    /// From the sender's start to its end, which is the last answer's.
    Exchange,
}

/// Which two programs, and where.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    pub(super) sender: &'static str,
    pub(super) receiver: &'static str,
    /// None for loopback.
    pub(super) hosts: Option<&'a Hosts>,
}

/// One way over loopback.
pub(super) const LOOPBACK: Stage<'static> = Stage {
    sender: "net.sender",
    receiver: "net.receiver",
    hosts: None,
};

/// The two processes of one way. Over loopback each stays on a core of its own, where there are two: left to the system they
/// share one in some rounds and not in others, which moves times by half.
pub(super) struct Pair {
    sender: Peer,
    receiver: Peer,
    next: u64,
}

impl Pair {
    pub(super) fn start(stage: Stage<'_>, way: &str, bytes: u64) -> Result<Self> {
        let on = |host: Option<&Host>, name: &str| match host {
            Some(host) => Peer::start_by(host.command(std::env::current_exe()?), name),
            None => Peer::start(name),
        };
        let ip = stage.hosts.map_or_else(
            || "127.0.0.1".to_owned(),
            |hosts| hosts.right.address().to_string(),
        );
        let mut task = Task {
            way: way.to_owned(),
            bytes,
            address: format!("{ip}:0"),
            identity: identity(way, &ip)?,
        };
        // On a cable they have a host each, whose work is done wherever it comes up.
        let cores = usage::two_cores().filter(|_| stage.hosts.is_none());
        let stay =
            |peer: &Peer, which: usize| cores.map_or(Ok(()), |cores| peer.stay_on(cores[which]));
        let mut receiver = on(stage.hosts.map(|hosts| &hosts.right), stage.receiver)?;
        stay(&receiver, 1)?;
        receiver.control.say(&task)?;
        task.address = receiver.control.hear()?;
        let mut sender = on(stage.hosts.map(|hosts| &hosts.left), stage.sender)?;
        stay(&sender, 0)?;
        sender.control.say(&task)?;
        Ok(Self {
            sender,
            receiver,
            next: 0,
        })
    }

    pub(super) fn round(&mut self, count: u64) -> Result<(Report, Report)> {
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

/// A certificate for the receiver, made for this run, if the way is encrypted.
#[cfg(feature = "peers")]
fn identity(way: &str, ip: &str) -> Result<Option<(String, String)>> {
    if way != TLS {
        return Ok(None);
    }
    let made = rcgen::generate_simple_self_signed([ip.to_owned()])?;
    Ok(Some((made.cert.pem(), made.signing_key.serialize_pem())))
}

#[cfg(not(feature = "peers"))]
fn identity(_way: &str, _ip: &str) -> Result<Option<(String, String)>> {
    Ok(None)
}

/// Payloads of a round: a megabyte at least, so that it takes longer than its start.
pub(super) fn payloads(bytes: u64) -> u64 {
    ((1 << 20) / bytes.max(1)).clamp(1, 4096)
}

/// A way, as a candidate of its name.
pub(super) fn candidate<'a>(
    stage: Stage<'a>,
    way: &'static str,
    bytes: u64,
    count: u64,
    what: What,
) -> Candidate<'a> {
    let transport = match way.split('-').next() {
        Some("net") => "splice",
        Some("http") => "hyper",
        Some("grpc") => "tonic",
        _ => "tcp",
    };
    Candidate::new(way, transport, move || {
        let mut pair = Pair::start(stage, way, bytes)?;
        Ok(move |watch: &mut Watch| {
            let (sent, received) = pair.round(count)?;
            watch.add_time(match what {
                What::Round => received.ended.saturating_sub(sent.began),
                What::Transfer => received.began.saturating_sub(sent.ended),
                What::SenderWork => sent.moving,
                What::Exchange => sent.ended.saturating_sub(sent.began),
            });
            watch.add_cpu(sent.cpu);
            watch.add_cpu(received.cpu);
            watch.add_peak(sent.peak + received.peak);
            watch.add_waits(received.waits);
            let by = [received.method, sent.method].join(" ");
            watch.delivered_by(by.trim_end(), count);
            // Both processes end at the first byte that is another.
            watch.verified_all(true, count)
        })
    })
}
