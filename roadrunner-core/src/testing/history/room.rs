//! A linear memory that grows, and what has to be in it.

use super::Place;
use crate::sys::Part;
use crate::testing::payloads::{fill, pattern};
use crate::testing::places::snapshot;
use crate::{Backing, LinearMemory, Region, Sink, TransferError};

/// Bytes of a page of WebAssembly, by which memories grow.
pub(super) const WASM_PAGE: u64 = 64 << 10;
/// The longest that one gets, in bytes.
const LONGEST: u64 = 16 << 20;
/// Bytes beyond the end that are looked at.
const BEYOND: u64 = 4096;
/// Where payloads are received: behind what nobody may touch, and with a rest of a page.
const MARGIN: u64 = 4096 + 77;
/// The seed of what is in a memory that nothing was written to.
const FRESH: u64 = 0xF0;

/// Makes a memory of at least so many bytes.
pub(super) type Make<'f> = Box<dyn Fn(u64) -> Box<dyn LinearMemory + Send> + Send + Sync + 'f>;

/// The memory of a function: it starts small and grows, in place where its pages may be exchanged, by moving where not.
/// Every byte that a transport has no business with is remembered and compared.
pub(super) struct Room<'f> {
    make: Make<'f>,
    memory: Part,
    /// What has to be in it.
    image: Vec<u8>,
    /// Whether it grows whenever a region is asked for, even if there is room, and gives one at its new end.
    pub(super) grows_when_asked: bool,
    /// Reserved and not released.
    held: Vec<Region>,
}

impl<'f> Room<'f> {
    pub(super) fn new(make: Make<'f>) -> Self {
        let opaque = make(1).backing() == Backing::Opaque;
        let whole = make(if opaque { WASM_PAGE } else { LONGEST + BEYOND });
        let mut room = Self {
            make,
            memory: Part::of(whole),
            image: Vec::new(),
            grows_when_asked: false,
            held: Vec::new(),
        };
        room.grow_to(WASM_PAGE);
        room
    }

    /// Grows by so many pages of WebAssembly, unless that is too long.
    pub(super) fn grow(&mut self, pages: u64) {
        self.grow_to(self.len() + pages * WASM_PAGE);
    }

    /// Bytes that it has now.
    pub(super) fn len(&self) -> u64 {
        self.image.len() as u64
    }

    fn grow_to(&mut self, len: u64) {
        let old = self.len();
        if len <= old || len > LONGEST {
            return;
        }
        if self.memory.backing() == Backing::Opaque {
            let content = snapshot(&mut self.memory);
            self.memory = Part::of((self.make)(len));
            self.memory.show(len as usize);
            fill(&mut self.memory, 0, &content);
        } else {
            self.memory.show(len as usize);
        }
        let fresh = pattern(len - old, FRESH);
        fill(&mut self.memory, old, &fresh);
        self.image.extend(fresh);
    }

    /// Where `len` bytes at `place` start. Room is made for them.
    pub(super) fn offset(&mut self, place: Place, len: u64) -> u64 {
        let (Place::Start(bytes) | Place::End(bytes)) = place;
        self.grow_to((bytes + len).next_multiple_of(WASM_PAGE));
        match place {
            Place::Start(bytes) => bytes,
            Place::End(bytes) => self.len() - bytes - len,
        }
    }

    /// What a function writes.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) {
        fill(&mut self.memory, offset, bytes);
        let offset = offset as usize;
        self.image[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Overwrites everything.
    pub(super) fn overwrite(&mut self, byte: u8) {
        let all = vec![byte; self.image.len()];
        self.put(0, &all);
    }

    pub(super) fn memory(&mut self) -> &mut (dyn LinearMemory + 'static) {
        &mut self.memory
    }

    /// From now on the region has to hold what it holds now, whatever that is.
    pub(super) fn accept(&mut self, region: Region) -> Vec<u8> {
        let mut bytes = vec![0; region.len() as usize];
        let span = region.span(&mut self.memory);
        span.expect("it was within the memory")
            .copy_to_slice(&mut bytes);
        let offset = region.offset() as usize;
        self.image[offset..offset + bytes.len()].copy_from_slice(&bytes);
        bytes
    }

    /// Ends a receive: `delivered` is what has to be held, and nothing else may be.
    pub(super) fn settle(&mut self, delivered: Option<Region>) -> Result<(), String> {
        let held = std::mem::take(&mut self.held);
        if held.iter().copied().eq(delivered) {
            return Ok(());
        }
        Err(format!("holds {held:?} after delivery of {delivered:?}"))
    }

    /// Compares every byte, and those beyond the end.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let now = snapshot(&mut self.memory);
        if now != self.image {
            let at = now.iter().zip(&self.image).position(|(is, was)| is != was);
            return Err(format!("a memory changed, first at {at:?}"));
        }
        match self
            .memory
            .beyond(BEYOND as usize)
            .iter()
            .any(|byte| *byte != 0)
        {
            true => Err("something was written beyond the end of a memory".to_owned()),
            false => Ok(()),
        }
    }
}

impl Sink for Room<'_> {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        let first = MARGIN.next_multiple_of(align);
        self.grow_to((first + len + MARGIN).next_multiple_of(WASM_PAGE));
        let mut offset = first;
        if self.grows_when_asked {
            self.grow(1);
            offset = first.max((self.len() - len) / align * align);
        }
        let region = Region::new(offset, len);
        if !region.fits(self.len()) {
            return Err(TransferError::NoRoom {
                len,
                reason: "the history's memory has no more".to_owned(),
            });
        }
        self.held.push(region);
        Ok(region)
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.memory
    }

    fn release(&mut self, region: Region) {
        // What lies in it may have been written to.
        self.accept(region);
        match self.held.iter().position(|held| *held == region) {
            Some(at) => drop(self.held.remove(at)),
            // Seen as one that should not be there.
            None => self.held.push(region),
        }
    }
}
