//! One sender, one receiver, round by round.

use super::pairs::{candidate, What};
use super::Others;
use crate::bench::{Bench, Experiment};
use crate::measure::{Candidate, Measured};
use crate::results::{time, Ratio};
use anyhow::Result;

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

/// AF_UNIX by hand: what the others are measured against.
const WRITE: &str = "socket";
const AUTO: &str = "uds-auto";
const SLOT: &str = "uds-slot";
const SPLICE: &str = "uds-splice";
const TRUSTED_SPLICE: &str = "uds-splice-trusted";
const SEGMENT: &str = "uds-segment";

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let others = Others::find(bench);
    let sizes = bench.sizes(&SIZES);
    let large = bench.bytes(LARGE);
    bench.expect(sizes.len() + 3);
    let mut worst: Option<(f64, u64)> = None;
    for bytes in sizes {
        let mut ways = vec![(WRITE, "socket"), (AUTO, "uds")];
        if bytes == large {
            ways.extend([SLOT, SPLICE, SEGMENT].map(|way| (way, "uds")));
        }
        let measured = measure(bench, "uds.steady", bytes, &ways, What::Round)?;
        let ratio = measured.ratio(WRITE, AUTO)?;
        if bytes == large {
            steady(bench, &measured)?;
        }
        if worst.is_none_or(|(least, _)| ratio < least) {
            worst = Some((ratio, bytes));
        }
    }
    if let Some((ratio, bytes)) = worst {
        let ratio = Ratio::at_least("uds.auto_over_write.worst", ratio, 0.95);
        bench.ratio(ratio.because(|| format!("at {bytes} bytes")));
    }
    transfer(bench, large, &others)?;
    work(bench, large)
}

fn measure(
    bench: &mut Bench,
    name: &'static str,
    bytes: u64,
    ways: &[(&'static str, &'static str)],
    what: What,
) -> Result<Measured> {
    let candidates: Vec<Candidate<'_>> = ways
        .iter()
        .map(|(way, transport)| candidate(way, transport, bytes, what))
        .collect();
    bench.measure(Experiment::new(name, bytes), candidates)
}

/// What a function waits for, from the start of its work to the end of the next one's.
fn steady(bench: &mut Bench, measured: &Measured) -> Result<()> {
    let slot = measured.ratio(WRITE, SLOT)?;
    let auto = measured.ratio(WRITE, AUTO)?;
    let at_least = |name, value, goal| Ratio::at_least(name, value, goal);
    bench.ratio(at_least("uds.slot_over_write.steady.100MB", slot, 1.8));
    bench.ratio(at_least("uds.auto_over_write.steady.100MB", auto, 1.15));
    Ok(())
}

/// From one linear memory into another: for functions that do not cooperate, beside what others would use.
fn transfer(bench: &mut Bench, bytes: u64, others: &Others) -> Result<()> {
    let mut ways = vec![(WRITE, "socket"), (AUTO, "uds"), (SLOT, "uds")];
    if others.crates {
        ways.extend([
            ("iceoryx2", "iceoryx2"),
            ("ipc-bytes", "ipc-channel"),
            ("ipc-shared", "ipc-channel"),
        ]);
    }
    if others.redis {
        ways.push(("redis", "redis"));
    }
    let measured = measure(bench, "uds.transfer", bytes, &ways, What::Transfer)?;
    let mut over = |name, others: &[&str], goal| -> Result<()> {
        let mut best = f64::INFINITY;
        for other in others {
            best = best.min(measured.ratio(other, AUTO)?);
        }
        bench.ratio(Ratio::at_least(name, best, goal));
        Ok(())
    };
    if others.crates {
        over("uds.over_iceoryx2.100MB", &["iceoryx2"], 2.0)?;
        let kinds = ["ipc-bytes", "ipc-shared"];
        over("uds.over_ipc_channel.100MB", &kinds, 3.0)?;
    }
    if others.redis {
        over("uds.over_redis.100MB", &["redis"], 10.0)?;
    }
    Ok(())
}

/// What a transfer takes from the processors.
fn work(bench: &mut Bench, bytes: u64) -> Result<()> {
    let ways = [(WRITE, "socket"), (SLOT, "uds"), (SPLICE, "uds")];
    let both = measure(bench, "uds.work", bytes, &ways, What::Work)?;
    let ratio = both.ratio(WRITE, SLOT)?;
    bench.ratio(
        Ratio::at_least("uds.slot_strict_over_write.transfer.100MB", ratio, 40.0)
            .because(|| format!("a handover takes {}", time(both.p50(SLOT).unwrap_or(0.0)))),
    );
    // On a strict link the sender takes up new pages for every payload, which its row shows.
    let ways = [(WRITE, "socket"), (SPLICE, "uds"), (TRUSTED_SPLICE, "uds")];
    let sender = measure(bench, "uds.sender_work", bytes, &ways, What::SenderWork)?;
    let ratio = 1.0 / sender.ratio(WRITE, TRUSTED_SPLICE)?;
    bench.ratio(Ratio::at_most("uds.splice_sender_cpu.100MB", ratio, 0.5));
    Ok(())
}
