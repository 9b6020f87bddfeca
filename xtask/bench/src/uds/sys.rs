//! The unsafe code of these benchmarks: what peers that know slices only need.
#![allow(unsafe_code)]

use roadrunner_core::Span;

/// The bytes of a span as a slice, for a peer that takes nothing else.
pub(crate) fn slice<'m>(memory: &'m mut Span<'_>) -> &'m mut [u8] {
    // SAFETY: a span is valid for its length, and borrowed here for as long as the slice is. The memories of these benchmarks
    // are buffers of this process alone, which nobody else writes to.
    unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.len()) }
}
