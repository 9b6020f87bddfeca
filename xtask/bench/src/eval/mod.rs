//! The evaluation: both published experiments, with what a user would pick instead beside them.
//!
//! One function produces a payload, another reads every byte of it and answers with their sum. A round is all of that; its
//! *hop* is what lies between the payload in the one memory and the payload in the other, serialization included.

mod clocked;
mod copy;
mod fanout;
pub(crate) mod groups;
mod hop;
mod http;
mod native;
mod ours;
mod plain;
mod prototype;
pub(crate) mod tables;
mod wasi;

use crate::bench::{Bench, Experiment};
use crate::functions::Modules;
use crate::measure::{Candidate, Measured};
use crate::peer::Peers;
use crate::results::{time, Ratio};
use anyhow::{Context, Result};
pub(crate) use hop::{ALLOCATE, ANSWER, CONSUME, HOP, PRODUCE, SERIALIZE};
use http::Body;
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use ours::{Grade, Mode};
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

pub(crate) const SEQUENTIAL: &str = "eval.sequential";
pub(crate) const FANOUT: &str = "eval.fanout";
const MB: u64 = 1_000_000;

/// The sizes of the published experiment, in MB.
const SIZES: [u64; 14] = [1, 2, 4, 6, 8, 10, 20, 40, 60, 100, 200, 300, 400, 500];
/// Those of a quick run.
const FEW_SIZES: [u64; 4] = [1, 10, 100, 500];

/// Payloads of which all candidates have their memories at the same time: 6 GB.
const TOGETHER: u64 = 100 * MB;
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
    let sizes: &[u64] = if bench.is_full() { &SIZES } else { &FEW_SIZES };
    let all: Vec<u64> = sizes.iter().map(|size| size * MB).collect();
    let sizes = bench.sizes(&all);
    let all = sizes.iter().map(|bytes| experiment(*bytes).weight);
    bench.expect((all.sum::<u64>() + fanout::weight(bench)) as usize);
    // A hundred links take some descriptors each.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(4096)), hard)?;
    let directory = tempfile::tempdir()?;
    let peerage = Peerage {
        http: Program::compile(&bench.baseline("http"), directory.path())?,
        plain: Program::compile(&bench.baseline("plain"), directory.path())?,
        modules,
    };
    for way in native::Way::ALL {
        if let Some(why) = way.missing() {
            bench.skip(way.name(), &why);
        }
    }
    let (large, largest) = (bench.bytes(100 * MB), bench.bytes(500 * MB));
    let mut small = None;
    let mut reading = f64::NAN;
    for bytes in sizes {
        let measured = sequential(bench, bytes, &peerage);
        let Some(measured) = bench.unless_failed(measured) else {
            continue;
        };
        if bytes == fanout::headline(bench).1 {
            reading = part(&measured, Mode::User.name(Grade::Loaned), CONSUME)?;
        }
        if bytes == large {
            latency(bench, &measured)?;
        }
        if bytes == largest {
            memory(bench, &small, bytes, &measured)?;
        }
        small.get_or_insert((bytes, measured));
    }
    fanout::run(bench, &peerage, reading)
}

/// One function's payload to another's in another process of the same host, in each grade, and between native processes.
pub(crate) fn kernel_mode(bytes: u64, modules: &Modules) -> Vec<Candidate<'_>> {
    let grades = Mode::Kernel.grades().iter();
    let mut candidates: Vec<_> = grades
        .map(|grade| ours::candidate(Mode::Kernel, *grade, bytes, modules))
        .collect();
    candidates.push(native::candidate(native::Way::Unix, bytes));
    candidates
}

fn experiment(bytes: u64) -> Experiment {
    // As a full run on 2 cores was seen to take.
    let seconds = 12 + bytes / (6 * MB);
    Experiment::new(SEQUENTIAL, bytes)
        .large(bytes > TOGETHER)
        .crowded()
        .footprint()
        .weight(seconds)
}

/// All take turns; but the largest payloads would be too many for the memory of a usual machine at once, so that there only
/// those take turns that are alternatives to each other.
fn sequential(bench: &mut Bench, bytes: u64, peerage: &Peerage) -> Result<Measured> {
    let ours = |mode: Mode| {
        let grades = mode.grades().iter();
        grades.map(move |grade| ours::candidate(mode, *grade, bytes, &peerage.modules))
    };
    let prototype = |way| prototype::between(way, bytes, peerage.plain.file());
    let native = |ways: [native::Way; 2]| {
        let there = ways.into_iter().filter(|way| way.missing().is_none());
        there.map(|way| native::candidate(way, bytes))
    };
    let mut user: Vec<Candidate<'_>> = ours(Mode::User).collect();
    user.push(prototype::user(bytes, peerage.plain.file()));
    user.push(copy::host(bytes, &peerage.modules));
    user.push(copy::memcpy(bytes));
    let mut kernel: Vec<_> = ours(Mode::Kernel).collect();
    kernel.push(prototype(Way::Kernel));
    kernel.extend(native([native::Way::Unix, native::Way::Redis]));
    let mut network: Vec<_> = ours(Mode::Network).collect();
    network.push(prototype(Way::Network));
    network.extend(native([native::Way::Tcp, native::Way::Http]));
    let http = [Body::Json, Body::Raw].map(|body| http::candidate(body, bytes, &peerage.http));
    let mut groups = vec![user, kernel, network, http.into()];
    if bytes <= TOGETHER {
        groups = vec![groups.into_iter().flatten().collect()];
    }
    measure_groups(bench, experiment(bytes), groups)
}

/// Only those in a group take turns.
fn measure_groups(
    bench: &mut Bench,
    experiment: Experiment,
    groups: Vec<Vec<Candidate<'_>>>,
) -> Result<Measured> {
    let part = Experiment {
        weight: experiment.weight / groups.len() as u64,
        ..experiment
    };
    let mut measured = Measured::default();
    for group in groups {
        measured.extend(bench.measure(part, group)?);
    }
    Ok(measured)
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

/// The grade whose hop is shorter, of those that ask for no trust: that is what ratios are about.
fn faster(measured: &Measured, mode: Mode) -> Result<Grade> {
    let hop = |grade| part(measured, mode.name(grade), HOP);
    let loaned = hop(Grade::Loaned)? <= hop(Grade::Any)?;
    Ok(if loaned { Grade::Loaned } else { Grade::Any })
}

fn latency(bench: &mut Bench, measured: &Measured) -> Result<()> {
    let hop = |candidate| part(measured, candidate, HOP);
    let ours = |mode: Mode| hop(mode.name(faster(measured, mode)?));
    let (user, kernel, network) = (ours(Mode::User)?, ours(Mode::Kernel)?, ours(Mode::Network)?);
    let json = hop(Body::Json.name())?;
    let tcp = hop(native::Way::Tcp.name())?;
    // What a missed goal is explained by: what stands in the way of each mode.
    let bare = hop(Mode::User.name(Grade::Trusted))?;
    let user_floor = format!(
        "{} on a trusted link, where no page table changes: the rest is two moves of page tables",
        time(bare)
    );
    let kernel_floor = format!(
        "on a trusted link it is {}",
        time(hop(Mode::Kernel.name(Grade::Trusted))?)
    );
    let network_floor = format!(
        "a TCP stream tuned by hand, between native processes, takes {}, which would be {:.1}; it is copied twice on \
         its way, and one copy by memcpy takes {}",
        time(tcp),
        json / tcp,
        time(hop("memcpy")?)
    );
    let mut at_least = |name: &str, theirs: f64, ours: f64, goal: f64, floor: &str| {
        let ratio = Ratio::at_least(name, theirs / ours, goal);
        bench.ratio(ratio.because(|| format!("{} against {}; {floor}", time(ours), time(theirs))));
    };
    for (name, theirs, ours, goal, floor) in [
        (
            "eval.user_over_http_json.100MB",
            json,
            user,
            200.0,
            &user_floor,
        ),
        (
            "eval.kernel_over_http_json.100MB",
            json,
            kernel,
            100.0,
            &kernel_floor,
        ),
        (
            "eval.network_over_http_json.100MB",
            json,
            network,
            30.0,
            &network_floor,
        ),
        (
            "eval.user_over_prototype.100MB",
            hop("prototype-user")?,
            user,
            500.0,
            &user_floor,
        ),
        (
            "eval.kernel_over_prototype.100MB",
            hop("prototype-kernel")?,
            kernel,
            50.0,
            &kernel_floor,
        ),
        (
            "eval.network_over_prototype.100MB",
            hop("prototype-network")?,
            network,
            3.0,
            &network_floor,
        ),
        (
            "eval.user_over_native.100MB",
            hop(native::Way::Unix.name())?,
            user,
            50.0,
            &user_floor,
        ),
    ] {
        at_least(name, theirs, ours, goal, floor);
    }
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

/// What a run takes beyond the two payload buffers, and beyond what the same run takes with next to no payload. Every
/// page counts once, however many processes have it mapped.
fn memory(
    bench: &mut Bench,
    small: &Option<(u64, Measured)>,
    bytes: u64,
    measured: &Measured,
) -> Result<()> {
    let Some((least, few)) = small else {
        return Ok(());
    };
    if measured.is_empty() {
        return Ok(());
    }
    for (mode, name, goal) in [
        (Mode::User, "eval.rss_over_payload.user.500MB", 0.1),
        (Mode::Kernel, "eval.rss_over_payload.kernel.500MB", 0.1),
        (Mode::Network, "eval.rss_over_payload.network.500MB", 0.3),
    ] {
        let above = |grade: Grade| -> Result<f64> {
            let above = |measured: &Measured, bytes: u64| -> Result<f64> {
                let row = measured.row(mode.name(grade))?;
                let peak = row.footprint_bytes.unwrap_or(row.peak_rss_bytes);
                Ok(peak as f64 - 2.0 * bytes as f64)
            };
            // Never less than a page, which is as exact as it gets.
            Ok((above(measured, bytes)? - above(few, *least)?).max(4096.0))
        };
        let grade = faster(measured, mode)?;
        let extra = above(grade)?;
        let ratio = Ratio::at_most(name, extra / bytes as f64, goal);
        bench.ratio(ratio.because(|| {
            let mut reason = format!(
                "{:.1} MB above the two buffers, by {}",
                extra / 1e6,
                mode.name(grade)
            );
            for other in mode.grades().iter().filter(|other| **other != grade) {
                if let Ok(extra) = above(*other) {
                    reason += &format!("; {:.1} MB by {}", extra / 1e6, mode.name(*other));
                }
            }
            reason
        }));
    }
    Ok(())
}
