//! What is sent.

use crate::error::TransferError;
use crate::memory::LinearMemory;
use crate::region::{Region, Span};
use std::fmt;

/// The bytes of one message: a region of a linear memory, checked when this was made, borrowed until `send` returns.
///
/// A payload is *kept* or *given*. The source region of either may be overwritten once `send` has returned `Ok`. What
/// a kept one holds stays as it was; of a given one the transport may take the pages, and what the region then holds
/// is undefined (never another function's bytes on a strict link). When `send` fails and the link is still open, a
/// given payload is where it was.
pub struct Payload<'m> {
    memory: &'m mut (dyn LinearMemory + 'm),
    region: Region,
    given: bool,
}

impl<'m> Payload<'m> {
    /// The bytes of `region`, which the sender keeps.
    ///
    /// # Errors
    /// [`OutOfBounds`](TransferError::OutOfBounds) if the region does not lie within the memory.
    #[inline]
    pub fn kept(
        memory: &'m mut (dyn LinearMemory + 'm),
        region: Region,
    ) -> Result<Self, TransferError> {
        Self::checked(memory, region, false)
    }

    /// The bytes of `region`, which the sender gives away.
    ///
    /// # Errors
    /// [`OutOfBounds`](TransferError::OutOfBounds) if the region does not lie within the memory.
    #[inline]
    pub fn given(
        memory: &'m mut (dyn LinearMemory + 'm),
        region: Region,
    ) -> Result<Self, TransferError> {
        Self::checked(memory, region, true)
    }

    #[inline]
    fn checked(
        memory: &'m mut (dyn LinearMemory + 'm),
        region: Region,
        given: bool,
    ) -> Result<Self, TransferError> {
        region.span(memory)?;
        Ok(Self {
            memory,
            region,
            given,
        })
    }

    /// Bytes in the payload.
    #[inline]
    #[must_use]
    pub fn len(&self) -> u64 {
        self.region.len()
    }

    /// Whether there is no byte in it.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.region.is_empty()
    }

    /// Whether the sender gave the bytes away.
    #[inline]
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.given
    }

    /// Where it lies in [`memory`](Self::memory).
    #[inline]
    #[must_use]
    pub fn region(&self) -> Region {
        self.region
    }

    /// The memory that it lies in.
    #[inline]
    pub fn memory(&mut self) -> &mut (dyn LinearMemory + 'm) {
        self.memory
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`OutOfBounds`](TransferError::OutOfBounds) if the memory has shrunk since, which an honest one never does.
    #[inline]
    pub fn span(&mut self) -> Result<Span<'_>, TransferError> {
        self.region.span(self.memory)
    }
}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("region", &self.region)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}
