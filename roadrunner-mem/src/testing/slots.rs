//! For the tests of links that slots go by.
//!
//! The suite of `roadrunner-core` knows no slots. A [`SlotEnd`] makes a [`Transfer`] of such a link, as a host sees it that
//! has a function at either end: what is sent is produced in a slot, and what arrives in one is read out of it.

use crate::{PageBuffer, SlotOptions, SlotTransfer, Slots, PAGE_SIZE};
use roadrunner_core::{
    Deadline, Delivery, LinearMemory, Payload, Receipt, Region, Sink, Transfer, TransferError,
};

/// How payloads leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Produced in a loaned slot.
    Loan,
    /// Copied into a segment, for many receivers.
    Share,
}

/// Room for more than the suite keeps in a link at a time.
#[must_use]
pub fn slot_options() -> SlotOptions {
    SlotOptions {
        bytes: 8 << 30,
        slots: 80,
    }
}

/// One end of a link, and the function there.
///
/// A sender writes to the place of a slot that it has handed over, and a receiver to what it received: nobody else may see
/// either.
#[derive(Debug)]
pub struct SlotEnd<L> {
    link: L,
    by: By,
    function: Function,
}

impl<L: SlotTransfer> SlotEnd<L> {
    /// For an end of a link, and the slots of the function there, which need the room of [`slot_options`].
    ///
    /// # Panics
    /// If this process cannot have 1 TiB of addresses.
    #[must_use]
    pub fn new(link: L, by: By, slots: Slots) -> Self {
        let memory = PageBuffer::new(1 << 40).expect("addresses");
        Self {
            link,
            by,
            function: Function {
                memory,
                next: 0,
                slots,
            },
        }
    }
}

/// A memory with room that is never given back: slots keep their places.
#[derive(Debug)]
struct Function {
    memory: PageBuffer,
    next: u64,
    slots: Slots,
}

impl Function {
    fn loan(&mut self, len: u64) -> Result<Region, TransferError> {
        if let Some(region) = self.slots.loan(&mut self.memory, len) {
            return Ok(region);
        }
        let whole = len.max(1).next_multiple_of(PAGE_SIZE as u64);
        let place = Allocator(&mut self.memory, &mut self.next).reserve(whole, 2 << 20)?;
        self.slots.bind(&mut self.memory, place)?;
        Ok(Region::new(place.offset(), len))
    }
}

struct Allocator<'a>(&'a mut PageBuffer, &'a mut u64);

impl Sink for Allocator<'_> {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        let offset = self.1.next_multiple_of(align);
        *self.1 = offset + len;
        Ok(Region::new(offset, len))
    }
    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.0
    }
    fn release(&mut self, _region: Region) {}
}

impl<L: SlotTransfer> Transfer for SlotEnd<L> {
    fn send(
        &mut self,
        mut payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        let function = &mut self.function;
        if self.by == By::Share {
            let region = payload.region();
            let shared = function.slots.share(payload.memory(), region)?;
            return self.link.send_shared(&shared, deadline);
        }
        let region = function.loan(payload.len())?;
        region
            .span(&mut function.memory)?
            .copy_from(payload.span()?);
        let memory = &mut function.memory;
        let shared = function
            .slots
            .hand_over(memory, region, self.link.trust())?
            .expect("it is on loan");
        let sent = self.link.send_shared(&shared, deadline);
        if sent.is_err() {
            assert!(function.slots.take_back(memory, shared), "not sent");
            function.slots.release(memory, region.offset())?;
        } else if self.link.trust().is_none() {
            // Whoever writes after sending writes to pages of its own.
            let late = vec![0xbb; payload.len() as usize];
            region.span(memory)?.copy_from_slice(&late);
        }
        sent
    }

    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError> {
        let Function {
            memory,
            next,
            slots,
        } = &mut self.function;
        let allocator = &mut Allocator(memory, next);
        let delivery = self.link.recv_with(slots, allocator, deadline)?;
        let slot = delivery.region();
        let read_out = read_out(memory, slot, sink);
        // The copy is the receiver's: what it writes there nobody else sees, nor itself in the next payload.
        slot.span(memory)?
            .copy_from_slice(&vec![0xcc; slot.len() as usize]);
        let released = slots.release(memory, slot.offset());
        if let (Err(_), Ok(region)) = (&released, &read_out) {
            sink.release(*region);
        }
        released?;
        Ok(Delivery::new(read_out?, delivery.receipt()))
    }

    fn close(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        self.link.close(deadline)
    }

    fn is_open(&self) -> bool {
        self.link.is_open()
    }
}

fn read_out(
    memory: &mut PageBuffer,
    slot: Region,
    sink: &mut dyn Sink,
) -> Result<Region, TransferError> {
    let len = slot.len();
    let region = sink.reserve(len, 16)?;
    let target = match region.span(sink.memory()) {
        Ok(target) if region.len() == len => target,
        checked => {
            let reason = "the sink reserved something else".to_owned();
            let error = checked
                .err()
                .unwrap_or(TransferError::NoRoom { len, reason });
            sink.release(region);
            return Err(error);
        }
    };
    target.copy_from(slot.span(memory)?);
    Ok(region)
}
