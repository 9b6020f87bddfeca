//! What a function gives away.

use crate::sys::memory::GuestMemory;
use roadrunner_core::{Deadline, Payload, Receipt, Region, TransferError};
use roadrunner_mem::{SharedPayload, SlotTransfer, Slots};
use std::fmt;

/// Bytes from which on a slot is handed over: taking its mapping out of one memory and putting it into another takes as
/// long as copying so many.
const HAND_OVER: u64 = 256 << 10;

/// A region of a function's memory that the function gave away: a reply, or what it sent with `GIVE`. It may be a slot
/// that the function had on loan, which can be handed over as it is.
pub struct Given<'f> {
    memory: GuestMemory<'f>,
    slots: Option<&'f mut Slots>,
    region: Region,
}

impl<'f> Given<'f> {
    /// # Errors
    /// [`OutOfBounds`](TransferError::OutOfBounds).
    pub(super) fn new(
        mut memory: GuestMemory<'f>,
        slots: Option<&'f mut Slots>,
        region: Region,
    ) -> Result<Self, TransferError> {
        region.span(&mut memory)?;
        Ok(Self {
            memory,
            slots,
            region,
        })
    }

    /// Where it lies in the function's memory.
    #[must_use]
    pub fn region(&self) -> Region {
        self.region
    }

    /// Whether it is a slot that can be handed over.
    #[must_use]
    pub fn is_slot(&self) -> bool {
        let loaned = |slots: &Slots| slots.is_loaned(self.region);
        self.slots.as_deref().is_some_and(loaned)
    }

    /// The bytes, for any transport. Those of a slot are copied, those of any other region may be exchanged.
    ///
    /// # Errors
    /// [`OutOfBounds`](TransferError::OutOfBounds) if the memory has shrunk since, which an honest one never does.
    pub fn payload(&mut self) -> Result<Payload<'_>, TransferError> {
        Payload::given(&mut self.memory, self.region)
    }

    /// The bytes, which the function keeps after all.
    pub(super) fn kept(&mut self) -> Result<Payload<'_>, TransferError> {
        Payload::kept(&mut self.memory, self.region)
    }

    /// Sends it to one receiver: a slot of 256 KiB or more is handed over, everything else goes the link's own way. The
    /// receiver gets it mapped where it receives with [`Function::receive`](super::Function::receive) or
    /// [`SlotTransfer::recv_with`].
    ///
    /// # Errors
    /// As for [`SlotTransfer::send_shared`] and [`send`](roadrunner_core::Transfer::send).
    pub fn send(
        mut self,
        link: &mut dyn SlotTransfer,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        if let Some(slots) = self.slots.as_deref_mut() {
            // What is not on loan is not handed over, but noted if it was before.
            if self.region.len() >= HAND_OVER || !slots.is_loaned(self.region) {
                let trust = link.trust();
                if let Some(payload) = slots.hand_over(&mut self.memory, self.region, trust)? {
                    let sent = link.send_shared(&payload, deadline);
                    if sent.is_err() {
                        // Should that fail, its content is lost, which given content may be.
                        slots.take_back(&mut self.memory, payload);
                    }
                    return sent;
                }
            }
        }
        link.send(self.payload()?, deadline)
    }

    /// Makes it a payload that any number of links can [send](SlotTransfer::send_shared), each of whose receivers sees it as its
    /// own: a slot is handed over, anything else copied once.
    ///
    /// # Errors
    /// As for [`Slots::share`]; [`NoRoom`](TransferError::NoRoom) for a function without slots. It is where it was then,
    /// to be sent in other ways.
    pub fn share(&mut self) -> Result<SharedPayload, TransferError> {
        let Some(slots) = self.slots.as_deref_mut() else {
            return Err(TransferError::NoRoom {
                len: self.region.len(),
                reason: "the function may have no slots".to_owned(),
            });
        };
        if slots.is_loaned(self.region) {
            if let Some(payload) = slots.hand_over(&mut self.memory, self.region, None)? {
                return Ok(payload);
            }
        }
        slots.share(&mut self.memory, self.region)
    }
}

impl fmt::Debug for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given")
            .field("region", &self.region)
            .field("is_slot", &self.is_slot())
            .finish_non_exhaustive()
    }
}
