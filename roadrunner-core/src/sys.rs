//! The unsafe code of this crate: bytes that somebody else may write are reached through raw pointers, here only.

use crate::error::TransferError;
use crate::memory::{Backing, HostMemory, LinearMemory};
use crate::region::Region;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Bytes of a linear memory, or of any buffer, that somebody else may write between two looks at them.
///
/// Never a `&[u8]`: a guest, or a peer that shares the pages, may change them, and a Rust reference would promise that
/// nobody does. It is copied from and to, or handed to a system call by its address.
#[derive(Debug, Clone, Copy)]
pub struct Span<'m> {
    start: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'m mut [u8]>,
}

impl<'m> Span<'m> {
    /// The bytes of `region`.
    #[inline]
    pub(crate) fn of(
        memory: &'m mut (dyn LinearMemory + 'm),
        region: Region,
    ) -> Result<Self, TransferError> {
        let size = memory.len();
        if !region.fits(size as u64) {
            return Err(TransferError::OutOfBounds {
                region,
                memory: size as u64,
            });
        }
        // `fits` bounds both by `size`, a usize; see the 64-bit assertion in lib.rs.
        let (offset, len) = (region.offset() as usize, region.len() as usize);
        // SAFETY: the implementer of LinearMemory promises `len()` bytes in one allocation from `base()` on, and
        // `offset <= len()` was checked above, so the sum stays inside it or one past its end.
        let start = unsafe { memory.base().add(offset) };
        Ok(Self {
            start,
            len,
            memory: PhantomData,
        })
    }

    /// The bytes from `start` on.
    ///
    /// # Safety
    /// For as long as `'m` lasts, `len` bytes from `start` on must stay mapped, readable and writable, and no Rust
    /// reference to them may be used.
    #[inline]
    #[must_use]
    pub const unsafe fn from_raw_parts(start: NonNull<u8>, len: usize) -> Self {
        Self {
            start,
            len,
            memory: PhantomData,
        }
    }

    /// The bytes of a slice.
    #[must_use]
    pub fn from_slice(slice: &'m mut [u8]) -> Self {
        let len = slice.len();
        Self {
            start: NonNull::from(slice).cast(),
            len,
            memory: PhantomData,
        }
    }

    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            start: NonNull::dangling(),
            len: 0,
            memory: PhantomData,
        }
    }

    /// How many bytes.
    #[inline]
    #[must_use]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Where they start. Valid for [`len`](Self::len) bytes; for a system call that reads or writes them.
    #[inline]
    #[must_use]
    pub const fn as_ptr(self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The first `at` bytes and the rest; all and none if there are fewer.
    #[inline]
    #[must_use]
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len);
        let first = Self { len: at, ..self };
        // SAFETY: `at <= self.len`, and `self.len` bytes from `start` on belong to one allocation, by the way every
        // Span is made.
        let start = unsafe { self.start.add(at) };
        let rest = Self {
            start,
            len: self.len - at,
            ..self
        };
        (first, rest)
    }

    /// Copies as many bytes as both have, from `source`, and says how many. The two may overlap.
    #[inline]
    pub fn copy_from(self, source: Span<'_>) -> usize {
        let len = self.len.min(source.len);
        // SAFETY: both are valid for at least `len` bytes, by the way every Span is made; `copy` allows overlap, and
        // bytes have no alignment. Someone who writes them meanwhile changes which bytes are copied and nothing else.
        unsafe { std::ptr::copy(source.start.as_ptr(), self.start.as_ptr(), len) };
        len
    }

    /// Copies as many bytes as both have, from `source`, for a reader on another core, and says how many. Where the two
    /// overlap, other bytes may come.
    ///
    /// On x86-64 the stores pass the caches by: a line that the other core still holds, from what it read there before, is
    /// not fetched to be overwritten. Between cores that share no cache that takes several times as long as the copy. Less
    /// than 8 KiB is read sooner out of this core's cache, and copied as by [`copy_from`](Self::copy_from).
    #[inline]
    pub fn copy_past_caches_from(self, source: Span<'_>) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.len.min(source.len) >= 8 << 10 {
            return self.stream_from(source);
        }
        self.copy_from(source)
    }

    #[cfg(target_arch = "x86_64")]
    fn stream_from(self, source: Span<'_>) -> usize {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        const PART: usize = size_of::<__m128i>();
        /// A line of a cache.
        const STEP: usize = 4 * PART;
        let len = self.len.min(source.len);
        let until_aligned = self.as_ptr().align_offset(PART).min(len);
        let (head, rest) = self.split_at(until_aligned);
        let (source_head, source_rest) = source.split_at(until_aligned);
        head.copy_from(source_head);
        let whole = (len - until_aligned) / STEP * STEP;
        let (body, tail) = rest.split_at(whole);
        let (source_body, source_tail) = source_rest.split_at(whole);
        let (to, from) = (body.as_ptr(), source_body.as_ptr());
        for at in (0..whole).step_by(STEP) {
            // SAFETY: both spans are valid for `whole` bytes, by the way they were split, and `at + STEP <= whole`. `to` is
            // aligned to 16 bytes, as these stores need it, by the split above; the loads need no alignment. The fence
            // below puts the stores before whatever tells of them. SSE2 is part of x86-64. Someone who writes the bytes
            // meanwhile changes which are copied and nothing else.
            unsafe {
                let part = |number: usize| _mm_loadu_si128(from.add(at + number * PART).cast());
                let parts = [part(0), part(1), part(2), part(3)];
                for (number, part) in parts.into_iter().enumerate() {
                    _mm_stream_si128(to.add(at + number * PART).cast(), part);
                }
            }
        }
        // SAFETY: SSE is part of x86-64, and a fence reaches no memory.
        unsafe { _mm_sfence() };
        tail.copy_from(source_tail);
        len
    }

    /// Copies as many bytes as both have, out into `slice`, and says how many.
    #[inline]
    pub fn copy_to_slice(self, slice: &mut [u8]) -> usize {
        Span::from_slice(slice).copy_from(self)
    }

    /// Copies as many bytes as both have, in from `slice`, and says how many.
    #[inline]
    pub fn copy_from_slice(self, slice: &[u8]) -> usize {
        let len = self.len.min(slice.len());
        // SAFETY: `slice` is valid for `len` reads and `self` for `len` writes; `copy` allows overlap.
        unsafe { std::ptr::copy(slice.as_ptr(), self.start.as_ptr(), len) };
        len
    }
}

/// A plain buffer on the host that behaves like a linear memory; see [`crate::HostMemory`], which wraps it.
#[derive(Debug)]
pub(crate) struct HeapBytes {
    start: NonNull<u8>,
    len: usize,
}

impl HeapBytes {
    pub(crate) fn new(bytes: Box<[u8]>) -> Self {
        let len = bytes.len();
        let start = NonNull::from(Box::leak(bytes)).cast();
        Self { start, len }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `new` leaked a box of `len` initialised bytes, which live until `drop`. They are written only through
        // Spans, which borrow the memory mutably, so none is alive while `self` is borrowed shared.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `self` is borrowed mutably: nobody else reads or writes the bytes meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for HeapBytes {
    fn drop(&mut self) {
        let bytes = std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len);
        // SAFETY: `new` leaked exactly this box, and it is taken back once, here.
        drop(unsafe { Box::from_raw(bytes) });
    }
}

// SAFETY: HeapBytes owns its bytes as the box did that it was made of; a `Box<[u8]>` is Send.
unsafe impl Send for HeapBytes {}
// SAFETY: through a shared reference the bytes are only read (`as_slice`); writing goes through `&mut`.
unsafe impl Sync for HeapBytes {}

// SAFETY: `base` and `len` describe the box leaked in `HeapBytes::new`, which stays where it is, readable and writable,
// while the HostMemory is borrowed: only `&mut` methods replace it. It is Opaque, so nobody replaces its pages.
unsafe impl LinearMemory for HostMemory {
    fn base(&self) -> NonNull<u8> {
        self.heap().start
    }

    fn len(&self) -> usize {
        self.heap().len
    }

    fn backing(&self) -> Backing {
        Backing::Opaque
    }
}

/// The first bytes of a linear memory as one of its own, so that tests have one that grows in place.
#[cfg(feature = "testing")]
pub(crate) struct Part {
    memory: Box<dyn LinearMemory + Send>,
    len: usize,
}

#[cfg(feature = "testing")]
impl Part {
    /// Shows nothing yet.
    pub(crate) fn of(memory: Box<dyn LinearMemory + Send>) -> Self {
        Self { memory, len: 0 }
    }

    /// Shows the first `len` bytes.
    pub(crate) fn show(&mut self, len: usize) {
        assert!(len <= self.memory.len(), "there are as many");
        self.len = len;
    }

    /// Up to `count` bytes behind those that it shows.
    pub(crate) fn beyond(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count.min(self.memory.len() - self.len)];
        let region = Region::new(self.len as u64, bytes.len() as u64);
        if let Ok(span) = Span::of(&mut *self.memory, region) {
            span.copy_to_slice(&mut bytes);
        }
        bytes
    }
}

// SAFETY: `show` keeps `len` within the inner memory, whose implementer promises for all of it, from the same base on,
// what has to be promised for a part. Only a borrower of this one writes to it, as the inner memory is borrowed nowhere
// else.
#[cfg(feature = "testing")]
unsafe impl LinearMemory for Part {
    fn base(&self) -> NonNull<u8> {
        self.memory.base()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn backing(&self) -> Backing {
        self.memory.backing()
    }

    fn backing_of(&self, region: Region) -> Backing {
        self.memory.backing_of(region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_copies_no_more_than_both_have() {
        let mut long = [1_u8, 2, 3, 4];
        let mut short = [0_u8; 2];
        let copied = Span::from_slice(&mut short).copy_from(Span::from_slice(&mut long));
        assert_eq!((copied, short), (2, [1, 2]));
        assert_eq!(Span::from_slice(&mut long).copy_from_slice(&[9]), 1);
        assert_eq!(long, [9, 2, 3, 4]);
    }

    #[test]
    fn what_is_copied_past_caches_is_there_at_any_alignment_and_nothing_beside_it() {
        for start in 0..17 {
            for offset in [0, 1, 9] {
                for len in [0, 1, 200, 8191, 8192, 8193, 8207, 8255, 8256, 20_001] {
                    let mut from: Vec<u8> = (0..offset + len).map(|at| at as u8 | 1).collect();
                    let mut into = vec![0; start + len + 100];
                    let into_span = Span::from_slice(&mut into).split_at(start).1;
                    let source = Span::from_slice(&mut from[offset..]);
                    let copied = into_span.split_at(len).0.copy_past_caches_from(source);
                    let (before, rest) = into.split_at(start);
                    let (there, behind) = rest.split_at(len);
                    assert_eq!(copied, len);
                    assert!(there == &from[offset..], "{start} {offset} {len}");
                    assert!(before.iter().chain(behind).all(|byte| *byte == 0));
                }
            }
        }
        let (mut short, mut long) = ([0; 9000], [7; 20_000]);
        let copied =
            Span::from_slice(&mut short).copy_past_caches_from(Span::from_slice(&mut long));
        assert_eq!((copied, short), (9000, [7; 9000]));
    }

    #[test]
    fn splitting_beyond_the_end_leaves_nothing() {
        let mut bytes = [1_u8, 2, 3];
        let (first, rest) = Span::from_slice(&mut bytes).split_at(9);
        assert_eq!((first.len(), rest.len()), (3, 0));
        let (first, rest) = first.split_at(1);
        let mut out = [0; 2];
        assert_eq!(
            (first.len(), rest.copy_to_slice(&mut out), out),
            (1, 2, [2, 3])
        );
    }
}
