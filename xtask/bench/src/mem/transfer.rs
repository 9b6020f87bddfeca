//! The transfer alone: payloads are filled before it and read after it, so that both memories are warm, and neither is
//! counted.

use super::{memory, Ends, Placed, LARGE};
use crate::bench::{Bench, Experiment};
use crate::functions::soon;
use crate::measure::{Candidate, Measured, Watch};
use crate::payload::Pattern;
use crate::results::{time, Ratio};
use anyhow::{ensure, Context, Result};
use roadrunner_core::{Delivery, Method, Payload, Receipt, Region, Sink};
use roadrunner_mem::{
    link, transfer, Exchanged, Link, PageBuffer, Policy, SlotOptions, Slots, PAGE_SIZE,
};

const TRANSFER: &str = "mem.transfer";
const SIZES: [u64; 7] = [
    65_536,
    262_144,
    1_000_000,
    4_000_000,
    16_000_000,
    LARGE,
    500_000_000,
];

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let sizes = bench.sizes(&SIZES);
    bench.expect(sizes.len() + 1);
    for bytes in sizes {
        let candidates = vec![
            memcpy(bytes),
            exchange("exchange", bytes, false),
            exchange("exchange-trusted", bytes, true),
            moves(bytes),
            slot("slot", bytes, false, 0),
            slot("slot-trusted", bytes, true, 0),
        ];
        let measured = bench.measure(Experiment::new(TRANSFER, bytes), candidates)?;
        if bytes == bench.bytes(LARGE) {
            over_copy(bench, &measured, "exchange", 100.0)?;
            over_copy(bench, &measured, "slot", 40.0)?;
        }
    }
    size_independence(bench)
}

fn over_copy(bench: &mut Bench, measured: &Measured, ours: &str, goal: f64) -> Result<()> {
    let name = match ours {
        "slot" => "mem.slot_strict_over_copy.transfer.100MB".to_owned(),
        other => format!("mem.{other}_over_copy.transfer.100MB"),
    };
    let ratio = Ratio::at_least(&name, measured.ratio("memcpy", ours)?, goal);
    let (copy, p50, moves) = (
        measured.p50("memcpy")?,
        measured.p50(ours)?,
        measured.p50("moves")?,
    );
    bench.ratio(ratio.because(|| {
        format!(
            "memcpy takes {}, {ours} {}; three moves of page tables by mremap(2), without which no two ranges swap, take {}",
            time(copy),
            time(p50),
            time(moves)
        )
    }));
    Ok(())
}

/// Handovers of a small and of a large slot with equally cold caches: the small one's round goes over as many bytes.
fn size_independence(bench: &mut Bench) -> Result<()> {
    let (small, large) = (4_096, bench.bytes(500_000_000));
    let candidates = vec![
        slot("slot-trusted", small, true, large).of(small),
        slot("slot-trusted-large", large, true, 0),
    ];
    let measured = bench.measure(Experiment::new("mem.slot.size", large), candidates)?;
    let ratio = measured.ratio("slot-trusted-large", "slot-trusted")?;
    let p50 = |name| measured.p50(name).map(time);
    let (fast, slow) = (p50("slot-trusted")?, p50("slot-trusted-large")?);
    bench.ratio(
        Ratio::at_most("mem.slot_trusted.size_independence", ratio, 2.0)
            .because(|| format!("{slow} for 500 MB, {fast} for 4 KB")),
    );
    Ok(())
}

fn memcpy(bytes: u64) -> Candidate<'static> {
    Candidate::new("memcpy", "memcpy", move || {
        let mut ends = Ends::new(bytes)?;
        let pattern = Pattern::new();
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            number += 1;
            ends.fill(watch, &pattern, number)?;
            let (from, to) = (
                ends.region.span(&mut ends.source)?,
                ends.region.span(&mut ends.target.0)?,
            );
            watch.time(|| to.copy_from(from));
            let receipt = Receipt::new(bytes, Method::Copy, 1);
            ends.take(watch, &pattern, number, Delivery::new(ends.region, receipt))
        })
    })
}

fn exchange(name: &'static str, bytes: u64, trusted: bool) -> Candidate<'static> {
    Candidate::new(name, "mem", move || {
        let mut policy = Policy::default();
        policy.trusted = trusted;
        policy.force = Some(Method::Exchange);
        let mut ends = Ends::new(bytes)?;
        let pattern = Pattern::new();
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            number += 1;
            ends.fill(watch, &pattern, number)?;
            let delivery = watch.time(|| {
                let payload = Payload::given(&mut ends.source, ends.region)?;
                transfer(payload, &mut ends.target, &policy)
            })?;
            ends.take(watch, &pattern, number, delivery)
        })
    })
}

/// The pages of two buffers swap, and nothing else: what the kernel takes for it.
fn moves(bytes: u64) -> Candidate<'static> {
    Candidate::new("moves", "mremap", move || {
        let mut ends = Ends::new(bytes)?;
        let pattern = Pattern::new();
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            number += 1;
            ends.fill(watch, &pattern, number)?;
            let how = watch.time(|| {
                roadrunner_mem::exchange(&mut ends.source, ends.region, &mut ends.target.0, 0)
            })?;
            ensure!(how == Exchanged::Pages, "the kernel refused a move");
            let receipt = Receipt::new(bytes, Method::Exchange, 0);
            ends.take(watch, &pattern, number, Delivery::new(ends.region, receipt))
        })
    })
}

/// Hands a slot over and gives it back: both sides' work is timed. `sweep` more bytes are written and read besides.
fn slot(name: &'static str, bytes: u64, trusted: bool, sweep: u64) -> Candidate<'static> {
    Candidate::new(name, "mem", move || {
        let mut slots = SlotEnds::new(bytes, trusted)?;
        let mut swept = Ends::new(sweep)?;
        let pattern = Pattern::new();
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            number += 1;
            watch.beside(|| swept.sweep(&pattern, number))?;
            watch.beside(|| {
                let span = slots.region.span(&mut slots.source)?;
                pattern.fill(span, number);
                anyhow::Ok(())
            })?;
            let delivery = watch.time(|| slots.hand_over())?;
            watch.delivered(delivery.receipt());
            let same = watch.beside(|| {
                let region = delivery.region();
                let span = region.span(slots.target.memory())?;
                anyhow::Ok(pattern.check(span, number))
            })?;
            watch.verified(same)?;
            watch.beside(|| swept.sweep(&pattern, number))?;
            watch.time(|| slots.give_back(delivery.region()))
        })
    })
}

/// Two memories with a slot between them.
struct SlotEnds {
    source: PageBuffer,
    target: Placed,
    here: Link,
    there: Link,
    lent: Slots,
    received: Slots,
    region: Region,
}

impl SlotEnds {
    fn new(bytes: u64, trusted: bool) -> Result<Self> {
        let mut policy = Policy::default();
        policy.trusted = trusted;
        let (here, there) = link(policy);
        let mut source = memory(bytes)?;
        let mut lent = Slots::new(SlotOptions::default());
        let place = bytes.next_multiple_of(PAGE_SIZE as u64);
        lent.bind(&mut source, Region::new(0, place))?;
        Ok(Self {
            source,
            target: Placed(memory(bytes)?),
            here,
            there,
            lent,
            received: Slots::new(SlotOptions::default()),
            region: Region::new(0, bytes),
        })
    }

    fn hand_over(&mut self) -> Result<Delivery> {
        let trust = self.here.trust();
        let payload = self
            .lent
            .hand_over(&mut self.source, self.region, trust)?
            .context("the slot is not on loan")?;
        self.here.send_shared(&payload, soon())?;
        drop(payload);
        let delivery = self
            .there
            .recv_with(&mut self.received, &mut self.target, soon())?;
        Ok(delivery)
    }

    fn give_back(&mut self, received: Region) -> Result<()> {
        self.received
            .release(&mut self.target.0, received.offset())?;
        self.region = self
            .lent
            .loan(&mut self.source, self.region.len())
            .context("the slot did not come back")?;
        Ok(())
    }
}
