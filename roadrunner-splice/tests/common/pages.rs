//! The unsafe code of these tests: a linear memory whose pages may be taken, as a runtime's are.

use nix::libc::c_void;
use nix::sys::mman::{mmap_anonymous, munmap, MapFlags, ProtFlags};
use nix::sys::signal::{signal, SigHandler, Signal};
use roadrunner_core::{Backing, LinearMemory};
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// Private anonymous pages.
#[derive(Debug)]
pub struct PageMemory {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: it owns its mapping alone.
unsafe impl Send for PageMemory {}

impl PageMemory {
    pub fn new(len: u64) -> Self {
        let len = NonZeroUsize::new((len as usize).next_multiple_of(4096)).expect("not empty");
        // SAFETY: a new mapping where the kernel likes overlaps nothing.
        let start = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }
        .expect("address space");
        Self {
            start,
            len: len.get(),
        }
    }
}

impl Drop for PageMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, whatever pages are in it by now.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

// SAFETY: `base` and `len` describe the mapping, which starts at a page, stays where it is and belongs to this value
// alone; it is private, anonymous, readable and writable.
unsafe impl LinearMemory for PageMemory {
    fn base(&self) -> NonNull<u8> {
        self.start.cast()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn backing(&self) -> Backing {
        Backing::PrivateAnonymous
    }
}

/// For the suite.
pub fn page_memory(len: u64) -> Box<dyn LinearMemory + Send> {
    Box::new(PageMemory::new(len.max(1)))
}

/// Lets SIGPIPE kill this process, as it does a program that is not written in Rust.
pub fn default_sigpipe() {
    // SAFETY: the default action runs no code of this process.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.expect("a signal that may be set");
}
