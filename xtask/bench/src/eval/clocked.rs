//! A link that tells how long the receiving function took to find room.

use roadrunner_core::{
    Deadline, Delivery, LinearMemory, Payload, Receipt, Region, Sink, Transfer, TransferError,
};
use roadrunner_mem::{SharedPayload, SlotTransfer, Slots, Trust};
use std::time::{Duration, Instant};

/// The link, as it is otherwise.
pub(super) struct Clocked<'l, L> {
    link: &'l mut L,
    /// What the last payload's room took.
    pub(super) allocated: Duration,
}

impl<'l, L> Clocked<'l, L> {
    pub(super) fn new(link: &'l mut L) -> Self {
        Self {
            link,
            allocated: Duration::ZERO,
        }
    }
}

impl<L: Transfer> Transfer for Clocked<'_, L> {
    fn send(&mut self, payload: Payload<'_>, deadline: Deadline) -> Result<Receipt, TransferError> {
        self.link.send(payload, deadline)
    }

    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError> {
        let mut clock = Clock::new(sink);
        let received = self.link.recv(&mut clock, deadline);
        self.allocated = clock.took;
        received
    }

    fn close(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        self.link.close(deadline)
    }

    fn is_open(&self) -> bool {
        self.link.is_open()
    }
}

impl<L: SlotTransfer> SlotTransfer for Clocked<'_, L> {
    fn send_shared(
        &mut self,
        payload: &SharedPayload,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        self.link.send_shared(payload, deadline)
    }

    fn recv_with(
        &mut self,
        slots: &mut Slots,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        let mut clock = Clock::new(sink);
        let received = self.link.recv_with(slots, &mut clock, deadline);
        self.allocated = clock.took;
        received
    }

    fn trust(&self) -> Option<Trust> {
        self.link.trust()
    }
}

struct Clock<'s> {
    sink: &'s mut dyn Sink,
    took: Duration,
}

impl<'s> Clock<'s> {
    fn new(sink: &'s mut dyn Sink) -> Self {
        Self {
            sink,
            took: Duration::ZERO,
        }
    }
}

impl Sink for Clock<'_> {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        let began = Instant::now();
        let region = self.sink.reserve(len, align);
        self.took += began.elapsed();
        region
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.sink.memory()
    }

    fn release(&mut self, region: Region) {
        self.sink.release(region);
    }
}
