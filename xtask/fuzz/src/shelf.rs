//! A place to receive into, with bytes around it that must not change.

use roadrunner_core::testing::fill;
use roadrunner_core::{HostMemory, LinearMemory, Region, Sink, TransferError};

/// A byte that no payload of these targets is made of alone.
const SECRET: u8 = 0x5E;
const MARGIN: u64 = 64;

/// Room for one payload of so many bytes, between two margins.
#[derive(Debug)]
pub(crate) struct Shelf {
    memory: HostMemory,
    room: u64,
    /// What a sink of an untrusted function may return instead of what was asked for.
    pub(crate) lies: Option<Region>,
    reserved: Vec<Region>,
    released: Vec<Region>,
}

impl Shelf {
    pub(crate) fn new(room: u64) -> Self {
        let bytes = vec![SECRET; (room + 2 * MARGIN) as usize];
        Self {
            memory: HostMemory::from(bytes),
            room,
            lies: None,
            reserved: Vec::new(),
            released: Vec::new(),
        }
    }

    /// What was received into `region`, with nothing else changed.
    pub(crate) fn received(&mut self, region: Region) -> Vec<u8> {
        let mut bytes = vec![0; region.len() as usize];
        let span = region.span(&mut self.memory).expect("what was delivered");
        span.copy_to_slice(&mut bytes);
        assert!(
            self.reserved.len() == self.released.len() + 1 && self.reserved.last() == Some(&region),
            "reserved {:?}, released {:?}, delivered {region:?}",
            self.reserved,
            self.released
        );
        self.reserved.pop();
        // What was delivered is the function's; the rest is as it was.
        fill(
            &mut self.memory,
            region.offset(),
            &vec![SECRET; bytes.len()],
        );
        self.check_margins();
        bytes
    }

    /// Nothing is reserved, and nothing outside what was has changed.
    pub(crate) fn check_empty(&mut self) {
        assert_eq!(self.reserved, self.released, "without a payload");
        self.check_margins();
    }

    fn check_margins(&self) {
        let bytes = self.memory.as_slice();
        let (before, rest) = bytes.split_at(MARGIN as usize);
        let after = &rest[self.room as usize..];
        let untouched = before.iter().chain(after).all(|byte| *byte == SECRET);
        assert!(untouched, "bytes around the place have changed");
    }
}

impl Sink for Shelf {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        assert!(align.is_power_of_two(), "an alignment of {align}");
        if len > self.room {
            let reason = "there is less".to_owned();
            return Err(TransferError::NoRoom { len, reason });
        }
        let region = self.lies.take().unwrap_or(Region::new(MARGIN, len));
        self.reserved.push(region);
        Ok(region)
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.memory
    }

    fn release(&mut self, region: Region) {
        self.released.push(region);
    }
}
