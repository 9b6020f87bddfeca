//! One sender, one receiver, on loopback, round by round.

use super::pairs::{candidate, payloads, Pair, What, LOOPBACK};
use super::{AUTO, CHECKED, HTTP, LARGE, MEASURED, SPLICE, STREAMS, TCP, ZERO_COPY};
#[cfg(feature = "peers")]
use super::{GRPC, TLS, URING};
use crate::bench::{Bench, Experiment};
use crate::measure::Measured;
use crate::results::{time, Ratio};
use anyhow::Result;
use roadrunner_mem::PageBuffer;
use std::time::Instant;

/// With the names that ratios call them by.
const SIZES: [(u64, &str); 4] = [
    (1_000_000, "1MB"),
    (10_000_000, "10MB"),
    (LARGE, "100MB"),
    (500_000_000, "500MB"),
];
/// As fast as by hand: of two equal ones either comes out ahead by a twentieth.
const NO_SLOWER: f64 = 0.95;
/// Smaller ones, for the rows.
const SMALL: [u64; 4] = [64, 4_096, 65_536, 262_144];

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let small = bench.sizes(&SMALL);
    bench.expect(small.len() + SIZES.len() + 2);
    for bytes in small {
        measure(bench, "net.steady", bytes, &[TCP, AUTO], What::Round)?;
    }
    for (size, name) in SIZES {
        let bytes = bench.bytes(size);
        let mut ways = vec![TCP, AUTO];
        if size == LARGE {
            ways.extend([SPLICE, ZERO_COPY, MEASURED, CHECKED, STREAMS]);
            #[cfg(feature = "peers")]
            ways.extend([HTTP, GRPC, TLS, URING]);
            #[cfg(not(feature = "peers"))]
            bench.skip(
                "hyper, gRPC, TLS and io_uring",
                "this program was built without its feature peers",
            );
        }
        let measured = measure(bench, "net.transfer", bytes, &ways, What::Transfer)?;
        let ratio = measured.paired(TCP, AUTO)?;
        let ratio = Ratio::at_least(&format!("net.auto_over_tcp.{name}"), ratio, NO_SLOWER);
        bench.ratio(ratio.because(|| told(&measured, &[TCP, AUTO])));
        if size == LARGE {
            large(bench, &measured)?;
        }
    }
    let bytes = bench.bytes(LARGE);
    measure(
        bench,
        "net.steady",
        bytes,
        &[TCP, AUTO, SPLICE, MEASURED],
        What::Round,
    )?;
    measure(
        bench,
        "net.sender_work",
        bytes,
        &[TCP, AUTO, SPLICE],
        What::SenderWork,
    )?;
    resident(bench)
}

fn measure(
    bench: &mut Bench,
    name: &'static str,
    bytes: u64,
    ways: &[&'static str],
    what: What,
) -> Result<Measured> {
    let candidates = ways
        .iter()
        .map(|way| candidate(LOOPBACK, way, bytes, payloads(bytes), what))
        .collect();
    bench.measure(Experiment::new(name, bytes), candidates)
}

fn large(bench: &mut Bench, measured: &Measured) -> Result<()> {
    let cpu = |way| {
        let row = measured.row(way);
        let [user, sys] = row.map_or([0.0; 2], |row| [row.cpu_user_ns, row.cpu_sys_ns]);
        format!("{} outside the kernel and {} in it", time(user), time(sys))
    };
    let cost = measured.paired(CHECKED, AUTO)?;
    bench.ratio(
        Ratio::at_most("net.checksum_cost.100MB", cost, 1.25).because(|| {
            format!(
                "of processor time a round takes {} with it, {} without; {}",
                cpu(CHECKED),
                cpu(AUTO),
                told(measured, &[AUTO, CHECKED])
            )
        }),
    );
    if let Ok(ratio) = measured.paired(HTTP, AUTO) {
        let copy = copying(bench.bytes(LARGE))?;
        bench.ratio(
            Ratio::at_least("net.over_http.100MB", ratio, 2.0).because(|| {
                let by_hand = measured.paired(HTTP, TCP).unwrap_or(0.0);
                let told = told(measured, &[AUTO, TCP, HTTP]);
                let half = measured.p50(HTTP).unwrap_or(0.0) / 2.0;
                format!(
                    "it would take {}, and one copy from memory to memory takes {}, of which TCP makes two, one on each core; \
                     send and recv by hand come to {by_hand:.2} here; of processor time a round takes {} by hyper, {} by \
                     ours; {told}",
                    time(half),
                    time(copy),
                    cpu(HTTP),
                    cpu(AUTO)
                )
            }),
        );
    }
    #[cfg(feature = "peers")]
    for (name, ratio) in [
        ("net.over_grpc.100MB", measured.paired(GRPC, AUTO)?),
        ("net.tls_cost.100MB", measured.paired(TLS, AUTO)?),
    ] {
        bench.ratio(Ratio::to_know(name, ratio));
    }
    Ok(())
}

/// The median time of a copy from one memory into another, both of which are there, in nanoseconds.
fn copying(bytes: u64) -> Result<f64> {
    let bytes = usize::try_from(bytes)?;
    let mut memories = [PageBuffer::new(bytes)?, PageBuffer::new(bytes)?];
    let mut times = Vec::new();
    for _ in 0..8 {
        let [from, to] = &mut memories;
        let began = Instant::now();
        to.span().copy_from(from.span());
        times.push(began.elapsed().as_nanos() as f64);
        memories.swap(0, 1);
    }
    // The first ones find pages that are not there.
    times.drain(..2);
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// What some of the candidates took.
pub(super) fn told(measured: &Measured, names: &[&str]) -> String {
    let parts: Vec<_> = names
        .iter()
        .filter_map(|name| {
            let row = measured.row(name).ok()?;
            Some(format!(
                "{name} takes {} by {}, half of the rounds within {} of it",
                time(row.p50_ns),
                row.method,
                time(row.spread_ns)
            ))
        })
        .collect();
    parts.join("; ")
}

/// What both processes keep beside the two linear memories, at most.
fn resident(bench: &mut Bench) -> Result<()> {
    let bytes = bench.bytes(LARGE);
    let mut pair = Pair::start(LOOPBACK, AUTO, bytes)?;
    let (mut peak, mut idle) = (0, 0);
    for _ in 0..5 {
        let (sent, received) = pair.round(1)?;
        peak = sent.peak + received.peak;
        idle = sent.idle + received.idle;
    }
    // The program itself, with all the libraries of its other experiments, is no part of a transfer.
    let above = peak.saturating_sub(idle + 2 * bytes) as f64 / bytes as f64;
    bench.ratio(
        // A page that nobody touched would be less than the memories.
        Ratio::at_most("net.steady_rss.100MB", above.max(1e-4), 0.3).because(|| {
            format!("{peak} bytes resident, {idle} before there were two memories of {bytes}")
        }),
    );
    Ok(())
}
