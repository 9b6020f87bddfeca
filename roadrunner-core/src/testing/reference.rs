//! A transport in memory, which keeps every rule and does nothing else.

use super::fixture::{ByHand, Case, Expected, Fixture, InFlight, Missing, Stranger};
use crate::memory::preferred_alignment;
use crate::{Deadline, Delivery, Method, Payload, Receipt, Region, Sink, Transfer, TransferError};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The reference transport: both ends in one process, payloads copied into a queue between them and out of it.
///
/// It is slow and simple, so that it can be believed: what a doubtful transport is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    in_flight: InFlight,
}

impl Memory {
    /// Links that hold no more than `in_flight` in either direction. One payload at a time may be longer than that.
    #[must_use]
    pub fn holding(in_flight: InFlight) -> Self {
        Self { in_flight }
    }
}

impl Default for Memory {
    /// 4 MiB and 64 payloads.
    fn default() -> Self {
        Self::holding(InFlight {
            bytes: 4 << 20,
            messages: 64,
        })
    }
}

impl Fixture for Memory {
    type Link = MemoryLink;

    fn name(&self) -> &str {
        "reference"
    }

    fn open(&self, limit: u64) -> (MemoryLink, MemoryLink) {
        let shared = Arc::<Shared>::default();
        let end = |side| MemoryLink {
            shared: Arc::clone(&shared),
            side,
            limit,
            in_flight: self.in_flight,
            broken: false,
        };
        (end(0), end(1))
    }

    fn expected(&self, case: Case) -> Expected {
        // Nobody copies an empty payload.
        let copies = u8::from(case.len > 0);
        Expected::by(Method::Copy, copies, 2 * copies)
    }

    fn in_flight(&self) -> InFlight {
        self.in_flight
    }

    fn by_hand(&self, _limit: u64) -> Result<ByHand<MemoryLink>, Missing> {
        Err(Missing::NotApplicable)
    }

    fn strangers(&self) -> Result<Vec<Stranger<MemoryLink>>, Missing> {
        Err(Missing::NotApplicable)
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Direction {
    queue: VecDeque<Vec<u8>>,
    bytes: u64,
    /// The sender has finished.
    ended: bool,
}

#[derive(Debug, Default)]
struct State {
    /// What the end of that number sends.
    from: [Direction; 2],
    gone: [bool; 2],
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// One end of a link of the [reference transport](Memory).
#[derive(Debug)]
pub struct MemoryLink {
    shared: Arc<Shared>,
    side: usize,
    limit: u64,
    in_flight: InFlight,
    broken: bool,
}

impl MemoryLink {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before anything that could panic.
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the state until it gives something, or the deadline passes.
    fn when<R>(
        &self,
        deadline: Deadline,
        mut look: impl FnMut(&mut State) -> Option<Result<R, TransferError>>,
    ) -> Result<R, TransferError> {
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                self.shared.changed.notify_all();
                return found;
            }
            let Some(left) = deadline.remaining() else {
                return Err(TransferError::Timeout);
            };
            let woken = self.shared.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn check_open(&self) -> Result<(), TransferError> {
        if self.broken {
            return Err(TransferError::Broken);
        }
        Ok(())
    }

    fn judge<R>(&mut self, result: Result<R, TransferError>) -> Result<R, TransferError> {
        self.broken |= matches!(result, Err(TransferError::PeerClosed));
        result
    }
}

impl Transfer for MemoryLink {
    fn send(
        &mut self,
        mut payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        self.check_open()?;
        let len = payload.len();
        if len > self.limit {
            return Err(TransferError::TooLarge {
                len,
                limit: self.limit,
            });
        }
        // No more than the sender has itself.
        let mut bytes = vec![0; len as usize];
        payload.span()?.copy_to_slice(&mut bytes);
        let mut bytes = Some(bytes);
        let (side, most) = (self.side, self.in_flight);
        let sent = self.when(deadline, |state| {
            let peer_is_gone = state.gone[1 - side];
            let out = &mut state.from[side];
            if out.ended {
                return Some(Err(TransferError::Closed));
            }
            if peer_is_gone {
                return Some(Err(TransferError::PeerClosed));
            }
            let fits = out.bytes + len <= most.bytes && (out.queue.len() as u64) < most.messages;
            if !fits && !out.queue.is_empty() {
                return None;
            }
            out.bytes += len;
            out.queue.extend(bytes.take());
            Some(Ok(()))
        });
        self.judge(sent)?;
        Ok(Receipt::new(len, Method::Copy, u8::from(len > 0)))
    }

    /// A payload whose destination fails is lost, and the link goes on.
    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError> {
        self.check_open()?;
        let peer = 1 - self.side;
        let received = self.when(deadline, |state| {
            let peer_is_gone = state.gone[peer];
            let incoming = &mut state.from[peer];
            if let Some(bytes) = incoming.queue.pop_front() {
                incoming.bytes -= bytes.len() as u64;
                return Some(Ok(bytes));
            }
            if incoming.ended {
                return Some(Err(TransferError::Closed));
            }
            peer_is_gone.then_some(Err(TransferError::PeerClosed))
        });
        let bytes = self.judge(received)?;
        let len = bytes.len() as u64;
        let region = deliver(&bytes, sink)?;
        let receipt = Receipt::new(len, Method::Copy, 2 * u8::from(len > 0));
        Ok(Delivery::new(region, receipt))
    }

    fn close(&mut self, _deadline: Deadline) -> Result<(), TransferError> {
        self.check_open()?;
        self.lock().from[self.side].ended = true;
        self.shared.changed.notify_all();
        Ok(())
    }

    fn is_open(&self) -> bool {
        !self.broken
    }
}

/// Copies a payload into a region that it reserves, which it releases again if that fails.
fn deliver(bytes: &[u8], sink: &mut dyn Sink) -> Result<Region, TransferError> {
    let len = bytes.len() as u64;
    let region = sink.reserve(len, preferred_alignment(len))?;
    let copied = match region.span(sink.memory()) {
        Ok(span) if span.len() == bytes.len() => {
            span.copy_from_slice(bytes);
            Ok(())
        }
        Ok(span) => Err(TransferError::NoRoom {
            len,
            reason: format!("{} bytes were reserved", span.len()),
        }),
        Err(error) => Err(error),
    };
    if let Err(error) = copied {
        sink.release(region);
        return Err(error);
    }
    Ok(region)
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        let mut state = self.lock();
        state.gone[self.side] = true;
        // Nobody will receive it.
        state.from[1 - self.side] = Direction::default();
        drop(state);
        self.shared.changed.notify_all();
    }
}
