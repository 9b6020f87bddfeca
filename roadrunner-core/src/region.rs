//! Where bytes are: a [`Region`] names them inside a linear memory, a [`Span`] is them.

use crate::error::TransferError;
use crate::memory::LinearMemory;
use std::fmt;

pub use crate::sys::Span;

/// An offset and a length inside a linear memory, in bytes.
///
/// Both come from guests and peers and may be anything; a region means nothing until it has been checked against the
/// present size of a memory, which every way to its bytes does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Region {
    offset: u64,
    len: u64,
}

impl Region {
    /// `len` bytes from `offset` on. Any values are allowed: nothing is checked yet.
    #[must_use]
    pub const fn new(offset: u64, len: u64) -> Self {
        Self { offset, len }
    }

    /// Bytes from the start of the memory.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Bytes in the region.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The offset after the last byte, or `None` if it does not fit 64 bits.
    #[must_use]
    pub const fn end(self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }

    /// Whether it lies within a memory of `memory` bytes. An empty region lies within up to and including the end.
    #[must_use]
    pub const fn fits(self, memory: u64) -> bool {
        match self.end() {
            Some(end) => end <= memory,
            None => false,
        }
    }

    /// The bytes of the region, checked against the present size of `memory`.
    ///
    /// # Errors
    /// [`OutOfBounds`](TransferError::OutOfBounds) if it does not lie within the memory.
    pub fn span<'m>(
        self,
        memory: &'m mut (dyn LinearMemory + 'm),
    ) -> Result<Span<'m>, TransferError> {
        Span::of(memory, self)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} + {} bytes", self.offset, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMemory;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;

    /// Numbers near the edges where arithmetic goes wrong.
    fn edge() -> impl Strategy<Value = u64> {
        let edges = prop_oneof![
            Just(0),
            Just(PAGE),
            Just(1 << 16),
            Just(1 << 31),
            Just(1 << 32),
            Just(u64::MAX)
        ];
        prop_oneof![
            (edges, -2_i64..=2).prop_map(|(edge, delta)| edge.wrapping_add_signed(delta)),
            any::<u64>(),
            0..200_u64,
        ]
    }

    proptest! {
        #[test]
        fn a_region_fits_exactly_when_its_end_does(offset in edge(), len in edge(), memory in edge()) {
            let fits = u128::from(offset) + u128::from(len) <= u128::from(memory);
            prop_assert_eq!(Region::new(offset, len).fits(memory), fits);
        }

        #[test]
        fn a_span_is_given_only_inside_the_memory(offset in edge(), len in edge()) {
            let mut memory = HostMemory::from([7_u8; 100]);
            let region = Region::new(offset, len);
            match region.span(&mut memory) {
                Ok(span) => {
                    prop_assert!(region.fits(100));
                    prop_assert_eq!(span.len() as u64, len);
                }
                Err(TransferError::OutOfBounds { memory, .. }) => {
                    prop_assert!(!region.fits(100));
                    prop_assert_eq!(memory, 100);
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
