//! The evaluation: both published experiments, with what a user would pick instead beside them.
//!
//! One function produces a payload, another reads every byte of it and answers with their sum. A round is all of that; its
//! *hop* is what lies between the payload in the one memory and the payload in the other, serialization included.

mod fanout;
mod hop;
mod http;
mod native;
mod ours;
mod plain;
mod prototype;
mod published;
pub(crate) mod tables;
mod wasi;

use crate::bench::{Bench, Experiment};
use crate::functions::Modules;
use crate::measure::{Candidate, Measured};
use crate::peer::Peers;
use crate::results::{time, Ratio};
use anyhow::{Context, Result};
pub(crate) use hop::HOP;
use hop::SERIALIZE;
use http::Body;
use native::Stream;
use ours::Mode;
use prototype::Way;
use roadrunner_core::frame::{Header, Kind};
use std::hint::black_box;
use std::time::Instant;
use wasi::Program;

pub(crate) const PEERS: Peers = &[
    ("eval.compile", wasi::compiler),
    ("eval.program", wasi::program),
    ("eval.consume", ours::consumer),
    ("eval.prototype", prototype::receiver),
    ("eval.native", native::receiver),
];

const SEQUENTIAL: &str = "eval.sequential";
const FANOUT: &str = "eval.fanout";
const MB: u64 = 1_000_000;

/// The sizes of the published experiment, in MB.
const SIZES: [u64; 14] = [1, 2, 4, 6, 8, 10, 20, 40, 60, 100, 200, 300, 400, 500];
/// Those of a quick run.
const FEW_SIZES: [u64; 4] = [1, 10, 100, 500];

/// What ours is measured beside.
struct Peerage {
    http: Program,
    plain: Program,
    modules: Modules,
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let Some(modules) = Modules::find(bench, "eval") else {
        return Ok(());
    };
    for name in ["http", "plain"] {
        let file = bench.baseline(name);
        if !file.is_file() {
            let why = format!(
                "there is no {}: cargo xtask bench builds it",
                file.display()
            );
            bench.skip("eval", &why);
            return Ok(());
        }
    }
    let directory = tempfile::tempdir()?;
    let peerage = Peerage {
        http: Program::compile(&bench.baseline("http"), directory.path())?,
        plain: Program::compile(&bench.baseline("plain"), directory.path())?,
        modules,
    };
    let sizes: &[u64] = if bench.is_full() { &SIZES } else { &FEW_SIZES };
    let all: Vec<u64> = sizes.iter().map(|size| size * MB).collect();
    let sizes = bench.sizes(&all);
    bench.expect(sizes.len() + fanout::count(bench));
    let (large, largest) = (bench.bytes(100 * MB), bench.bytes(500 * MB));
    let mut small = None;
    for bytes in sizes {
        let measured = sequential(bench, bytes, &peerage)?;
        if small.is_none() {
            small = Some((bytes, measured.clone()));
        }
        if bytes == large {
            latency(bench, &measured)?;
        }
        if bytes == largest {
            memory(bench, &small, bytes, &measured)?;
        }
    }
    fanout::run(bench, &peerage)
}

fn sequential(bench: &mut Bench, bytes: u64, peerage: &Peerage) -> Result<Measured> {
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    for mode in Mode::ALL {
        for loan in [true, false] {
            candidates.push(ours::candidate(mode, loan, bytes, &peerage.modules));
        }
    }
    for body in [Body::Json, Body::Raw] {
        candidates.push(http::candidate(body, bytes, &peerage.http));
    }
    candidates.push(prototype::user(bytes, peerage.plain.file()));
    for way in [Way::Kernel, Way::Network] {
        candidates.push(prototype::between(way, bytes, peerage.plain.file()));
    }
    for stream in [Stream::Unix, Stream::Tcp] {
        candidates.push(native::candidate(stream, bytes));
    }
    bench.measure(Experiment::new(SEQUENTIAL, bytes), candidates)
}

/// The median of a part of a candidate's round.
fn part(measured: &Measured, candidate: &str, part: &str) -> Result<f64> {
    if measured.is_empty() {
        return Ok(f64::NAN);
    }
    let phase = measured.row(candidate)?.phases.get(part);
    Ok(phase
        .with_context(|| format!("{candidate} has no {part}"))?
        .p50_ns)
}

fn latency(bench: &mut Bench, measured: &Measured) -> Result<()> {
    let json = part(measured, Body::Json.name(), HOP)?;
    let hop = |mode: Mode| {
        let both = [true, false].map(|loan| part(measured, mode.name(loan), HOP));
        both.into_iter()
            .collect::<Result<Vec<_>>>()
            .map(|both| both.into_iter().fold(f64::INFINITY, f64::min))
    };
    let (user, kernel, network) = (hop(Mode::User)?, hop(Mode::Kernel)?, hop(Mode::Network)?);
    let mut at_least = |name: &str, theirs: f64, ours: f64, goal: f64| {
        let ratio = Ratio::at_least(name, theirs / ours, goal);
        bench.ratio(ratio.because(|| format!("{} against {}", time(ours), time(theirs))));
    };
    at_least("eval.user_over_http_json.100MB", json, user, 200.0);
    at_least("eval.kernel_over_http_json.100MB", json, kernel, 100.0);
    at_least("eval.network_over_http_json.100MB", json, network, 30.0);
    let prototype = |name| part(measured, name, HOP);
    at_least(
        "eval.user_over_prototype.100MB",
        prototype("prototype-user")?,
        user,
        500.0,
    );
    at_least(
        "eval.kernel_over_prototype.100MB",
        prototype("prototype-kernel")?,
        kernel,
        50.0,
    );
    at_least(
        "eval.network_over_prototype.100MB",
        prototype("prototype-network")?,
        network,
        3.0,
    );
    let native = part(measured, "native-unix", HOP)?;
    at_least("eval.user_over_native.100MB", native, user, 50.0);
    // All that ours makes of a payload is the header of its frame.
    let theirs = part(measured, Body::Json.name(), SERIALIZE)?;
    let share = Ratio::at_most("eval.serialization_share", framing() / theirs, 0.001);
    bench.ratio(share);
    Ok(())
}

/// Nanoseconds in which a header is written and read again.
fn framing() -> f64 {
    const TIMES: u64 = 100_000;
    let began = Instant::now();
    for number in 0..TIMES {
        let header = Header {
            kind: Kind::Acknowledgement,
            sequence: black_box(number),
            length: 0,
        };
        let _ = black_box(Header::decode(&black_box(header.encode())));
    }
    began.elapsed().as_secs_f64() * 1e9 / TIMES as f64
}

/// What a run takes beyond the two payload buffers, and beyond what the same run takes with next to no payload.
fn memory(
    bench: &mut Bench,
    small: &Option<(u64, Measured)>,
    bytes: u64,
    measured: &Measured,
) -> Result<()> {
    let Some((least, few)) = small else {
        return Ok(());
    };
    for (mode, name, goal) in [
        (Mode::User, "eval.rss_over_payload.user.500MB", 0.1),
        (Mode::Kernel, "eval.rss_over_payload.kernel.500MB", 0.1),
        (Mode::Network, "eval.rss_over_payload.network.500MB", 0.3),
    ] {
        let candidate = mode.name(true);
        let peak = |measured: &Measured, bytes: u64| -> Result<f64> {
            if measured.is_empty() {
                return Ok(f64::NAN);
            }
            Ok(measured.row(candidate)?.peak_rss_bytes as f64 - 2.0 * bytes as f64)
        };
        // Never less than a page, which is as exact as it gets.
        let above = (peak(measured, bytes)? - peak(few, *least)?).max(4096.0);
        let ratio = Ratio::at_most(name, above / bytes as f64, goal);
        bench.ratio(ratio.because(|| format!("{:.1} MB above the two buffers", above / 1e6)));
    }
    Ok(())
}
