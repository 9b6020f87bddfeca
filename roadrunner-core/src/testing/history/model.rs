//! The queues that a link is compared with.

use super::room::{Make, Room};
use super::{History, Sending, Step};
use crate::testing::fixture::{Case, Fixture};
use crate::testing::payloads::{host_memory, pattern};
use crate::{Deadline, Payload, Receipt, Region, Transfer, TransferError, DEFAULT_LIMIT};
use proptest::test_runner::TestCaseError;
use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

/// How long to wait for what need not happen.
const MOMENT: Duration = Duration::from_millis(2);
/// What a source is overwritten with.
const OVERWRITTEN: u8 = 0xEE;

type Seen = Result<(), TestCaseError>;

/// Lets a history happen.
pub(super) fn compare<F: Fixture>(fixture: &F, history: &History) -> Seen {
    let sources = || -> Make<'_> {
        match history.opaque_sources {
            true => Box::new(host_memory),
            false => Box::new(|len| fixture.source(len)),
        }
    };
    let destinations = || -> Make<'_> {
        match history.opaque_destinations {
            true => Box::new(host_memory),
            false => Box::new(|len| fixture.destination(len)),
        }
    };
    let (a, b) = fixture.open(DEFAULT_LIMIT);
    let mut model = Model {
        fixture,
        opaque_sources: history.opaque_sources,
        links: [Some(a), Some(b)],
        ends: <[End; 2]>::default(),
        sources: [Room::new(sources()), Room::new(sources())],
        destinations: [Room::new(destinations()), Room::new(destinations())],
    };
    for (index, step) in history.steps.iter().enumerate() {
        model.take(step, index as u64)?;
    }
    Ok(())
}

/// What is known of one end.
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
    /// An error broke it. What its peer then sees is open.
    broken: bool,
}

struct Model<'f, F: Fixture> {
    fixture: &'f F,
    opaque_sources: bool,
    links: [Option<F::Link>; 2],
    ends: [End; 2],
    /// What the ends send from.
    sources: [Room<'f>; 2],
    /// What they receive into.
    destinations: [Room<'f>; 2],
}

fn wrong<T>(what: String) -> Result<T, TestCaseError> {
    Err(TestCaseError::fail(what))
}

impl<F: Fixture> Model<'_, F> {
    fn take(&mut self, step: &Step, seed: u64) -> Seen {
        match *step {
            Step::Grow { end, pages } => {
                self.sources[end].grow(pages);
                self.destinations[end].grow(pages);
            }
            Step::Reopen => {
                self.links = [None, None];
                let (a, b) = self.fixture.open(DEFAULT_LIMIT);
                self.links = [Some(a), Some(b)];
                self.ends = <[End; 2]>::default();
            }
            Step::Drop { end } => {
                self.links[end] = None;
                self.ends[end].dropped = true;
                self.ends[end].lossy =
                    !self.ends[1 - end].queue.is_empty() || !self.ends[end].closed;
            }
            Step::Send(Sending { end, .. }) | Step::Receive { end, .. } | Step::Close { end } => {
                if self.ends[end].broken {
                    return self.stays_broken(end, step, seed);
                }
                // What its peer then sees is nobody's promise.
                if self.ends[1 - end].broken || self.links[end].is_none() {
                    return Ok(());
                }
                return match *step {
                    Step::Send(sending) => self.send_or_pass(sending, seed),
                    Step::Receive { grows, hurried, .. } => self.receive(end, grows, hurried),
                    _ => self.close(end),
                };
            }
        }
        Ok(())
    }

    /// When what has to happen counts as failed, or what need not is given up.
    fn deadline(&self, has_to: bool, hurried: bool) -> Deadline {
        if hurried {
            Deadline::now()
        } else if has_to {
            Deadline::after(self.fixture.patience())
        } else {
            Deadline::after(MOMENT)
        }
    }

    fn nothing_in_flight(&self) -> bool {
        self.ends.iter().all(|end| end.queue.is_empty())
    }

    /// Whatever it is asked for.
    fn stays_broken(&mut self, end: usize, step: &Step, seed: u64) -> Seen {
        let deadline = Deadline::after(self.fixture.patience());
        let Some(link) = &mut self.links[end] else {
            return Ok(());
        };
        let refused = match step {
            Step::Send(_) => {
                let bytes = pattern(16, seed);
                send(&mut self.sources[end], link, 0, &bytes, true, deadline).map(drop)
            }
            Step::Receive { .. } => link.recv(&mut self.destinations[end], deadline).map(drop),
            _ => link.close(deadline),
        };
        self.compare_memories(end)?;
        match refused {
            Err(TransferError::Broken | TransferError::Closed) => Ok(()),
            other => wrong(format!("{other:?} from a link that is broken")),
        }
    }

    fn send_or_pass(&mut self, sending: Sending, seed: u64) -> Seen {
        let lengths = self.fixture.lengths();
        let len = lengths.start().saturating_add(sending.len);
        let len = len.min(*lengths.end());
        let case = Case {
            len,
            offset: self.sources[sending.end].offset(sending.place, len),
            // Pages that nobody may exchange travel as those that are kept.
            given: sending.given && !self.opaque_sources,
        };
        let waits = self.fixture.waits_for_receiver(case);
        let content = pattern(case.len, seed);
        if waits && self.nothing_in_flight() && !self.ends[1 - sending.end].dropped {
            self.pass(sending, case.offset, &content)
        } else {
            self.send(sending, case.offset, content, waits)
        }
    }

    fn send(&mut self, sending: Sending, offset: u64, content: Vec<u8>, waits: bool) -> Seen {
        let Sending {
            end,
            given,
            hurried,
            ..
        } = sending;
        let has_to = self.nothing_in_flight() && !waits && !hurried;
        let deadline = self.deadline(has_to, hurried);
        let source = &mut self.sources[end];
        let Some(link) = &mut self.links[end] else {
            return Ok(());
        };
        let sent = send(source, link, offset, &content, given, deadline);
        let is_open = link.is_open();
        self.compare_memories(end)?;
        if sending.overwrite && sent.is_ok() {
            self.sources[end].overwrite(OVERWRITTEN);
        }
        let peer_is_gone = self.ends[1 - end].dropped;
        self.ends[1 - end].lossy |= peer_is_gone;
        let this = &mut self.ends[end];
        match sent {
            Ok(receipt) if this.closed || receipt.bytes() != content.len() as u64 => {
                return wrong(format!("closed: {}, and sent {receipt:?}", this.closed));
            }
            Ok(_) => this.queue.push_back(content),
            Err(TransferError::Closed) if this.closed || this.closing => {}
            // If it is broken then in the middle of a payload.
            Err(TransferError::Timeout) if !has_to && deadline.has_passed() => {
                this.broken = !is_open;
            }
            Err(TransferError::PeerClosed) if peer_is_gone && !is_open => this.broken = true,
            Err(error) => return wrong(format!("send: {error}; open: {is_open}")),
        }
        Ok(())
    }

    /// Sends while the other end receives.
    fn pass(&mut self, sending: Sending, offset: u64, content: &[u8]) -> Seen {
        let Sending { end, given, .. } = sending;
        let has_to = !self.ends[end].closed && !self.ends[end].closing;
        let deadline = self.deadline(has_to, false);
        let source = &mut self.sources[end];
        let destination = &mut self.destinations[1 - end];
        let [a, b] = &mut self.links;
        let (from, to) = if end == 0 { (a, b) } else { (b, a) };
        let (Some(from), Some(to)) = (from, to) else {
            return Ok(());
        };
        let (sent, arrived) = thread::scope(|scope| {
            let sender =
                scope.spawn(|| send(source, from, offset, content, given, deadline).map(drop));
            let arrived = receive(destination, to, deadline);
            (sender.join().expect("send does not panic"), arrived)
        });
        self.compare_memories(end)?;
        self.compare_memories(1 - end)?;
        if sending.overwrite && sent.is_ok() {
            self.sources[end].overwrite(OVERWRITTEN);
        }
        match (sent, arrived.map_err(TestCaseError::fail)?) {
            (Ok(()), Ok(bytes)) if has_to && bytes == content => Ok(()),
            (Err(TransferError::Closed), Err(TransferError::Closed | TransferError::Timeout))
                if !has_to =>
            {
                Ok(())
            }
            (sent, arrived) => wrong(format!(
                "sent {sent:?} and received {:?} bytes",
                arrived.map(|bytes| bytes.len())
            )),
        }
    }

    fn receive(&mut self, end: usize, grows: bool, hurried: bool) -> Seen {
        let peer = &self.ends[1 - end];
        let expected = peer.queue.front().cloned();
        let has_to = !hurried && (expected.is_some() || peer.closed || peer.dropped);
        let deadline = self.deadline(has_to, hurried);
        let destination = &mut self.destinations[end];
        let Some(link) = &mut self.links[end] else {
            return Ok(());
        };
        destination.grows_when_asked = grows;
        let arrived = receive(destination, link, deadline);
        let is_open = link.is_open();
        self.compare_memories(end)?;
        let peer = &mut self.ends[1 - end];
        match (arrived.map_err(TestCaseError::fail)?, expected) {
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
            (Err(TransferError::Timeout), expected) if !has_to && deadline.has_passed() => {
                if !is_open && expected.is_none() {
                    return wrong("nothing came, and the link is broken".to_owned());
                }
                self.ends[end].broken = !is_open;
            }
            (Err(TransferError::Closed), None) if peer.closed || peer.closing => {}
            (Err(TransferError::PeerClosed | TransferError::Truncated { .. }), _)
                if peer.dropped && peer.lossy =>
            {
                if is_open {
                    return wrong("the peer is gone, and the link is open".to_owned());
                }
                self.ends[end].broken = true;
            }
            (got, expected) => {
                return wrong(format!(
                    "receive: {:?} instead of {:?} bytes; peer {peer:?}",
                    got.map(|bytes| bytes.len()),
                    expected.map(|bytes| bytes.len()),
                ))
            }
        }
        Ok(())
    }

    fn close(&mut self, end: usize) -> Seen {
        let has_to = self.nothing_in_flight();
        let deadline = self.deadline(has_to, false);
        let Some(link) = &mut self.links[end] else {
            return Ok(());
        };
        let closed = link.close(deadline);
        let is_open = link.is_open();
        let peer_is_gone = self.ends[1 - end].dropped;
        self.ends[1 - end].lossy |= peer_is_gone;
        let this = &mut self.ends[end];
        match closed {
            Ok(()) => this.closed = true,
            Err(TransferError::Timeout) if !has_to && is_open && deadline.has_passed() => {
                this.closing = true;
            }
            Err(TransferError::PeerClosed) if peer_is_gone && !is_open => this.broken = true,
            Err(error) => return wrong(format!("close: {error}; open: {is_open}")),
        }
        Ok(())
    }

    fn compare_memories(&mut self, end: usize) -> Seen {
        for (what, room) in [
            ("sends from", &mut self.sources[end]),
            ("receives into", &mut self.destinations[end]),
        ] {
            room.check()
                .map_err(|error| TestCaseError::fail(format!("what end {end} {what}: {error}")))?;
        }
        Ok(())
    }
}

/// Writes a payload into a source and sends it.
fn send<L: Transfer>(
    source: &mut Room<'_>,
    link: &mut L,
    offset: u64,
    content: &[u8],
    given: bool,
    deadline: Deadline,
) -> Result<Receipt, TransferError> {
    source.put(offset, content);
    let region = Region::new(offset, content.len() as u64);
    let payload = if given {
        Payload::given(source.memory(), region)
    } else {
        Payload::kept(source.memory(), region)
    };
    let sent = link.send(payload?, deadline);
    // A payload that was given away may have left anything, one that could not be sent is where it was.
    if given && (sent.is_ok() || !link.is_open()) {
        source.accept(region);
    }
    sent
}

/// Receives one payload and gives its bytes, or says what the transport did to its sink.
fn receive<L: Transfer>(
    destination: &mut Room<'_>,
    link: &mut L,
    deadline: Deadline,
) -> Result<Result<Vec<u8>, TransferError>, String> {
    let received = link.recv(destination, deadline);
    let region = received.as_ref().ok().map(|delivery| delivery.region());
    destination.settle(region)?;
    Ok(received.map(|delivery| destination.accept(delivery.region())))
}
