//! The calls about slots: `loan`, `bind` and `release` of the guest ABI.

use super::host::{code, region};
use crate::sys::memory::{overlap, GuestMemory};
use roadrunner_core::{Region, TransferError};
use roadrunner_mem::{Released, Slots};

/// What `release` returns for a block that the host keeps.
const KEPT: i32 = 1;

/// The slots in a function's memory, if it may have any.
#[derive(Debug)]
pub(super) enum OwnSlots {
    /// It may not.
    None,
    Here(Slots),
    /// In use by the host, while the function allocates; where they were then.
    Away(Vec<Region>),
}

impl OwnSlots {
    pub(super) fn here(&mut self) -> Option<&mut Slots> {
        match self {
            Self::Here(slots) => Some(slots),
            _ => None,
        }
    }

    /// Where they are.
    pub(super) fn places(&self) -> Vec<Region> {
        match self {
            Self::None => Vec::new(),
            Self::Here(slots) => slots.places().collect(),
            Self::Away(places) => places.clone(),
        }
    }

    /// Takes them away, until they are put back.
    pub(super) fn take(&mut self) -> Option<Slots> {
        let places = self.places();
        match std::mem::replace(self, Self::None) {
            Self::Here(slots) => {
                *self = Self::Away(places);
                Some(slots)
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// `loan`: an address, or 0.
    pub(super) fn loan(&mut self, memory: &mut GuestMemory<'_>, [len]: [i32; 1]) -> i32 {
        let len = u64::from(len as u32);
        let loaned = self.here().and_then(|slots| slots.loan(memory, len));
        loaned.map_or(0, |region| region.offset() as u32 as i32)
    }

    /// `bind`: 0 or a code.
    pub(super) fn bind(&mut self, memory: &mut GuestMemory<'_>, [offset, len]: [i32; 2]) -> i32 {
        let slots = match self {
            Self::None => return code::UNSUPPORTED,
            Self::Away(_) => return code::FAILED,
            Self::Here(slots) => slots,
        };
        let block = region(offset, len);
        let page = roadrunner_mem::PAGE_SIZE as u64;
        let whole_pages = block.offset() % page == 0 && block.len() % page == 0;
        // Address 0 is how `loan` says that there is none.
        if block.offset() == 0
            || block.is_empty()
            || !whole_pages
            || slots.places().any(|place| overlap(place, block))
        {
            return code::INVALID;
        }
        match slots.bind(memory, block) {
            Ok(()) => 0,
            Err(TransferError::OutOfBounds { .. }) => code::INVALID,
            Err(_) => code::FAILED,
        }
    }

    /// `release`: 0, [`KEPT`] or a code.
    pub(super) fn release(&mut self, memory: &mut GuestMemory<'_>, [offset]: [i32; 1]) -> i32 {
        let offset = u64::from(offset as u32);
        let starts_there = |place: Region| place.offset() == offset;
        match self {
            Self::None => 0,
            Self::Away(places) if places.iter().copied().any(starts_there) => code::FAILED,
            Self::Away(_) => 0,
            Self::Here(slots) => match slots.release(memory, offset) {
                Ok(Released::Kept) => KEPT,
                Ok(Released::Returned) => 0,
                // A place whose slot was handed over, or released before.
                Ok(Released::NotASlot) if slots.places().any(starts_there) => KEPT,
                Ok(Released::NotASlot) => 0,
                Err(_) => code::FAILED,
            },
        }
    }
}
