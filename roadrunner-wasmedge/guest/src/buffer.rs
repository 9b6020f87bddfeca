//! What needs no unsafe code about [`Buffer`].

use crate::Buffer;
use std::alloc::Layout;
use std::{fmt, io};

/// From this size on a buffer's pages are worth handing over; below it a copy is as quick.
pub(crate) const LARGE: usize = 1 << 20;

/// What slots are made of.
pub(crate) const PAGE: usize = 4096;

/// The alignment of large buffers: the kernel moves page tables quickest in steps of 2 MiB.
const LARGE_ALIGN: usize = 2 << 20;

/// The alignment of small buffers: the widest value of WebAssembly (`v128`), and what C's `malloc` promises on wasm32.
const SMALL_ALIGN: usize = 16;

/// The layout of a block of `bytes` at a multiple of `align` or more. Never of size 0, so that every block has an address
/// of its own. `None` where `align` is not a power of two or Rust allows no block so large.
pub(crate) fn layout_for(bytes: usize, align: usize) -> Option<Layout> {
    let own = if bytes >= LARGE {
        LARGE_ALIGN
    } else {
        SMALL_ALIGN
    };
    // The larger of two powers of two; `align` alone decides whether it is one.
    Layout::from_size_align(bytes.max(1), align)
        .ok()?
        .align_to(own)
        .ok()
}

/// A block of memory could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The length in bytes that was asked for.
    pub bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the function has no room for a buffer of {} bytes",
            self.bytes
        )
    }
}

impl std::error::Error for OutOfMemory {}

impl From<OutOfMemory> for io::Error {
    fn from(error: OutOfMemory) -> Self {
        io::Error::new(io::ErrorKind::OutOfMemory, error)
    }
}

impl Buffer {
    /// Makes room for `additional` more bytes, and for some more than that, so that a loop of small additions copies
    /// each byte only a few times.
    ///
    /// # Errors
    /// [`OutOfMemory`] if no larger block can be had; the buffer is unchanged then.
    pub fn reserve(&mut self, additional: usize) -> Result<(), OutOfMemory> {
        if additional <= self.capacity() - self.len() {
            return Ok(());
        }
        let bytes = self.len().saturating_add(additional);
        let roomy = bytes.max(self.capacity().saturating_mul(2));
        let mut larger = Buffer::with_capacity(roomy).or_else(|_| Buffer::with_capacity(bytes))?;
        larger.extend_from_slice(self)?;
        *self = larger;
        Ok(())
    }
}

/// An empty buffer without memory.
impl Default for Buffer {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish()
    }
}

/// Appends; fails with [`io::ErrorKind::OutOfMemory`] where the memory cannot be had.
impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn large_buffers_start_on_2_mib_and_small_ones_on_16() {
        for (len, align) in [
            (0, 16),
            (1, 16),
            (LARGE - 1, 16),
            (LARGE, LARGE_ALIGN),
            (LARGE + 1, LARGE_ALIGN),
        ] {
            assert_eq!(
                layout_for(len, 1).map(|l| (l.size(), l.align())),
                Some((len.max(1), align)),
                "{len}"
            );
            for buffer in [Buffer::zeroed(len), Buffer::with_capacity(len)] {
                assert_eq!(
                    buffer.expect("memory").as_ptr() as usize % align,
                    0,
                    "{len}"
                );
            }
        }
    }

    #[test]
    fn a_larger_alignment_than_the_own_one_is_kept() {
        assert_eq!(layout_for(10, 4096).map(|l| l.align()), Some(4096));
        assert_eq!(layout_for(LARGE, 4 << 20).map(|l| l.align()), Some(4 << 20));
        let buffer = Buffer::with_capacity_aligned(10, 1 << 16).expect("memory");
        assert_eq!(buffer.as_ptr() as usize % (1 << 16), 0);
    }

    #[test]
    fn what_cannot_be_had_is_an_error_and_not_an_abort() {
        for bytes in [
            usize::MAX,
            isize::MAX as usize,
            isize::MAX as usize - LARGE_ALIGN,
        ] {
            assert_eq!(Buffer::zeroed(bytes).err(), Some(OutOfMemory { bytes }));
            assert_eq!(
                Buffer::with_capacity(bytes).err(),
                Some(OutOfMemory { bytes })
            );
        }
        for align in [0, 3, 24] {
            assert_eq!(
                Buffer::with_capacity_aligned(8, align).err(),
                Some(OutOfMemory { bytes: 8 })
            );
        }
        let mut buffer = Buffer::from(vec![1, 2, 3]);
        assert!(buffer.reserve(usize::MAX).is_err());
        assert_eq!(*buffer, [1, 2, 3]);
    }

    #[test]
    fn a_vector_is_taken_over_where_it_lies() {
        let mut vector = Vec::with_capacity(100);
        vector.extend_from_slice(b"pages");
        let (address, capacity) = (vector.as_ptr(), vector.capacity());
        let buffer = Buffer::from(vector);
        assert_eq!(
            (buffer.as_ptr(), buffer.capacity(), &*buffer),
            (address, capacity, &b"pages"[..])
        );
        assert!(Buffer::from(Vec::new()).is_empty());
    }

    #[test]
    fn writing_grows_across_the_border_between_small_and_large() {
        let mut buffer = Buffer::default();
        let mut expected = Vec::new();
        for round in 0..40_u32 {
            let part = vec![round as u8; 40_000];
            buffer.write_all(&part).expect("memory");
            expected.extend_from_slice(&part);
        }
        assert!(*buffer == *expected);
        assert_eq!(buffer.as_ptr() as usize % LARGE_ALIGN, 0);
    }

    #[test]
    fn truncating_keeps_the_head_and_never_lengthens() {
        let mut buffer = Buffer::from(b"roadrunner".to_vec());
        buffer.truncate(100);
        assert_eq!(&*buffer, b"roadrunner");
        buffer.truncate(4);
        assert_eq!(&*buffer, b"road");
        assert_eq!(buffer.spare_capacity_mut().len(), buffer.capacity() - 4);
    }

    #[test]
    fn a_zeroed_buffer_is_zero_even_in_memory_used_before() {
        for len in [100, LARGE] {
            let mut used = Buffer::zeroed(len).expect("memory");
            used.fill(0xaa);
            drop(used);
            assert!(Buffer::zeroed(len)
                .expect("memory")
                .iter()
                .all(|byte| *byte == 0));
        }
    }
}
