//! The published fan-out: one payload to many functions at once.

use super::hop::Departure;
use super::http::Body;
use super::ours::{start, Grade, Mode, Outlet};
use super::wasi::Program;
use super::{measure_groups, Peerage, FANOUT, MB};
use crate::bench::{Bench, Experiment};
use crate::measure::{Candidate, Watch};
use crate::peer::Peer;
use crate::results::{time, Ratio};
use crate::usage::{available, Watched};
use anyhow::Result;
use std::thread;
use std::time::Instant;

/// Receivers of the published experiment.
const RECEIVERS: [u32; 7] = [1, 10, 20, 40, 60, 80, 100];
/// Above this a round carries so much in all that a few are enough.
const MUCH: u64 = 100 * MB;
/// Above this candidates whose receivers have memories of their own do not share the machine's.
const TOGETHER: u64 = 2_000 * MB;

/// What the ratio is about: receivers, and bytes for each.
pub(super) fn headline(bench: &Bench) -> (u32, u64) {
    if bench.is_smoke() {
        (3, bench.bytes(MB))
    } else {
        (100, 10 * MB)
    }
}

/// What is measured.
fn plan(bench: &Bench) -> Vec<(u32, u64)> {
    if bench.is_smoke() {
        return vec![headline(bench)];
    }
    if !bench.is_full() {
        return vec![(10, 10 * MB), headline(bench)];
    }
    let sizes = [MB, 10 * MB, 100 * MB].into_iter();
    sizes
        .flat_map(|bytes| RECEIVERS.map(|count| (count, bytes)))
        .collect()
}

fn experiment(bench: &Bench, cell: (u32, u64)) -> Experiment {
    let (count, bytes) = cell;
    let all = u64::from(count) * bytes;
    // As a full run on 2 cores was seen to take.
    let seconds = 4 + u64::from(count) / 8 + all / (60 * MB);
    let experiment = Experiment::new(FANOUT, bytes)
        .fanout(count)
        .footprint()
        .weight(seconds);
    if cell == headline(bench) {
        experiment.large(true)
    } else if all > MUCH {
        experiment.heavy()
    } else {
        experiment
    }
}

pub(super) fn weight(bench: &Bench) -> u64 {
    plan(bench)
        .into_iter()
        .map(|cell| experiment(bench, cell).weight)
        .sum()
}

/// `reading` is what one receiver takes to read what the ratio is about, in nanoseconds.
pub(super) fn run(bench: &mut Bench, peerage: &Peerage, reading: f64) -> Result<()> {
    for cell in plan(bench) {
        let (count, bytes) = cell;
        let all = u64::from(count) * bytes;
        // Those of a mode take turns: a hundred processes of each are enough at a time.
        let both = |mode| [Grade::Any, Grade::Loaned].map(|grade| ours(mode, grade, cell, peerage));
        let http = [Body::Json, Body::Raw].map(|body| http(body, count, bytes, &peerage.http));
        let mut groups: Vec<Vec<_>> = vec![both(Mode::User).into(), both(Mode::Kernel).into()];
        groups[0].extend(http);
        if room(bench, cell) {
            if all <= TOGETHER {
                groups.push(both(Mode::Network).into());
            } else {
                groups.extend(both(Mode::Network).map(|one| vec![one]));
            }
        }
        let measured = measure_groups(bench, experiment(bench, cell), groups);
        let Some(measured) = bench.unless_failed(measured) else {
            continue;
        };
        if cell == headline(bench) {
            let name = Mode::User.name(Grade::Loaned);
            let (theirs, ours) = (measured.p50(Body::Json.name())?, measured.p50(name)?);
            let ratio = Ratio::at_least("eval.fanout100_over_http_json.10MB", theirs / ours, 69.0);
            let spent = |name: &str| {
                let row = measured.row(name).ok();
                time(row.map_or(f64::NAN, |row| row.cpu_user_ns + row.cpu_sys_ns))
            };
            bench.ratio(ratio.because(|| {
                let cores = thread::available_parallelism().map_or(1, usize::from);
                format!(
                    "{} against {}, processor time {} against {}; reading them, with no transfer at all, takes {}",
                    time(ours),
                    time(theirs),
                    spent(name),
                    spent(Body::Json.name()),
                    time(reading * f64::from(count) / cores as f64)
                )
            }));
        }
    }
    Ok(())
}

/// Whether the machine has memory for receivers that share none; said if not.
fn room(bench: &mut Bench, (count, bytes): (u32, u64)) -> bool {
    let all = u64::from(count) * bytes;
    // Of as many candidates as there are at a time, and some for everybody else.
    let needed = if all <= TOGETHER {
        3 * all
    } else {
        all + all / 2
    };
    if available().is_none_or(|available| available > needed) {
        return true;
    }
    let what = format!("{FANOUT} by network, {count} payloads of {} MB", bytes / MB);
    let why = format!(
        "each receiver has a memory of its own: {} MB in all",
        all / MB
    );
    bench.skip(&what, &why);
    false
}

/// Receivers on as many threads as there are cores, or a process for each.
fn ours(mode: Mode, grade: Grade, cell: (u32, u64), peerage: &Peerage) -> Candidate<'_> {
    let (count, bytes) = cell;
    Candidate::new(mode.name(grade), "roadrunner", move || {
        let (mut from, mut outlets, mut answers) = start(mode, grade, count, &peerage.modules)?;
        let processes: Vec<_> = answers.iter().filter_map(|one| one.process()).collect();
        let mut watched = Watched::new(processes);
        let mut base = 0;
        Ok(move |watch: &mut Watch| {
            base += 1;
            watched.begin()?;
            let mut departure = Departure::begin();
            let reply = from.produce(bytes, base, grade != Grade::Any)?;
            departure.produced();
            Outlet::send_to_all(&mut outlets, &mut from.function, reply)?;
            from.function.free(reply)?;
            let arrivals: Vec<_> = answers
                .iter_mut()
                .map(|one| one.next())
                .collect::<Result<_>>()?;
            departure.tell_all(&arrivals, watch);
            watched.end(watch)?;
            watch.as_one();
            let expected = sequence::expected(bytes, base);
            let same = arrivals.iter().all(|arrival| arrival.sum == expected);
            watch.verified_all(same, u64::from(count))
        })
    })
}

/// As many pairs as there are cores post to each other at the same time, so that no core ever waits: what as many
/// receivers of one sender can reach at most.
fn http(body: Body, count: u32, bytes: u64, program: &Program) -> Candidate<'_> {
    Candidate::new(body.name(), "http", move || {
        let pairs = thread::available_parallelism()
            .map_or(1, usize::from)
            .min(count as usize);
        let mut all = Vec::new();
        for _ in 0..pairs {
            let mut receiver = program.start(&["receive", body.word()])?;
            let port: u16 = receiver.control.hear()?;
            let (port, length) = (port.to_string(), bytes.to_string());
            let mut sender = program.start(&["send", body.word(), &port, &length])?;
            sender.control.hear::<()>()?;
            all.push((sender, receiver));
        }
        let processes: Vec<_> = all
            .iter()
            .flat_map(|(sender, receiver): &(Peer, Peer)| [sender.id(), receiver.id()])
            .collect();
        let mut watched = Watched::new(processes);
        Ok(move |watch: &mut Watch| {
            watched.begin()?;
            let began = Instant::now();
            let mut left = count as usize;
            while left > 0 {
                let now = left.min(all.len());
                for (sender, _) in &mut all[..now] {
                    sender.control.say(&())?;
                }
                for (sender, _) in &mut all[..now] {
                    sender.control.hear::<[u64; 5]>()?;
                }
                left -= now;
            }
            watch.add_time(began.elapsed());
            watched.end(watch)?;
            watch.as_one();
            watch.delivered_by(body.name(), u64::from(count));
            watch.verified_all(true, u64::from(count))
        })
    })
}
