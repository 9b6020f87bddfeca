//! Links that slots can go by.

use super::{SharedPayload, Slots, Trust};
use roadrunner_core::{Deadline, Delivery, Receipt, Sink, Transfer, TransferError};

/// A link that carries payloads in segments: between two threads of a process, or two processes of a host.
pub trait SlotTransfer: Transfer {
    /// Sends a payload that was [handed over](Slots::hand_over) or [shared](Slots::share). It stays the caller's as well, to
    /// be sent by other links, or dropped.
    ///
    /// # Errors
    /// As for [`send`](Transfer::send); [`Refused`](TransferError::Refused) for one that belongs to another trusted
    /// link.
    fn send_shared(
        &mut self,
        payload: &SharedPayload,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError>;

    /// Receives like [`recv`](Transfer::recv), and maps what was sent in a segment into the sink's memory, whose slots
    /// these are. Such a region is given back by [`Slots::release`].
    ///
    /// # Errors
    /// As for [`recv`](Transfer::recv).
    fn recv_with(
        &mut self,
        slots: &mut Slots,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError>;

    /// What [`Slots::hand_over`] needs to leave mappings where they are; `None` for a strict link.
    fn trust(&self) -> Option<Trust>;
}
