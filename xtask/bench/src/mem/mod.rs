//! In one process.

mod fanout;
mod getset;
mod small;
mod steady;
mod transfer;
mod wasm;

use crate::bench::Bench;
use crate::measure::Watch;
use crate::payload::Pattern;
use crate::peer::Peers;
use anyhow::{Context, Result};
use roadrunner_core::{Delivery, LinearMemory, Region, Sink, TransferError};
use roadrunner_mem::PageBuffer;

pub(crate) const PEERS: Peers = &[(getset::NAME, getset::peer)];

/// What most ratios are about.
const LARGE: u64 = 100_000_000;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    small::run(bench)?;
    steady::run(bench)?;
    transfer::run(bench)?;
    wasm::run(bench)?;
    fanout::run(bench)
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

    /// Writes the payload with this number, beside what is measured.
    fn fill(&mut self, watch: &mut Watch, pattern: &Pattern, number: u64) -> Result<()> {
        let span = self.region.span(&mut self.source)?;
        watch.beside(|| pattern.fill(span, number));
        Ok(())
    }

    /// Reads the payload that has arrived, beside what is measured.
    fn take(
        &mut self,
        watch: &mut Watch,
        pattern: &Pattern,
        number: u64,
        delivery: Delivery,
    ) -> Result<()> {
        watch.delivered(delivery.receipt());
        let span = delivery.region().span(self.target.memory())?;
        let same = watch.beside(|| pattern.check(span, number));
        watch.verified(same)
    }

    /// Goes over all bytes of both memories, so that the caches hold nothing else.
    fn sweep(&mut self, pattern: &Pattern, number: u64) -> Result<()> {
        pattern.fill(self.region.span(&mut self.source)?, number);
        pattern.fill(self.region.span(&mut self.target.0)?, number);
        Ok(())
    }
}

/// A memory whose function has one buffer, at its start.
struct Placed(PageBuffer);

impl Sink for Placed {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(Region::new(0, len))
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.0
    }

    fn release(&mut self, _region: Region) {}
}

fn memory(bytes: u64) -> Result<PageBuffer> {
    PageBuffer::new(usize::try_from(bytes)?).context("mapping a linear memory")
}
