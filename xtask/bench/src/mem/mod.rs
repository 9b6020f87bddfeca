//! In one process.

mod steady;

use crate::bench::Bench;
use anyhow::{Context, Result};
use roadrunner_core::{Region, Sink, TransferError};
use roadrunner_mem::PageBuffer;

/// From what fits a cache line to what fits no cache.
const SIZES: [u64; 13] = [
    64,
    1_000,
    4_096,
    16_384,
    65_536,
    262_144,
    1_000_000,
    2_000_000,
    4_000_000,
    10_000_000,
    40_000_000,
    100_000_000,
    500_000_000,
];

/// What most ratios are about.
const LARGE: u64 = 100_000_000;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    steady::run(bench)
}

/// Two linear memories with a buffer for one payload each.
struct Ends {
    source: PageBuffer,
    target: Placed,
    region: Region,
}

impl Ends {
    fn new(bytes: u64) -> Result<Self> {
        Ok(Self {
            source: memory(bytes)?,
            target: Placed(memory(bytes)?),
            region: Region::new(0, bytes),
        })
    }
}

/// A memory whose function has one buffer, at its start.
struct Placed(PageBuffer);

impl Sink for Placed {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(Region::new(0, len))
    }

    fn memory(&mut self) -> &mut dyn roadrunner_core::LinearMemory {
        &mut self.0
    }

    fn release(&mut self, _region: Region) {}
}

fn memory(bytes: u64) -> Result<PageBuffer> {
    PageBuffer::new(usize::try_from(bytes)?).context("mapping a linear memory")
}

/// Payloads of this size that make a round: enough to be timed.
fn batch(bytes: u64) -> u64 {
    (131_072 / bytes.max(1)).clamp(1, 512)
}
