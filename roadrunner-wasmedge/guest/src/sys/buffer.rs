use crate::buffer::{layout_for, LARGE, PAGE};
use crate::kept::{self, kept};
use crate::{slots, OutOfMemory};
use std::alloc::Layout;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes that the function owns and can give away: to the host as a reply, to another function by [`send`](crate::send).
///
/// A buffer is part of the function's own memory, so it is used as the slice of bytes that it dereferences to. It comes
/// from the global allocator. From 1 MiB on it starts at a multiple of 2 MiB, so that the host can hand over its pages
/// instead of copying them; smaller ones are aligned to 16 bytes. One from [`loan`](crate::loan()) has a slot of the host
/// behind it.
///
/// Allocation is fallible: a function that runs out of memory can say so instead of dying.
///
/// ```
/// # fn main() -> Result<(), roadrunner_guest::OutOfMemory> {
/// use roadrunner_guest::Buffer;
///
/// let mut picture = Buffer::zeroed(1 << 20)?;
/// picture[0] = 255;
/// picture.truncate(4);
/// assert_eq!(*picture, [255, 0, 0, 0]);
/// # Ok(())
/// # }
/// ```
pub struct Buffer {
    // Invariants: where `layout.size()` is not 0, `ptr` was allocated by the global allocator with exactly `layout`, and
    // nobody else frees or uses that block; where it is 0, `ptr` is dangling and there is no block. `len` is at most
    // `layout.size()`, and the first `len` bytes are initialised.
    ptr: NonNull<u8>,
    len: usize,
    layout: Layout,
    /// The host may have a slot mapped here, so it is asked before the block goes back to the allocator.
    slot: bool,
}

// SAFETY: a `Buffer` is the only owner of its block, which is plain bytes without thread affinity; the global allocator
// may be used from any thread.
unsafe impl Send for Buffer {}
// SAFETY: through `&Buffer` the bytes can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the memory cannot be had.
    pub fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        Self::allocate(len, 1, Content::Zeros)
    }

    /// An empty buffer with room for `capacity` bytes, whose content is undefined until it is written.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the memory cannot be had.
    pub fn with_capacity(capacity: usize) -> Result<Self, OutOfMemory> {
        Self::with_capacity_aligned(capacity, 1)
    }

    /// As [`Buffer::with_capacity`], at a multiple of `align` bytes or of the alignment that buffers of that size have
    /// anyway, whichever is larger.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the memory cannot be had or `align` is not a power of two.
    pub fn with_capacity_aligned(capacity: usize, align: usize) -> Result<Self, OutOfMemory> {
        Self::allocate(capacity, align, Content::Undefined)
    }

    fn allocate(bytes: usize, align: usize, content: Content) -> Result<Self, OutOfMemory> {
        let out_of_memory = OutOfMemory { bytes };
        let layout = layout_for(bytes, align).ok_or(out_of_memory)?;
        // SAFETY: `layout_for` never gives a layout of size 0.
        let block = unsafe {
            match content {
                Content::Zeros => std::alloc::alloc_zeroed(layout),
                Content::Undefined => std::alloc::alloc(layout),
            }
        };
        Ok(Self {
            ptr: NonNull::new(block).ok_or(out_of_memory)?,
            len: match content {
                Content::Zeros => bytes,
                Content::Undefined => 0,
            },
            layout,
            slot: false,
        })
    }

    /// A buffer of `len` unspecified bytes, in a slot if the host gives one.
    pub(crate) fn loaned(len: usize) -> Result<Self, OutOfMemory> {
        let out_of_memory = OutOfMemory { bytes: len };
        if len < LARGE {
            return Self::zeroed(len);
        }
        if let Some(address) = slots::loan_again(len) {
            let block = kept().take(address);
            match block {
                // By the ABI the host has written every byte of a block that it loans.
                Some(mut buffer) if buffer.capacity() >= len => {
                    buffer.len = len;
                    return Ok(buffer);
                }
                // Released as it is dropped.
                Some(_) => {}
                None => {
                    slots::release(address);
                }
            }
        }
        let bytes = len.checked_next_multiple_of(PAGE).ok_or(out_of_memory)?;
        let mut buffer = Self::with_capacity_aligned(bytes, PAGE).map_err(|_| out_of_memory)?;
        buffer.slot = slots::bind(buffer.spare_capacity_mut());
        if !buffer.slot {
            buffer.spare_capacity_mut().fill(MaybeUninit::new(0));
        }
        // SAFETY: the capacity is `len` rounded up. By the ABI the host has written every byte of a block that it took,
        // and all others were filled just now.
        unsafe { buffer.set_len(len) };
        Ok(buffer)
    }

    /// From now on the host is asked before the block is freed: what it gave may lie in a slot, which has whole pages.
    pub(crate) fn came_from_the_host(&mut self) {
        self.slot = self.capacity() >= PAGE;
    }

    /// The number of bytes that fit in without another allocation.
    pub fn capacity(&self) -> usize {
        self.layout.size()
    }

    /// Where the host finds the block. It may use the whole block, not only the content, through this address.
    pub(crate) fn address(&self) -> usize {
        self.ptr.as_ptr() as usize
    }

    /// Shortens the buffer to its first `len` bytes; does nothing if it is no longer than that.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The room behind the content, to be written before [`Buffer::set_len`] takes it in.
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: `len <= layout.size()`, so the start and the length lie in the one block that this buffer owns (or both
        // are 0 at a dangling pointer); `&mut self` makes the slice exclusive; `MaybeUninit` needs no initialised bytes.
        unsafe {
            let start = self.ptr.as_ptr().add(self.len).cast();
            std::slice::from_raw_parts_mut(start, self.layout.size() - self.len)
        }
    }

    /// Makes the buffer `len` bytes long.
    ///
    /// # Safety
    /// `len` is at most [`Buffer::capacity`], and the first `len` bytes have been written.
    pub unsafe fn set_len(&mut self, len: usize) {
        debug_assert!(len <= self.capacity());
        self.len = len;
    }

    /// Appends `bytes`, moving the content to a larger block if they do not fit.
    ///
    /// # Errors
    /// [`OutOfMemory`] if no larger block can be had; the buffer is unchanged then.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> Result<(), OutOfMemory> {
        self.reserve(bytes.len())?;
        // SAFETY: `reserve` left room for `bytes.len()` bytes at `len`; the source is a shared slice and the target
        // exclusively ours, so they do not overlap. Afterwards the first `len + bytes.len()` bytes are initialised.
        unsafe {
            let end = self.ptr.as_ptr().add(self.len);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len());
            self.set_len(self.len + bytes.len());
        }
        Ok(())
    }
}

/// What a new block holds.
#[derive(Clone, Copy)]
enum Content {
    Zeros,
    Undefined,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: by the invariants the first `len` bytes at `ptr` are one initialised block that lives as long as `self`
        // and is not written while `&self` is borrowed; a dangling `ptr` is not null and goes with a `len` of 0.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

/// Takes over the vector's memory; nothing is copied here. Memory that a vector allocated is not aligned to pages, however,
/// so the host will copy what a [`Buffer`] from [`Buffer::zeroed`] or [`Buffer::with_capacity`] can hand over.
impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        let Ok(layout) = Layout::array::<u8>(bytes.capacity()) else {
            unreachable!("a vector never holds more than isize::MAX bytes");
        };
        let mut bytes = ManuallyDrop::new(bytes);
        // SAFETY: `as_mut_ptr` of a vector is never null. The invariants hold: a `Vec<u8>` with a capacity allocated its
        // buffer from the global allocator with the layout of `[u8; capacity]` (documented in "Guarantees" of `Vec`), one
        // without has a dangling pointer; its first `len` bytes are initialised; and it is never dropped or used again.
        let ptr = unsafe { NonNull::new_unchecked(bytes.as_mut_ptr()) };
        Self {
            ptr,
            len: bytes.len(),
            layout,
            slot: false,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.slot && slots::release(self.address()) {
            // The host keeps the block until it loans it, or puts another payload there. The new owner's invariants are
            // those of the old one, which ends here.
            return kept::keep(Buffer {
                ptr: self.ptr,
                len: 0,
                layout: self.layout,
                slot: true,
            });
        }
        if self.layout.size() != 0 {
            // SAFETY: by the invariants the block was allocated by the global allocator with this layout and is ours
            // alone; `drop` runs once.
            unsafe { std::alloc::dealloc(self.ptr.as_ptr(), self.layout) }
        }
    }
}
