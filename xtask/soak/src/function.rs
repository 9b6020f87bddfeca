//! What stands in for a function at an end of a link: it fills payloads and sends them without end, or receives them and
//! looks at every byte.

use crate::round::{End, Round};
use crate::ways::{Carriage, Link};
use anyhow::{anyhow, ensure, Result};
use roadrunner_core::testing::fill;
use roadrunner_core::{Deadline, LinearMemory, Payload, Region, Sink, Transfer, TransferError};
use roadrunner_mem::{PageBuffer, SlotOptions, Slots, PAGE_SIZE};
use std::io;
use std::time::Duration;

/// Longer than any operation takes; one that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Addresses of a memory, of which few are used.
const ADDRESSES: usize = 1 << 40;
/// What a sender writes over what it has sent. No payload has it.
const LATE: u8 = 0x5E;

/// How a link came to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Payloads that were sent, or that arrived as they were sent.
    pub(crate) whole: u64,
    pub(crate) error: TransferError,
}

/// Why one more payload did not cross.
enum Trouble {
    Link(TransferError),
    /// Something that may never be.
    Wrong(anyhow::Error),
}

impl From<TransferError> for Trouble {
    fn from(error: TransferError) -> Self {
        Self::Link(error)
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(wrong: anyhow::Error) -> Self {
        Self::Wrong(wrong)
    }
}

/// Sends or receives until the link ends.
pub(crate) fn work(round: &Round, end: End, mut link: Link) -> Result<Ended> {
    let mut function = Function::new(&link)?;
    let mut whole = 0;
    let error = loop {
        let moved = match end {
            End::Sender => function.send(round, whole, &mut link),
            End::Receiver => function.receive(round, whole, &mut link),
        };
        match moved {
            Ok(()) => whole += 1,
            Err(Trouble::Link(error)) => break error,
            Err(Trouble::Wrong(wrong)) => return Err(wrong),
        }
    };
    function.look_back(round)?;
    stands_still(link.transfer(), &error)?;
    Ok(Ended { whole, error })
}

/// A link whose peer is gone says so, and does nothing more.
fn stands_still(link: &mut dyn Transfer, error: &TransferError) -> Result<()> {
    ensure!(
        !link.is_open(),
        "after `{error}` the link says that it can go on"
    );
    let mut memory = roadrunner_core::HostMemory::from(vec![1; 10]);
    let received = link.recv(&mut memory, Deadline::after(PATIENCE));
    let sent = Payload::kept(&mut memory, Region::new(0, 1))
        .and_then(|payload| link.send(payload, Deadline::after(PATIENCE)));
    ensure!(
        matches!(received, Err(TransferError::Broken))
            && matches!(sent, Err(TransferError::Broken)),
        "after `{error}` the link received {received:?} and sent {sent:?}"
    );
    Ok(())
}

struct Function {
    memory: PageBuffer,
    slots: Slots,
    /// Where nothing is yet.
    next: u64,
    /// Regions that were reserved and given back.
    free: Vec<Region>,
    reserved: u64,
    released: u64,
    /// A payload that is kept while later ones arrive: its number and where it is.
    held: Option<(u64, Region)>,
}

impl Function {
    fn new(link: &Link) -> io::Result<Self> {
        let slots = match link {
            Link::Unix(link) => Slots::for_audience(SlotOptions::default(), link.audience()),
            Link::Tcp(_) => Slots::default(),
        };
        Ok(Self {
            memory: PageBuffer::new(ADDRESSES)?,
            slots,
            next: 0,
            free: Vec::new(),
            reserved: 0,
            released: 0,
            held: None,
        })
    }

    fn send(&mut self, round: &Round, number: u64, link: &mut Link) -> Result<(), Trouble> {
        let bytes = round.payload(number);
        let len = bytes.len() as u64;
        let deadline = Deadline::after(PATIENCE);
        if let (true, Link::Unix(link)) = (round.carriage.loans(), &mut *link) {
            let region = self.loan(link, len)?;
            fill(&mut self.memory, region.offset(), &bytes);
            let trust = link.trust();
            if trust.is_some() != (round.carriage == Carriage::TrustedSlot) {
                return Err(anyhow!("the link's trust is {trust:?}").into());
            }
            let shared = self.slots.hand_over(&mut self.memory, region, trust)?;
            let shared = shared.ok_or_else(|| anyhow!("a loaned slot could not be handed over"))?;
            link.send_shared(&shared, deadline)?;
            // One that is trusted leaves alone what it gave away.
            if trust.is_none() {
                self.overwrite(region)?;
            }
            return Ok(());
        }
        // At another offset within its page each time.
        let region = Region::new((number * 511) % PAGE_SIZE as u64, len);
        fill(&mut self.memory, region.offset(), &bytes);
        let payload = match round.carriage {
            Carriage::Splice => Payload::given(&mut self.memory, region)?,
            _ => Payload::kept(&mut self.memory, region)?,
        };
        link.transfer().send(payload, deadline)?;
        self.overwrite(region)?;
        Ok(())
    }

    /// Rule 2: the receiver gets what was there before.
    fn overwrite(&mut self, region: Region) -> Result<(), TransferError> {
        let late = vec![LATE; region.len() as usize];
        region.span(&mut self.memory)?.copy_from_slice(&late);
        Ok(())
    }

    fn loan(&mut self, link: &mut roadrunner_uds::Link, len: u64) -> Result<Region, Trouble> {
        /// Of them one is filled while others are read.
        const MOST: usize = 8;
        loop {
            if let Some(region) = self.slots.loan(&mut self.memory, len) {
                return Ok(region);
            }
            if self.slots.report().segments < MOST {
                let whole = len.max(1).next_multiple_of(PAGE_SIZE as u64);
                let place = self.reserve(whole, 2 << 20)?;
                self.slots.bind(&mut self.memory, place)?;
                return Ok(Region::new(place.offset(), len));
            }
            if !link.listen(Deadline::after(PATIENCE))? {
                return Err(anyhow!("no slot came back").into());
            }
        }
    }

    fn receive(&mut self, round: &Round, number: u64, link: &mut Link) -> Result<(), Trouble> {
        let mut slots = std::mem::take(&mut self.slots);
        let deadline = Deadline::after(PATIENCE);
        let received = if round.carriage.maps() {
            link.recv_with(&mut slots, self, deadline)
        } else {
            link.transfer().recv(self, deadline)
        };
        self.slots = slots;
        // Slots keep places of their own.
        let settled = round.carriage.maps() || self.reserved == self.released + self.taken();
        if received.is_err() && !settled {
            return Err(anyhow!(
                "{} regions were reserved, {} released and {} filled",
                self.reserved,
                self.released,
                self.taken()
            )
            .into());
        }
        let delivery = received?;
        let (region, method) = (delivery.region(), delivery.receipt().method());
        if !round.carriage.allows(method) {
            return Err(anyhow!("payload {number} came by {method}").into());
        }
        let bytes = self.bytes(region)?;
        round.check(number, &bytes, "when it arrived")?;
        // Its sender may be dead when it is looked at again.
        if self.held.is_none() {
            self.held = Some((number, region));
        } else {
            self.give_back(region)?;
        }
        Ok(())
    }

    /// Regions that hold a payload.
    fn taken(&self) -> u64 {
        u64::from(self.held.is_some())
    }

    fn give_back(&mut self, region: Region) -> Result<(), TransferError> {
        use roadrunner_mem::Released;
        match self.slots.release(&mut self.memory, region.offset())? {
            // The place is the slots', for the next one.
            Released::Kept => self.released += 1,
            Released::NotASlot | Released::Returned => self.release(region),
        }
        Ok(())
    }

    fn bytes(&mut self, region: Region) -> Result<Vec<u8>, TransferError> {
        let mut bytes = vec![0; region.len() as usize];
        region.span(&mut self.memory)?.copy_to_slice(&mut bytes);
        Ok(bytes)
    }

    /// The payload that was kept is still what it was, though whoever sent it may be dead.
    fn look_back(&mut self, round: &Round) -> Result<()> {
        if let Some((number, region)) = self.held.take() {
            let bytes = self.bytes(region)?;
            round.check(number, &bytes, "when its sender was dead")?;
            self.give_back(region)?;
        }
        Ok(())
    }
}

impl Sink for Function {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        self.reserved += 1;
        let fits = |region: &Region| region.len() >= len && region.offset() % align == 0;
        if let Some(at) = self.free.iter().position(fits) {
            return Ok(Region::new(self.free.swap_remove(at).offset(), len));
        }
        let offset = self.next.next_multiple_of(align.max(PAGE_SIZE as u64));
        self.next = offset + len;
        Ok(Region::new(offset, len))
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.memory
    }

    fn release(&mut self, region: Region) {
        self.released += 1;
        self.free.push(region);
    }
}
