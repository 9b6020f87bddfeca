//! Pages that were a guest's and are the host's: taken out of a linear memory, so that the guest cannot change them
//! while the kernel refers to them.

use nix::errno::Errno;
use nix::libc;
use roadrunner_core::{Backing, LinearMemory, Region, Span, TransferError};
use std::io;
use std::ptr::NonNull;

/// Bytes of a page (x86-64).
pub(crate) const PAGE: usize = 4096;
/// Between ranges at the same distance from this boundary, whole page tables move.
const PAGE_TABLE: usize = 2 << 20;

/// Whole private anonymous pages that belong to nobody else, one mapping.
#[derive(Debug)]
pub(crate) struct PageBuffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its pages alone, and nothing about a mapping belongs to a thread.
unsafe impl Send for PageBuffer {}
// SAFETY: a shared reference gives access to none of the pages.
unsafe impl Sync for PageBuffer {}

impl PageBuffer {
    /// Takes the pages of `region`, and puts those of `replacement` in their place as far as they go, fresh ones
    /// behind. The memory stays readable and writable throughout.
    ///
    /// # Errors
    /// What the kernel said, or that the region is not whole pages that may be taken; the memory is then as it was. The
    /// kernel refuses a region that earlier moves left in several mappings (`EFAULT`).
    pub(crate) fn take(
        memory: &mut dyn LinearMemory,
        region: Region,
        replacement: Option<Self>,
    ) -> Result<Self, TransferError> {
        let pages = whole_pages(memory, region)?;
        let taken = Self::move_from(pages).map_err(|source| TransferError::Io {
            doing: "take the payload's pages",
            source,
        })?;
        if let Some(mut replacement) = replacement {
            replacement.truncate(pages.len());
            // Without it the guest has fresh pages: slower, not wrong.
            let _ = replacement.move_to(pages);
        }
        Ok(taken)
    }

    /// Puts the pages into `region`, which has as many.
    pub(crate) fn put_back(
        self,
        memory: &mut dyn LinearMemory,
        region: Region,
    ) -> Result<(), TransferError> {
        let pages = whole_pages(memory, region)?;
        if let Err(mut buffer) = self.move_to(pages) {
            pages.copy_from(buffer.span());
        }
        Ok(())
    }

    /// Its bytes.
    pub(crate) fn span(&mut self) -> Span<'_> {
        // SAFETY: `len` bytes from `start` on are mapped readable and writable until this is dropped, which the borrow
        // excludes, and no reference to them is ever made.
        unsafe { Span::from_raw_parts(self.start, self.len) }
    }

    /// Leaves empty pages behind. All or nothing: without `MREMAP_FIXED` the kernel moves one mapping or none.
    fn move_from(pages: Span<'_>) -> io::Result<Self> {
        let hint = place_for(pages)?;
        // SAFETY: the source is whole pages of a PrivateAnonymous memory (`whole_pages`), which its implementer lets us
        // replace; DONTUNMAP leaves fresh ones. The kernel chooses a target where nothing is mapped; the hint binds it
        // to nothing.
        let start = unsafe {
            remap(
                pages.as_ptr(),
                pages.len(),
                hint,
                libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP,
            )
        }?;
        Ok(Self {
            start,
            len: pages.len(),
        })
    }

    /// Moves the pages over the first ones of `pages`; gives them back if that fails.
    fn move_to(mut self, pages: Span<'_>) -> Result<(), Self> {
        self.truncate(pages.len());
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the source is this mapping, which is given up. The target is whole pages of a PrivateAnonymous memory
        // (`whole_pages`), not fewer (`truncate`), which its implementer lets us replace by others of the kind.
        match unsafe { remap(self.start.as_ptr(), self.len, pages.as_ptr(), flags) } {
            Ok(_) => {
                // Nothing is mapped where it was, or somebody else's mapping already.
                std::mem::forget(self);
                Ok(())
            }
            Err(_) => {
                // The kernel clears the target before it looks for room for its own records.
                fill_hole(pages.split_at(self.len).0);
                Err(self)
            }
        }
    }

    fn truncate(&mut self, len: usize) {
        if len < self.len {
            // SAFETY: `len` bytes are less than there are.
            let start = unsafe { self.start.add(len) };
            drop(Self {
                start,
                len: self.len - len,
            });
            self.len = len;
        }
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        // SAFETY: the pages are this value's own. Those that the kernel refers to live on, with the content that they
        // have, until it no longer does.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// # Safety
/// The caller may move the mapping of `len` bytes from `from` on, and, with `MREMAP_FIXED`, replace what is mapped at
/// `len` bytes from `to` on.
unsafe fn remap(
    from: *mut u8,
    len: usize,
    to: *mut u8,
    flags: libc::c_int,
) -> io::Result<NonNull<u8>> {
    // The C library's wrapper passes `to` on only with MREMAP_FIXED.
    // SAFETY: by the caller's promise; the arguments are those of mremap(2).
    let moved = unsafe { libc::syscall(libc::SYS_mremap, from, len, len, flags, to) };
    Errno::result(moved)?;
    NonNull::new(moved as *mut u8).ok_or_else(|| io::ErrorKind::Other.into())
}

/// An address where there is room for `pages`, at the same distance from a page table's boundary.
fn place_for(pages: Span<'_>) -> io::Result<*mut u8> {
    let room = pages
        .len()
        .checked_add(PAGE_TABLE)
        .ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping where the kernel likes overlaps nothing.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            room,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(Errno::last().into());
    }
    // SAFETY: it was mapped just now, and nobody knows of it.
    unsafe { libc::munmap(start, room) };
    let start = start.cast::<u8>();
    let skip = (pages.as_ptr() as usize).wrapping_sub(start as usize) % PAGE_TABLE;
    Ok(start.wrapping_add(skip))
}

fn fill_hole(pages: Span<'_>) {
    // SAFETY: NOREPLACE maps only where nothing is, so it can only mend.
    unsafe {
        libc::mmap(
            pages.as_ptr().cast(),
            pages.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        );
    }
}

/// The bytes of a region that is whole pages of a memory whose pages may be replaced.
fn whole_pages<'m>(
    memory: &'m mut dyn LinearMemory,
    region: Region,
) -> Result<Span<'m>, TransferError> {
    let backing = memory.backing();
    let size = memory.len() as u64;
    let span = region.span(memory)?;
    let whole = span.as_ptr() as usize % PAGE == 0 && span.len() % PAGE == 0;
    if backing == Backing::PrivateAnonymous && whole && !span.is_empty() {
        return Ok(span);
    }
    Err(TransferError::OutOfBounds {
        region,
        memory: size,
    })
}
