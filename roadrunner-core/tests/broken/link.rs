//! The reference transport with one fault.

use crate::fault::Fault;
use roadrunner_core::testing::{
    ByHand, Case, Expected, Fixture, InFlight, Memory, MemoryLink, Missing, Stranger,
};
use roadrunner_core::{
    Deadline, Delivery, HostMemory, Method, Payload, Receipt, Region, Sink, Transfer,
    TransferError, DEFAULT_LIMIT,
};
use std::collections::VecDeque;
use std::fs::File;
use std::mem;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longer than this only rule 1 sends.
const LONG: u64 = 4 << 20;
/// Shorter than this nothing is read late.
const LARGE: u64 = 64 << 10;

pub(crate) struct Broken(pub(crate) Fault);

impl Fixture for Broken {
    type Link = Link;

    fn name(&self) -> &str {
        "broken"
    }

    fn open(&self, limit: u64) -> (Link, Link) {
        let limit = match self.0 {
            Fault::IgnoresTheLimit => DEFAULT_LIMIT,
            _ => limit,
        };
        let most = self.in_flight();
        let holds = match self.0 {
            Fault::HoldsEverything => InFlight {
                bytes: u64::MAX,
                messages: u64::MAX,
            },
            Fault::HoldsAnyNumber => InFlight {
                messages: u64::MAX,
                ..most
            },
            _ => most,
        };
        let (a, b) = Memory::holding(holds).open(limit);
        let between = Arc::<Between>::default();
        let end = |inner, side| Link {
            fault: self.0,
            side,
            inner,
            between: Arc::clone(&between),
            held: VecDeque::new(),
            taken: 0,
            stuck: false,
            died: false,
            descriptor: Some(File::open("/dev/null").expect("it is always there")),
        };
        (end(a, 0), end(b, 1))
    }

    fn expected(&self, case: Case) -> Expected {
        Memory::default().expected(case)
    }

    fn in_flight(&self) -> InFlight {
        Memory::default().in_flight()
    }

    fn patience(&self) -> Duration {
        match self.0 {
            Fault::Hangs => Duration::from_millis(500),
            _ => Duration::from_secs(10),
        }
    }

    fn holds_descriptors(&self) -> bool {
        true
    }

    fn by_hand(&self, _limit: u64) -> Result<ByHand<Link>, Missing> {
        Err(Missing::NotApplicable)
    }

    fn strangers(&self) -> Result<Vec<Stranger<Link>>, Missing> {
        let outcome = match self.0 {
            Fault::LetsAnybodyIn => Ok(self.open(DEFAULT_LIMIT).0),
            _ => Err(TransferError::Refused("who are you?".to_owned())),
        };
        Ok(vec![("a passer-by".to_owned(), outcome)])
    }
}

/// What both ends of a link know.
#[derive(Default)]
struct Between {
    /// By sender: length and address of each source that is to be read late.
    late: [Mutex<VecDeque<(u64, u64)>>; 2],
    /// What was in destinations before the payloads came.
    old_pages: Mutex<Vec<u8>>,
}

pub(crate) struct Link {
    fault: Fault,
    side: usize,
    inner: MemoryLink,
    between: Arc<Between>,
    held: VecDeque<Vec<u8>>,
    taken: u32,
    stuck: bool,
    died: bool,
    descriptor: Option<File>,
}

impl Transfer for Link {
    fn send(
        &mut self,
        mut payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        let (region, given) = (payload.region(), payload.is_given());
        let len = region.len();
        let address = payload.span()?.as_ptr() as u64;
        if self.fault == Fault::ReadsLate && len > LARGE {
            // Before it is sent: the other end may be quick.
            let sources = self.between.late[self.side].lock();
            sources.expect("no panic").push_back((len, address));
        }
        let mut send = |payload: &mut Payload<'_>, region| {
            self.inner
                .send(Payload::kept(payload.memory(), region)?, deadline)
        };
        let at = region.offset();
        let sent = match self.fault {
            Fault::Splits if len > LONG => send(&mut payload, Region::new(at, LONG))
                .and_then(|_| send(&mut payload, Region::new(at + LONG, len - LONG))),
            Fault::Truncates if len > LONG => send(&mut payload, Region::new(at, len & !7)),
            Fault::FillsOneLine if (65..=70).contains(&len) => {
                send(&mut payload, Region::new(at, 64))
            }
            _ => send(&mut payload, region),
        };
        match (self.fault, sent) {
            (Fault::SendsAfterClose, Err(TransferError::Closed)) => {}
            (Fault::WipesWhatItDidNotSend, Err(error)) if given => {
                payload.span()?.copy_from_slice(&vec![0; len as usize]);
                return Err(error);
            }
            (_, sent) => drop(sent?),
        }
        match self.fault {
            Fault::WipesKeptPayloads if !given => {
                payload.span()?.copy_from_slice(&vec![0; len as usize]);
            }
            Fault::ReturnsOldPages if given => {
                let old_pages = self.between.old_pages.lock().expect("no panic");
                payload.span()?.copy_from_slice(&old_pages);
            }
            _ => {}
        }
        Ok(self.receipt(len, 1))
    }

    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError> {
        if self.stuck {
            return Err(TransferError::Broken);
        }
        let deadline = match self.fault {
            Fault::Hangs => Deadline::after(Duration::from_secs(3600)),
            // Whatever there is by then: how fast the machine is decides nothing.
            Fault::GivesUpEarly if deadline > Deadline::after(Duration::from_secs(600)) => {
                return Err(TransferError::Timeout);
            }
            _ => deadline,
        };
        let bytes = self.next(deadline)?;
        let delivered = self.deliver(&bytes, sink);
        if self.fault == Fault::SaysItIsOpen {
            self.stuck = delivered.is_err();
        }
        let region = delivered?;
        Ok(Delivery::new(region, self.receipt(bytes.len() as u64, 2)))
    }

    fn close(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        self.inner.close(deadline)
    }

    fn is_open(&self) -> bool {
        self.inner.is_open()
    }
}

impl Link {
    fn receipt(&self, len: u64, copies: u8) -> Receipt {
        let copies = copies * u8::from(len > 0);
        match self.fault {
            Fault::RoundsBytes => Receipt::new(len.next_multiple_of(4096), Method::Copy, copies),
            Fault::ClaimsNoCopies => Receipt::new(len, Method::Copy, 0),
            Fault::NamesAnotherMethod => Receipt::new(len, Method::Inline, copies),
            _ => Receipt::new(len, Method::Copy, copies),
        }
    }

    /// The payload that is delivered next.
    fn next(&mut self, deadline: Deadline) -> Result<Vec<u8>, TransferError> {
        if let Some(bytes) = self.held.pop_front() {
            return Ok(bytes);
        }
        let first = self.take(deadline)?;
        self.taken += 1;
        // Not at once: it would find that the peer has died before it has delivered what came from it.
        if self.fault == Fault::Reorders && self.taken > 2 {
            if let Ok(second) = self.take(Deadline::now()) {
                self.held.push_back(first);
                return Ok(second);
            }
        }
        if self.fault == Fault::ReusesThePlace && self.taken > 1 {
            if let Ok(second) = self.take(Deadline::now()) {
                let place = if second.len() == first.len() {
                    &second
                } else {
                    &first
                };
                let shown = place.clone();
                self.held.push_back(second);
                return Ok(shown);
            }
        }
        Ok(first)
    }

    fn take(&mut self, deadline: Deadline) -> Result<Vec<u8>, TransferError> {
        let mut memory = HostMemory::new();
        let delivery = match self.inner.recv(&mut memory, deadline) {
            Err(TransferError::PeerClosed) => {
                self.died = true;
                return Err(match self.fault {
                    Fault::TakesDeathForTheEnd => TransferError::Closed,
                    _ => TransferError::PeerClosed,
                });
            }
            other => other?,
        };
        let bytes = memory.bytes(delivery.region()).expect("within the memory");
        let mut bytes = bytes.to_vec();
        if self.fault == Fault::ReadsLate && bytes.len() as u64 > LARGE {
            bytes = self.read_late(bytes);
        }
        Ok(bytes)
    }

    /// What is now in the source of a payload, as the kernel sees it that was lent the pages. If they are no longer there
    /// the copy has to do.
    fn read_late(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut sources = self.between.late[1 - self.side].lock().expect("no panic");
        while let Some((len, address)) = sources.pop_front() {
            // Those of others were not sent in the end.
            if len == bytes.len() as u64 {
                let memory = File::open("/proc/self/mem").expect("/proc is mounted");
                let mut late = vec![0; bytes.len()];
                if memory.read_exact_at(&mut late, address).is_ok() {
                    return late;
                }
            }
        }
        bytes
    }

    fn deliver(&self, bytes: &[u8], sink: &mut dyn Sink) -> Result<Region, TransferError> {
        let region = sink.reserve(bytes.len() as u64, 16)?;
        if self.fault == Fault::PanicsOnOverflow {
            region.end().expect("whoever reserves is honest");
        }
        let size = sink.memory().len() as u64;
        let error = if !region.fits(size) {
            TransferError::OutOfBounds {
                region,
                memory: size,
            }
        } else if region.len() == bytes.len() as u64
            || self.fault == Fault::TrustsTheSink && region.len() < bytes.len() as u64
        {
            self.write(bytes, region, sink)?;
            return Ok(region);
        } else {
            TransferError::NoRoom {
                len: bytes.len() as u64,
                reason: "another length".to_owned(),
            }
        };
        if self.fault != Fault::KeepsTheDestination {
            sink.release(region);
        }
        if self.fault == Fault::ReleasesTwice {
            sink.release(region);
        }
        Err(error)
    }

    fn write(
        &self,
        bytes: &[u8],
        region: Region,
        sink: &mut dyn Sink,
    ) -> Result<(), TransferError> {
        let span = region.span(sink.memory())?;
        if self.fault == Fault::ReturnsOldPages {
            let mut old = vec![0; span.len()];
            span.copy_to_slice(&mut old);
            *self.between.old_pages.lock().expect("no panic") = old;
        }
        span.copy_from_slice(bytes);
        if self.fault == Fault::WritesTooMuch {
            let beyond = Region::new(region.offset() + region.len(), 8);
            beyond.span(sink.memory())?.copy_from_slice(&[0; 8]);
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.died && self.fault == Fault::LeaksADescriptor {
            mem::forget(self.descriptor.take());
        }
        if self.died && self.fault == Fault::LeaksMemory {
            mem::forget(vec![0_u8; 2 << 20]);
        }
    }
}
