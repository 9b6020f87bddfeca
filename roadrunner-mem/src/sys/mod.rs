//! The unsafe code of this crate: mappings, the exchange of their pages, and pipes that refer to them.

mod exchange;
mod offer;
mod pipe;
mod scrub;
mod signal;
#[cfg(test)]
mod tests;
mod view;

#[cfg(test)]
pub(crate) use exchange::faults;
pub use exchange::Exchanged;
pub(crate) use exchange::{prefer_huge, swap_bytes, Movable, Pages};
pub(crate) use offer::{Ending, Offer};
pub(crate) use pipe::vmsplice;
pub(crate) use scrub::{clear, clear_past_caches, lower_priority, touch};
pub(crate) use signal::SigpipeBlocked;
pub(crate) use view::{is_touched, Sharing, View};

use nix::libc;
use roadrunner_core::{Backing, LinearMemory, Region, Sink, Span, TransferError};
use std::io;
use std::ptr::NonNull;

/// Bytes of a page (x86-64).
pub(crate) const PAGE: usize = 4096;
/// Bytes that one page table covers: between ranges at the same distance from such a boundary whole tables move.
pub(crate) const TABLE: usize = 2 << 20;

/// Private anonymous pages that belong to the host, cleared when they are made.
///
/// As a [`LinearMemory`] it is one whose pages may be exchanged, and it is a [`Sink`] too: for programs with no Wasm, and
/// for tests.
#[derive(Debug)]
pub struct PageBuffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its pages alone, and nothing about a mapping belongs to a thread.
unsafe impl Send for PageBuffer {}
// SAFETY: through a shared reference the pages are read at most (`LinearMemory::base` promises nothing to its caller
// that `&mut` does not back).
unsafe impl Sync for PageBuffer {}

impl PageBuffer {
    /// At least `len` bytes, rounded up to whole pages and to at least one, aligned to 2 MiB. Memory is taken up as it
    /// is touched.
    ///
    /// # Errors
    /// What mmap(2) said, or [`OutOfMemory`](io::ErrorKind::OutOfMemory) for a length that has no place.
    pub fn new(len: usize) -> io::Result<Self> {
        let no_place = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len = len
            .max(1)
            .checked_next_multiple_of(PAGE)
            .ok_or_else(no_place)?;
        let room = len.checked_add(TABLE).ok_or_else(no_place)?;
        let mut buffer = Self::map(room)?;
        let head = buffer.start.as_ptr().align_offset(TABLE);
        // Both cuts leave what is kept, as they are whole pages and head < TABLE.
        drop(buffer.split_front(head));
        drop(buffer.split_back(len));
        Ok(buffer)
    }

    fn map(len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping where the kernel finds room takes no memory from anybody.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Gives the first `at` bytes to a buffer of their own.
    pub(crate) fn split_front(&mut self, at: usize) -> Option<Self> {
        let front = Self {
            start: self.start,
            len: at,
        };
        // SAFETY: every caller passes less than `len`.
        self.start = unsafe { self.start.add(at) };
        self.len -= at;
        front.or_nothing()
    }

    /// Gives what follows the first `at` bytes to a buffer of its own.
    fn split_back(&mut self, at: usize) -> Option<Self> {
        let back = Self {
            // SAFETY: every caller passes at most `len`.
            start: unsafe { self.start.add(at) },
            len: self.len - at,
        };
        self.len = at;
        back.or_nothing()
    }

    fn or_nothing(self) -> Option<Self> {
        if self.len > 0 {
            return Some(self);
        }
        // An empty mapping cannot be unmapped.
        std::mem::forget(self);
        None
    }

    /// The first `len` bytes, a multiple of the page size above 0, and what is left of the others from the next page table
    /// on. `len` is at most its own.
    pub(crate) fn cut(mut self, len: usize) -> (Self, Option<Self>) {
        debug_assert!(len > 0 && len <= self.len && len % PAGE == 0);
        let others = len.next_multiple_of(TABLE);
        let rest = if others < self.len {
            self.split_back(others)
        } else {
            None
        };
        drop(self.split_back(len));
        (self, rest)
    }

    /// How far into a page table it starts.
    pub(crate) fn lies_at(&self) -> usize {
        self.start.as_ptr() as usize % TABLE
    }

    /// All its bytes.
    pub fn span(&mut self) -> Span<'_> {
        // SAFETY: `len` bytes from `start` on stay mapped, readable and writable, until this is dropped, which the
        // borrow excludes; no reference to them is made while the span lives, as that needs a borrow too.
        unsafe { Span::from_raw_parts(self.start, self.len) }
    }

    /// All its bytes, to look at.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped and initialised (by the kernel, with zeros) for `len` bytes. They are written only through
        // spans and memories, which borrow this mutably.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        // SAFETY: the pages are this value's own, whole pages, and not used after this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

// SAFETY: `start` and `len` describe one private anonymous mapping (possibly of several VMAs after exchanges), readable
// and writable until drop; exchanges keep it mapped at the same place. Page-aligned, as mmap gives it and `new` cuts it.
unsafe impl LinearMemory for PageBuffer {
    fn base(&self) -> NonNull<u8> {
        self.start
    }

    fn len(&self) -> usize {
        self.len
    }

    fn backing(&self) -> Backing {
        Backing::PrivateAnonymous
    }
}

/// Holds one payload at a time, at its start. The pages stay from payload to payload unless one needs more of them, which
/// then take their place.
impl Sink for PageBuffer {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        let no_room = |reason: String| TransferError::NoRoom { len, reason };
        let count = usize::try_from(len).map_err(|error| no_room(error.to_string()))?;
        if count > self.len {
            *self = Self::new(count).map_err(|error| no_room(error.to_string()))?;
        }
        Ok(Region::new(0, len))
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        self
    }

    fn release(&mut self, _region: Region) {}
}
