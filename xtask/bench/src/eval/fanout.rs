//! The published fan-out: one payload to many functions at once.

use super::hop::{Arrival, Departure};
use super::http::Body;
use super::ours::consume_on_thread;
use super::wasi::Program;
use super::{Peerage, FANOUT, MB};
use crate::bench::{Bench, Experiment};
use crate::functions::{soon, Producer};
use crate::measure::{Candidate, Receipts, Watch};
use crate::peer::Peer;
use crate::results::Ratio;
use crate::usage::Watched;
use anyhow::{ensure, Context, Result};
use roadrunner_core::{Method, Receipt};
use roadrunner_mem::{link, Policy};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

const OURS: &str = "user-loaned";

/// Receivers of the published experiment.
const RECEIVERS: [u32; 7] = [1, 10, 20, 40, 60, 80, 100];

/// What is measured: receivers, and bytes for each.
fn plan(bench: &Bench) -> Vec<(u32, u64)> {
    if bench.is_smoke() {
        return vec![(3, bench.bytes(MB))];
    }
    if !bench.is_full() {
        return vec![(10, 10 * MB), (100, 10 * MB)];
    }
    let mut plan: Vec<_> = RECEIVERS.iter().map(|count| (*count, 10 * MB)).collect();
    plan.extend([(10, MB), (100, MB), (10, 100 * MB)]);
    plan
}

pub(super) fn count(bench: &Bench) -> usize {
    plan(bench).len()
}

pub(super) fn run(bench: &mut Bench, peerage: &Peerage) -> Result<()> {
    for (count, bytes) in plan(bench) {
        let candidates = vec![
            ours(OURS, true, count, bytes, peerage),
            ours("user", false, count, bytes, peerage),
            http(count, bytes, &peerage.http),
        ];
        let measured = bench.measure(Experiment::new(FANOUT, bytes).fanout(count), candidates)?;
        if (count, bytes) == (100, 10 * MB) {
            let ratio = measured.ratio(Body::Json.name(), OURS)?;
            bench.ratio(Ratio::at_least(
                "eval.fanout100_over_http_json.10MB",
                ratio,
                69.0,
            ));
        }
    }
    Ok(())
}

/// A thread for each receiver, as a workflow in one process has.
fn ours<'a>(
    name: &'static str,
    loan: bool,
    count: u32,
    bytes: u64,
    peerage: &'a Peerage,
) -> Candidate<'a> {
    Candidate::new(name, "roadrunner", move || {
        let mut from = Producer::new(&peerage.modules)?;
        let (say, answers) = mpsc::channel::<Arrival>();
        let mut links = Vec::new();
        for _ in 0..count {
            let (here, there) = link(Policy::default());
            links.push(here);
            consume_on_thread(&peerage.modules, there, say.clone())?;
        }
        let mut base = 0;
        Ok(move |watch: &mut Watch| {
            base += 1;
            let departure = Departure::now();
            let reply = from.produce(bytes, base, loan)?;
            let payload = from.function.given(reply)?.share()?;
            for link in &mut links {
                link.send_shared(&payload, soon())?;
            }
            drop(payload);
            from.function.free(reply)?;
            let mut methods = Receipts::default();
            for _ in 0..count {
                let arrival = answers.recv().context("a receiver is gone")?;
                ensure!(
                    arrival.sum == sequence::expected(bytes, base),
                    "a payload arrived with other bytes"
                );
                let method = Method::from_code(arrival.method).context("no such method")?;
                methods.add(Receipt::new(bytes, method, arrival.copies));
            }
            watch.add_time(crate::uds::clock::now().saturating_sub(departure.began));
            watch.delivered_all(methods);
            watch.as_one();
            watch.verified_all(true, u64::from(count))
        })
    })
}

/// As many pairs as there are cores post to each other at the same time, so that no core ever waits: what as many
/// receivers of one sender can reach at most.
fn http(count: u32, bytes: u64, program: &Program) -> Candidate<'_> {
    let body = Body::Json;
    Candidate::new(body.name(), "http", move || {
        let pairs = thread::available_parallelism()
            .map_or(1, usize::from)
            .min(count as usize);
        let mut all = Vec::new();
        for _ in 0..pairs {
            let mut receiver = program.start(&["receive", "json"])?;
            let port: u16 = receiver.control.hear()?;
            let (port, length) = (port.to_string(), bytes.to_string());
            let mut sender = program.start(&["send", "json", &port, &length])?;
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
            watch.delivered_by(body.name(), 1);
            watch.verified(true)
        })
    })
}
