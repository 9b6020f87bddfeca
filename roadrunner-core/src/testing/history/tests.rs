//! Histories find what is wrong with a link.

use super::{history, model};
use crate::testing::{
    ByHand, Case, Expected, Fixture, InFlight, Memory, MemoryLink, Missing, Stranger,
};
use crate::{
    Deadline, Delivery, HostMemory, Payload, Receipt, Region, Sink, Transfer, TransferError,
};
use proptest::test_runner::{Config, RngSeed, TestRunner};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// A payload that arrives when there is no time to wait is lost.
    LosesWhatIsLate,
    /// A payload whose send timed out comes after all.
    SendsWhatTimedOut,
    /// Sends one byte too few.
    Truncates,
    /// Writes one byte beside the destination.
    WritesBeside,
    /// Clears what the sender keeps.
    ClearsTheSource,
    /// Reserves a region that it does not use.
    KeepsARegion,
    /// Goes by the size that the memory had at first.
    IgnoresGrowth,
    /// Takes the peer's death for its end.
    TakesDeathForTheEnd,
    /// Sends on after it was closed.
    SendsAfterClose,
    /// Is open whatever happened.
    SaysItIsOpen,
}

struct Faulty(Fault);

struct Link {
    fault: Fault,
    inner: MemoryLink,
    /// Sent before anything else.
    late: Option<Vec<u8>>,
    size: Option<usize>,
    closed: bool,
}

impl Fixture for Faulty {
    type Link = Link;

    fn name(&self) -> &str {
        "faulty"
    }

    fn open(&self, limit: u64) -> (Link, Link) {
        let (a, b) = Memory::holding(self.in_flight()).open(limit);
        let end = |inner| Link {
            fault: self.0,
            inner,
            late: None,
            size: None,
            closed: false,
        };
        (end(a), end(b))
    }

    fn expected(&self, case: Case) -> Expected {
        Memory::default().expected(case)
    }

    fn in_flight(&self) -> InFlight {
        InFlight {
            bytes: 4096,
            messages: 2,
        }
    }

    fn by_hand(&self, _limit: u64) -> Result<ByHand<Link>, Missing> {
        Err(Missing::NotApplicable)
    }

    fn strangers(&self) -> Result<Vec<Stranger<Link>>, Missing> {
        Err(Missing::NotApplicable)
    }
}

impl Link {
    fn send_bytes(&mut self, bytes: Vec<u8>, deadline: Deadline) -> Result<Receipt, TransferError> {
        let mut memory = HostMemory::from(bytes);
        let region = memory.region();
        self.inner
            .send(Payload::kept(&mut memory, region)?, deadline)
    }
}

impl Transfer for Link {
    fn send(
        &mut self,
        mut payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        if let Some(late) = self.late.take() {
            // Once more, or lost.
            let _ = self.send_bytes(late, Deadline::now());
        }
        let mut bytes = vec![0; payload.len() as usize];
        payload.span()?.copy_to_slice(&mut bytes);
        let size = *self.size.get_or_insert(payload.memory().len());
        match self.fault {
            Fault::IgnoresGrowth if !payload.region().fits(size as u64) => {
                return Err(TransferError::OutOfBounds {
                    region: payload.region(),
                    memory: size as u64,
                });
            }
            Fault::Truncates => drop(bytes.pop()),
            Fault::SendsAfterClose if self.closed => {
                return Ok(Receipt::new(payload.len(), crate::Method::Copy, 1));
            }
            _ => {}
        }
        let sent = self.send_bytes(bytes.clone(), deadline);
        match (self.fault, &sent) {
            (Fault::SendsWhatTimedOut, Err(TransferError::Timeout)) => self.late = Some(bytes),
            (Fault::ClearsTheSource, Ok(_)) => {
                payload.span()?.copy_from_slice(&vec![0; bytes.len()]);
            }
            _ => {}
        }
        sent
    }

    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError> {
        if self.fault == Fault::LosesWhatIsLate && deadline.has_passed() {
            // The memory that it comes to is nobody's.
            let _ = self.inner.recv(&mut HostMemory::new(), deadline);
            return Err(TransferError::Timeout);
        }
        let delivery = match self.inner.recv(sink, deadline) {
            Err(TransferError::PeerClosed) if self.fault == Fault::TakesDeathForTheEnd => {
                Err(TransferError::Closed)
            }
            received => received,
        }?;
        match self.fault {
            Fault::WritesBeside => {
                let beside = Region::new(delivery.region().end().unwrap_or(0), 1);
                beside.span(sink.memory())?.copy_from_slice(&[0]);
            }
            Fault::KeepsARegion => drop(sink.reserve(1, 1)?),
            _ => {}
        }
        Ok(delivery)
    }

    fn close(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        self.closed = true;
        self.inner.close(deadline)
    }

    fn is_open(&self) -> bool {
        self.fault == Fault::SaysItIsOpen || self.inner.is_open()
    }
}

/// Whether so many histories say that a link with this fault is none.
fn is_found(fault: Fault, cases: u32) -> bool {
    let config = Config {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        // What it is matters, not how short it can be said.
        max_shrink_iters: 0,
        ..Config::default()
    };
    let compare = |history| model::compare(&Faulty(fault), &history);
    let outcome = TestRunner::new(config).run(&history(), compare);
    outcome.is_err()
}

#[test]
fn histories_find_each_fault() {
    for fault in [
        Fault::LosesWhatIsLate,
        Fault::SendsWhatTimedOut,
        Fault::Truncates,
        Fault::WritesBeside,
        Fault::ClearsTheSource,
        Fault::KeepsARegion,
        Fault::IgnoresGrowth,
        Fault::TakesDeathForTheEnd,
        Fault::SendsAfterClose,
        Fault::SaysItIsOpen,
    ] {
        assert!(is_found(fault, 400), "{fault:?}");
    }
}

#[test]
fn histories_find_nothing_where_nothing_is_wrong() {
    assert!(!is_found(Fault::None, 40));
}
