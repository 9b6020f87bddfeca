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
    #[inline]
    #[must_use]
    pub const fn new(offset: u64, len: u64) -> Self {
        Self { offset, len }
    }

    /// Bytes from the start of the memory.
    #[inline]
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Bytes in the region.
    #[inline]
    #[must_use]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether there is no byte in it.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The offset after the last byte, or `None` if it does not fit 64 bits.
    #[inline]
    #[must_use]
    pub const fn end(self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }

    /// Whether it lies within a memory of `memory` bytes. An empty region lies within up to and including the end.
    #[inline]
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
    #[inline]
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
    use crate::payload::Payload;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;

    /// Where arithmetic goes wrong: nothing, a page, a page of WebAssembly, and where 31 and 32 bits end.
    const EDGES: [u64; 5] = [0, PAGE, 64 << 10, 2 << 30, 4 << 30];

    fn near(edges: Vec<u64>) -> impl Strategy<Value = u64> {
        (proptest::sample::select(edges), -2_i64..=2)
            .prop_map(|(edge, delta)| edge.wrapping_add_signed(delta))
    }

    /// Numbers near the edges, and any others.
    fn edge() -> impl Strategy<Value = u64> {
        let mut edges = EDGES.to_vec();
        edges.push(u64::MAX);
        prop_oneof![2 => near(edges), 1 => any::<u64>(), 1 => 0..200_u64]
    }

    /// A size near an edge, and offset and length of a region, which often ends near that too.
    fn near_the_end() -> impl Strategy<Value = (u64, u64, u64)> {
        let size = near(EDGES.to_vec()).prop_filter("it is no size", |size| *size < 5 << 30);
        (size, edge(), proptest::option::of(edge()), -3_i64..=3).prop_map(
            |(size, offset, len, beyond)| {
                let rest = size.wrapping_sub(offset).wrapping_add_signed(beyond);
                (size, offset, len.unwrap_or(rest))
            },
        )
    }

    proptest! {
        #[test]
        fn a_region_fits_exactly_when_its_end_does(offset in edge(), len in edge(), memory in edge()) {
            let fits = u128::from(offset) + u128::from(len) <= u128::from(memory);
            prop_assert_eq!(Region::new(offset, len).fits(memory), fits);
        }

        /// The memory is as large as the edge; what is never touched costs nothing.
        #[test]
        fn a_span_near_an_edge_is_exactly_the_region((size, offset, len) in near_the_end()) {
            let mut memory = HostMemory::from(vec![0_u8; size as usize]);
            let region = Region::new(offset, len);
            let fits = u128::from(offset) + u128::from(len) <= u128::from(size);
            prop_assert_eq!(Payload::kept(&mut memory, region).is_ok(), fits);
            prop_assert_eq!(Payload::given(&mut memory, region).is_ok(), fits);
            prop_assert_eq!(memory.bytes(region).is_some(), fits);
            match region.span(&mut memory) {
                Ok(span) => {
                    prop_assert!(fits);
                    prop_assert_eq!(span.len() as u64, len);
                    span.copy_from_slice(&[1]);
                    span.split_at(span.len().saturating_sub(1)).1.copy_from_slice(&[2]);
                }
                Err(TransferError::OutOfBounds { region: told, memory }) => {
                    prop_assert!(!fits);
                    prop_assert_eq!((told, memory), (region, size));
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
            let byte = |at: u64| memory.as_slice().get(usize::try_from(at).ok()?).copied();
            if fits && len > 0 {
                let last = offset + len - 1;
                prop_assert_eq!(byte(last), Some(2));
                prop_assert!(len == 1 || byte(offset) == Some(1));
                prop_assert!(byte(last + 1).unwrap_or(0) == 0, "behind the end");
                prop_assert!(offset == 0 || byte(offset - 1) == Some(0), "before the start");
            }
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
