//! A link is a queue in either direction: random histories over any transport, compared with one.

use super::fixture::{Case, Fixture};
use super::payloads::pattern;
use super::places::{Destination, Source};
use super::process::{beside_others, within};
use crate::{Deadline, Transfer, TransferError, DEFAULT_LIMIT};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use std::collections::VecDeque;
use std::panic::Location;
use std::thread;
use std::time::Duration;

/// Histories without `PROPTEST_CASES`.
const CASES: u32 = 32;
/// How long to wait for what need not happen.
const MOMENT: Duration = Duration::from_millis(2);

/// Lets both ends of new links send, receive, overwrite what they sent, close and go away, in random order, and compares
/// what they see with a queue in either direction. Shrinks a history that differs.
///
/// 32 histories, or as many as the environment variable `PROPTEST_CASES` says; the other variables of proptest count too.
/// A history that differs is kept beside the file that called this, as `*.proptest-regressions`, and tried first from
/// then on.
///
/// # Panics
/// If a history differs.
#[track_caller]
pub fn follow<F: Fixture>(fixture: F) {
    let config = configuration(Location::caller().file());
    let cases = config.cases;
    let time = Duration::from_secs(10) * cases.max(12);
    let name = fixture.name().to_owned();
    let done = beside_others(|| {
        within(time, move || {
            let histories = prop::collection::vec(step(), 0..24);
            let outcome =
                TestRunner::new(config).run(&histories, |steps| follow_one(&fixture, &steps));
            if let Err(error) = outcome {
                panic!("{}: {error}", fixture.name());
            }
        })
    });
    assert!(done.is_some(), "{name}: a history hangs");
}

fn configuration(source: &'static str) -> Config {
    let defaults = Config::default();
    Config {
        cases: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => defaults.cases,
            None => CASES,
        },
        source_file: Some(source),
        // proptest's own choice, beside `src`, is not for files of `tests`. None if the environment says so.
        failure_persistence: defaults.failure_persistence.as_ref().map(|_| {
            Box::new(FileFailurePersistence::WithSource("proptest-regressions")) as Box<_>
        }),
        ..defaults
    }
}

/// One step of a history. `end` is 0 or 1.
#[derive(Debug, Clone)]
enum Step {
    Send {
        end: usize,
        len: u64,
        offset: u64,
        given: bool,
        overwrite: bool,
    },
    Receive {
        end: usize,
    },
    Close {
        end: usize,
    },
    Drop {
        end: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let end = 0..2_usize;
    let len = prop_oneof![0..4_u64, 0..300_u64, 4090..4100_u64];
    let offset = prop_oneof![Just(0_u64), Just(13), Just(4096)];
    prop_oneof![
        8 => (end.clone(), len, offset, any::<bool>(), any::<bool>()).prop_map(
            |(end, len, offset, given, overwrite)| Step::Send { end, len, offset, given, overwrite }
        ),
        8 => end.clone().prop_map(|end| Step::Receive { end }),
        1 => end.clone().prop_map(|end| Step::Close { end }),
        1 => end.prop_map(|end| Step::Drop { end }),
    ]
}

/// What the model knows of one end.
#[derive(Debug, Default)]
struct End {
    /// What it sent and nobody received.
    queue: VecDeque<Vec<u8>>,
    /// It closed.
    closed: bool,
    /// It tried to close, and whether the peer hears of it is open.
    closing: bool,
    /// It is gone.
    dropped: bool,
    /// It went away, or was written to when it was away: what it sent may be lost (a TCP connection is reset then).
    lossy: bool,
}

struct History<'f, F: Fixture> {
    fixture: &'f F,
    links: [Option<F::Link>; 2],
    ends: [End; 2],
    /// Kept, because a source that is freed is more than one that is overwritten.
    sources: Vec<Source>,
}

/// Whether a history can go on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Step,
    /// An end is broken.
    Stop,
}

type Seen = Result<Next, TestCaseError>;

fn wrong<T>(what: String) -> Result<T, TestCaseError> {
    Err(TestCaseError::fail(what))
}

fn follow_one<F: Fixture>(fixture: &F, steps: &[Step]) -> Result<(), TestCaseError> {
    let (a, b) = fixture.open(DEFAULT_LIMIT);
    let mut history = History {
        fixture,
        links: [Some(a), Some(b)],
        ends: <[End; 2]>::default(),
        sources: Vec::new(),
    };
    for (index, step) in steps.iter().enumerate() {
        if history.take(step, index as u64)? == Next::Stop {
            break;
        }
    }
    Ok(())
}

impl<F: Fixture> History<'_, F> {
    fn take(&mut self, step: &Step, seed: u64) -> Seen {
        match *step {
            Step::Send {
                end,
                len,
                offset,
                given,
                overwrite,
            } => {
                let lengths = self.fixture.lengths();
                let len = len.clamp(*lengths.start(), *lengths.end());
                let case = Case { len, offset, given };
                let peer = &self.ends[1 - end];
                if self.fixture.waits_for_receiver(case)
                    && self.nothing_in_flight()
                    && !peer.dropped
                {
                    self.pass(end, case, seed)
                } else {
                    self.send(end, case, overwrite, seed)
                }
            }
            Step::Receive { end } => self.receive(end),
            Step::Close { end } => self.close(end),
            Step::Drop { end } => {
                self.links[end] = None;
                self.ends[end].dropped = true;
                self.ends[end].lossy =
                    !self.ends[1 - end].queue.is_empty() || !self.ends[end].closed;
                Ok(Next::Step)
            }
        }
    }

    /// When what has to happen counts as failed, or what need not is given up.
    fn deadline(&self, has_to: bool) -> Deadline {
        if has_to {
            Deadline::after(self.fixture.patience())
        } else {
            Deadline::after(MOMENT)
        }
    }

    fn nothing_in_flight(&self) -> bool {
        self.ends.iter().all(|end| end.queue.is_empty())
    }

    fn send(&mut self, end: usize, case: Case, overwrite: bool, seed: u64) -> Seen {
        let content = pattern(case.len, seed);
        let mut source = Source::new(self.fixture, &content, case);
        let has_to = self.nothing_in_flight() && !self.fixture.waits_for_receiver(case);
        let deadline = self.deadline(has_to);
        let Some(link) = &mut self.links[end] else {
            return Ok(Next::Step);
        };
        let sent = source.send(link, deadline);
        let is_open = link.is_open();
        if overwrite && sent.is_ok() {
            source.overwrite();
        }
        self.sources.push(source);
        let peer_is_gone = self.ends[1 - end].dropped;
        self.ends[1 - end].lossy |= peer_is_gone;
        let this = &mut self.ends[end];
        match sent {
            Ok(receipt) => {
                if this.closed || receipt.bytes() != case.len {
                    return wrong(format!("closed: {}, and sent {receipt:?}", this.closed));
                }
                this.queue.push_back(content);
            }
            Err(TransferError::Closed) if this.closed || this.closing => {}
            Err(TransferError::Timeout) if !has_to && deadline.has_passed() => {
                // Cut in the middle of a payload.
                if !is_open {
                    return Ok(Next::Stop);
                }
            }
            Err(TransferError::PeerClosed) if peer_is_gone => return Ok(Next::Stop),
            Err(error) => return wrong(format!("send: {error}")),
        }
        Ok(Next::Step)
    }

    /// Sends while the other end receives.
    fn pass(&mut self, end: usize, case: Case, seed: u64) -> Seen {
        let content = pattern(case.len, seed);
        let mut source = Source::new(self.fixture, &content, case);
        let mut destination = Destination::new(self.fixture, case.len);
        let has_to = !self.ends[end].closed && !self.ends[end].closing;
        let deadline = self.deadline(has_to);
        let [a, b] = &mut self.links;
        let (from, to) = if end == 0 { (a, b) } else { (b, a) };
        let (Some(from), Some(to)) = (from, to) else {
            return Ok(Next::Step);
        };
        let (sent, arrived) = thread::scope(|scope| {
            let sender = scope.spawn(|| source.send(from, deadline).map(drop));
            let arrived = destination.receive(to, deadline);
            (sender.join().expect("send does not panic"), arrived)
        });
        self.sources.push(source);
        match (sent, arrived) {
            (Ok(()), Ok(bytes)) if has_to && bytes == content => Ok(Next::Step),
            (Err(TransferError::Closed), Err(TransferError::Closed | TransferError::Timeout))
                if !has_to =>
            {
                Ok(Next::Step)
            }
            (sent, arrived) => wrong(format!(
                "sent {sent:?} and received {:?} bytes",
                arrived.map(|bytes| bytes.len())
            )),
        }
    }

    fn receive(&mut self, end: usize) -> Seen {
        let peer = &self.ends[1 - end];
        let expected = peer.queue.front().cloned();
        let has_to = expected.is_some() || peer.closed || peer.dropped;
        let deadline = self.deadline(has_to);
        let Some(link) = &mut self.links[end] else {
            return Ok(Next::Step);
        };
        let room = expected.as_ref().map_or(16, |bytes| bytes.len() as u64);
        let arrived = Destination::new(self.fixture, room).receive(link, deadline);
        let is_open = link.is_open();
        let peer = &mut self.ends[1 - end];
        match (arrived, expected) {
            (Ok(bytes), Some(expected)) => {
                if bytes != expected {
                    return wrong(format!(
                        "{} bytes arrived changed, or in place of {} others",
                        bytes.len(),
                        expected.len()
                    ));
                }
                peer.queue.pop_front();
            }
            (Err(TransferError::Timeout), None) if !has_to && is_open && deadline.has_passed() => {}
            (Err(TransferError::Closed), None) if peer.closed || peer.closing => {}
            (Err(TransferError::PeerClosed | TransferError::Truncated { .. }), _)
                if peer.dropped && peer.lossy =>
            {
                return if is_open {
                    wrong("the peer is gone, and the link is open".to_owned())
                } else {
                    Ok(Next::Stop)
                };
            }
            (got, expected) => {
                return wrong(format!(
                    "receive: {:?} instead of {:?} bytes; peer {peer:?}",
                    got.map(|bytes| bytes.len()),
                    expected.map(|bytes| bytes.len()),
                ))
            }
        }
        Ok(Next::Step)
    }

    fn close(&mut self, end: usize) -> Seen {
        let has_to = self.nothing_in_flight();
        let deadline = self.deadline(has_to);
        let Some(link) = &mut self.links[end] else {
            return Ok(Next::Step);
        };
        let closed = link.close(deadline);
        let is_open = link.is_open();
        let peer_is_gone = self.ends[1 - end].dropped;
        self.ends[1 - end].lossy |= peer_is_gone;
        match closed {
            Ok(()) => self.ends[end].closed = true,
            Err(TransferError::Timeout) if !has_to && is_open && deadline.has_passed() => {
                self.ends[end].closing = true;
            }
            Err(TransferError::PeerClosed) if peer_is_gone => return Ok(Next::Stop),
            Err(error) => return wrong(format!("close: {error}")),
        }
        Ok(Next::Step)
    }
}
