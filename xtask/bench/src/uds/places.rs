//! A linear memory whose function has room for a few payloads.

use anyhow::{Context, Result};
use roadrunner_core::{LinearMemory, Region, Sink, Span, TransferError};
use roadrunner_mem::{PageBuffer, Released, Slots};

/// Boundaries at which whole page tables move.
const TABLE: u64 = 2 << 20;

/// Each place starts at such a boundary, if it is large enough for that to matter.
pub(super) struct Places {
    memory: PageBuffer,
    room: u64,
    used: Vec<bool>,
    /// Where a search starts: the place behind the last one.
    next: usize,
}

impl Places {
    pub(super) fn new(bytes: u64, count: usize) -> Result<Self> {
        let boundary = if bytes < TABLE / 2 { 4096 } else { TABLE };
        let room = bytes.max(1).next_multiple_of(boundary);
        let memory = PageBuffer::new(usize::try_from(room * count as u64)?);
        Ok(Self {
            memory: memory.context("mapping a linear memory")?,
            room,
            used: vec![false; count],
            next: 0,
        })
    }

    pub(super) fn span(&mut self, region: Region) -> Result<Span<'_>> {
        Ok(region.span(&mut self.memory)?)
    }

    /// The function is done with a payload.
    pub(super) fn done(&mut self, slots: &mut Slots, region: Region) -> Result<()> {
        match slots.release(&mut self.memory, region.offset())? {
            Released::Kept => {}
            Released::NotASlot | Released::Returned => self.release(region),
        }
        Ok(())
    }
}

impl Sink for Places {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        let count = self.used.len();
        let mut all = (self.next..count).chain(0..self.next);
        let free = all.find(|place| len <= self.room && !self.used[*place]);
        let place = free.ok_or_else(|| TransferError::NoRoom {
            len,
            reason: format!("{count} places of {} bytes are in use", self.room),
        })?;
        self.used[place] = true;
        self.next = (place + 1) % count;
        Ok(Region::new(place as u64 * self.room, len))
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.memory
    }

    fn release(&mut self, region: Region) {
        // It starts where a place does.
        if let Some(used) = self.used.get_mut((region.offset() / self.room) as usize) {
            *used = false;
        }
    }
}
