//! The linear memory of an instance.

use crate::maps;
use roadrunner_core::{Backing, LinearMemory};
use std::marker::PhantomData;
use std::ptr::NonNull;
use wasmedge_sys::ffi;

const PAGE: usize = 64 << 10;
const HOST_PAGE: usize = 4096;

/// The linear memory of an instance whose function does not run. Base and length are WasmEdge's present ones, asked for
/// each time.
#[derive(Debug)]
pub(crate) struct GuestMemory<'i> {
    context: NonNull<ffi::WasmEdge_MemoryInstanceContext>,
    backing: Backing,
    instance: PhantomData<&'i mut ()>,
}

impl GuestMemory<'_> {
    /// # Safety
    /// For as long as `'i` lasts `context` must be alive, its instance must not run, and nobody else may use its bytes.
    pub(super) unsafe fn new(
        context: NonNull<ffi::WasmEdge_MemoryInstanceContext>,
        backing: Backing,
    ) -> Self {
        Self {
            context,
            backing,
            instance: PhantomData,
        }
    }

    /// What can be promised about its pages, found by looking at how they are mapped.
    ///
    /// WasmEdge reserves 12 GiB for a memory and maps it in place, so that its base stays; whether it does so is not
    /// part of its API.
    pub(super) fn find_backing(&self) -> Backing {
        let base = self.base().as_ptr() as usize;
        let range = base..base.saturating_add(self.len());
        if base % HOST_PAGE == 0 && maps::is_private_anonymous(&range) {
            Backing::PrivateAnonymous
        } else {
            Backing::Opaque
        }
    }
}

// SAFETY: `new` promises that the instance is alive and does not run while this exists. WasmEdge keeps `PageSize` pages of
// 64 KiB mapped readable and writable from the pointer on that it returns (lib/system/allocator.cpp: one reservation,
// made accessible in place as it grows), and only the guest's memory.grow changes either. Both are asked for in each
// call. PrivateAnonymous is claimed only where `find_backing` has seen such pages, at a base on a page boundary.
unsafe impl LinearMemory for GuestMemory<'_> {
    fn base(&self) -> NonNull<u8> {
        // SAFETY: the context is alive. The result is null if the memory has no bytes mapped.
        let base = unsafe { ffi::WasmEdge_MemoryInstanceGetPointer(self.context.as_ptr(), 0, 0) };
        NonNull::new(base).unwrap_or(NonNull::dangling())
    }

    fn len(&self) -> usize {
        // SAFETY: the context is alive.
        let pages = unsafe { ffi::WasmEdge_MemoryInstanceGetPageSize(self.context.as_ptr()) };
        usize::try_from(pages).unwrap_or(0).saturating_mul(PAGE)
    }

    fn backing(&self) -> Backing {
        self.backing
    }
}
