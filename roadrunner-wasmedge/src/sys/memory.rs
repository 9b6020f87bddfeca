//! The linear memory of an instance.

use crate::maps;
use roadrunner_core::{Backing, LinearMemory, Region};
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
    /// Where the host has slots in it.
    slots: &'i [Region],
    instance: PhantomData<&'i mut ()>,
}

impl<'i> GuestMemory<'i> {
    /// # Safety
    /// For as long as `'i` lasts `context` must be alive, its instance must not run, and nobody else may use its bytes.
    pub(super) unsafe fn new(
        context: NonNull<ffi::WasmEdge_MemoryInstanceContext>,
        backing: Backing,
    ) -> Self {
        Self {
            context,
            backing,
            slots: &[],
            instance: PhantomData,
        }
    }

    /// The same memory, which has slots in these places: their pages are not to be exchanged.
    pub(crate) fn with_slots<'s>(&'s mut self, slots: &'s [Region]) -> GuestMemory<'s> {
        GuestMemory {
            context: self.context,
            backing: self.backing,
            slots,
            instance: PhantomData,
        }
    }

    /// As [`with_slots`](Self::with_slots), for as long as the memory itself.
    pub(super) fn holding(self, slots: &'i [Region]) -> Self {
        Self { slots, ..self }
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
// call. PrivateAnonymous is claimed only where `find_backing` has seen such pages, at a base on a page boundary, and no
// slot has been put since.
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
        if self.slots.is_empty() {
            self.backing
        } else {
            Backing::Opaque
        }
    }

    fn backing_of(&self, region: Region) -> Backing {
        if self.slots.iter().any(|slot| overlap(*slot, region)) {
            Backing::Opaque
        } else {
            self.backing
        }
    }
}

/// Whether two regions have a byte in common. An empty one has none.
pub(crate) fn overlap(one: Region, other: Region) -> bool {
    let end = |region: Region| u128::from(region.offset()) + u128::from(region.len());
    let begin = one.offset().max(other.offset());
    u128::from(begin) < end(one).min(end(other))
}

#[cfg(test)]
mod tests {
    use super::overlap;
    use roadrunner_core::Region;

    #[test]
    fn regions_overlap_where_they_share_a_byte() {
        let slot = Region::new(4096, 4096);
        for (offset, len, expected) in [
            (0, 4096, false),
            (0, 4097, true),
            (8191, 1, true),
            (8192, 1, false),
            (5000, 0, false),
            (5000, 1, true),
            (0, u64::MAX, true),
            (u64::MAX, u64::MAX, false),
        ] {
            let region = Region::new(offset, len);
            assert_eq!(overlap(slot, region), expected, "{region}");
            assert_eq!(overlap(region, slot), expected, "{region}");
        }
    }
}
