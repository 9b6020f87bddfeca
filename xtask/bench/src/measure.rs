//! Interleaved rounds of named candidates.
//!
//! Every candidate first runs alone, for the peak of the memory that it takes. Then all of them take turns, round by
//! round, so that what else the machine does meets all of them alike. A round is one payload or, where payloads are
//! small, a batch of them; its time is divided by their number, and percentiles are those of rounds.

mod watch;

pub(crate) use watch::{Receipts, Watch};

use crate::bench::{Experiment, Scale};
use crate::results::{Phase, Row};
use crate::usage::{self, Cpu};
use anyhow::{bail, Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the work that a round left behind, such as scrubbing pages, is waited for.
const SETTLING: Duration = Duration::from_millis(200);
/// While it lasts, the process is looked at so often.
const GLANCE: Duration = Duration::from_micros(200);

/// Rounds of experiments that take seconds each.
const HEAVY: usize = 3;

/// Does one round. It times its work with the watch, and tells it what was delivered and verified.
pub(crate) type Run<'a> = Box<dyn FnMut(&mut Watch) -> Result<()> + 'a>;

/// One way of doing what is measured.
pub(crate) struct Candidate<'a> {
    name: String,
    transport: &'static str,
    /// If they are not the experiment's.
    bytes: Option<u64>,
    make: Box<dyn FnMut() -> Result<Run<'a>> + 'a>,
}

impl<'a> Candidate<'a> {
    /// `name` is what was asked for, `transport` whose code it is (`mem`, `memcpy`, …). `make` sets up memories, links
    /// and peers, and is called twice; what it makes lives for all rounds.
    pub(crate) fn new<R>(
        name: impl Into<String>,
        transport: &'static str,
        mut make: impl FnMut() -> Result<R> + 'a,
    ) -> Self
    where
        R: FnMut(&mut Watch) -> Result<()> + 'a,
    {
        Self {
            name: name.into(),
            transport,
            bytes: None,
            make: Box::new(move || Ok(Box::new(make()?) as Run<'a>)),
        }
    }

    /// Its payloads have so many bytes, others than those of the experiment.
    pub(crate) fn of(self, bytes: u64) -> Self {
        Self {
            bytes: Some(bytes),
            ..self
        }
    }
}

/// The rows of an experiment, by candidate. None if it was not asked for: medians are then not a number, nor is what is
/// made of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured(Vec<Row>);

impl Measured {
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.0.iter()
    }

    /// The same experiment's other candidates.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether the experiment was not asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// If there was no such candidate.
    pub(crate) fn row(&self, candidate: &str) -> Result<&Row> {
        self.0
            .iter()
            .find(|row| row.candidate == candidate)
            .with_context(|| format!("no candidate {candidate}"))
    }

    /// The median of a candidate, in nanoseconds.
    ///
    /// # Errors
    /// If there was no such candidate.
    pub(crate) fn p50(&self, candidate: &str) -> Result<f64> {
        if self.is_empty() {
            return Ok(f64::NAN);
        }
        Ok(self.row(candidate)?.p50_ns)
    }

    /// How many times as long as `ours` the median of `theirs` is.
    ///
    /// # Errors
    /// If there was no such candidate.
    pub(crate) fn ratio(&self, theirs: &str, ours: &str) -> Result<f64> {
        Ok(self.p50(theirs)? / self.p50(ours)?)
    }

    /// The same within each round; the median of that. Where what the machine does from one moment to the next moves times
    /// by more than the candidates differ, it moves those of one round alike.
    ///
    /// # Errors
    /// If there was no such candidate.
    pub(crate) fn paired(&self, theirs: &str, ours: &str) -> Result<f64> {
        if self.is_empty() {
            return Ok(f64::NAN);
        }
        let (theirs, ours) = (self.row(theirs)?, self.row(ours)?);
        let rounds = theirs.times.iter().zip(&ours.times);
        let mut ratios: Vec<_> = rounds.map(|(theirs, ours)| theirs / ours).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        Ok(percentile(&ratios, 50.0))
    }
}

/// A candidate with what came out of its rounds.
struct Runner<'a> {
    candidate: Candidate<'a>,
    run: Run<'a>,
    peak: Peak,
    times: Vec<f64>,
    phases: BTreeMap<&'static str, Vec<f64>>,
    faults: BTreeMap<&'static str, u64>,
    cpu: Cpu,
    waits: u64,
    payloads: u64,
    delivered: u64,
    verified: u64,
    methods: BTreeSet<String>,
}

/// Measures candidates in turns.
pub(crate) fn interleaved(
    scale: Scale,
    experiment: Experiment,
    candidates: Vec<Candidate<'_>>,
) -> Result<Measured> {
    let (mut least, mut most, budget) = scale.rounds();
    if experiment.large {
        least = least.div_ceil(2);
    }
    if experiment.heavy {
        (least, most) = (least.min(HEAVY), most.min(HEAVY));
    }
    let mut peaks = Vec::new();
    let mut candidates = candidates;
    for candidate in &mut candidates {
        peaks.push(alone(candidate, experiment).with_context(|| candidate.describe(experiment))?);
    }
    let mut runners = Vec::new();
    for (mut candidate, peak) in candidates.into_iter().zip(peaks) {
        let run = (candidate.make)().with_context(|| candidate.describe(experiment))?;
        runners.push(Runner::new(candidate, run, peak));
    }
    let mut turns = 0;
    let mut turn = |runners: &mut Vec<Runner<'_>>| {
        turns += 1;
        let round = |runner: &mut Runner<'_>| {
            let done = runner.round();
            done.with_context(|| runner.candidate.describe(experiment))
        };
        // Nobody always comes after the same one.
        if turns % 2 == 1 {
            runners.iter_mut().try_for_each(round)
        } else {
            runners.iter_mut().rev().try_for_each(round)
        }
    };
    if scale != Scale::Smoke {
        // The first touch of memory is not what is measured. The second turn finds what the first has left: only from there on
        // there are as many buffers as there will be.
        turn(&mut runners)?;
        if !experiment.heavy {
            turn(&mut runners)?;
        }
        runners.iter_mut().for_each(Runner::forget);
    }
    let began = Instant::now();
    let shares = if experiment.crowded { 2 } else { 1 };
    let budget = budget * runners.len() as u32 / shares;
    for round in 0..most {
        if round >= least && began.elapsed() >= budget {
            break;
        }
        turn(&mut runners)?;
    }
    Ok(Measured(
        runners
            .into_iter()
            .map(|runner| runner.row(experiment))
            .collect(),
    ))
}

/// The most memory that a candidate took.
#[derive(Debug, Clone, Copy)]
struct Peak {
    /// What was resident, shared pages counted for each mapping.
    resident: u64,
    /// Each page once; where the experiment asks for it.
    footprint: Option<u64>,
}

/// A few rounds with no other candidate about.
fn alone(candidate: &mut Candidate<'_>, experiment: Experiment) -> Result<Peak> {
    // The second finds what the first has left: only from there on there are as many buffers as there will be.
    let rounds = if experiment.heavy { 1 } else { 2 };
    let resettable = usage::reset_peak().is_ok();
    let mut run = (candidate.make)()?;
    let sampler = experiment.footprint.then(usage::Sampler::start);
    let mut elsewhere = 0;
    for _ in 0..rounds {
        let mut watch = Watch::default();
        run(&mut watch)?;
        elsewhere = elsewhere.max(watch.peak_elsewhere);
    }
    let footprint = sampler.map(usage::Sampler::stop);
    let resident = usage::peak_rss().unwrap_or(0) + elsewhere;
    drop(run);
    if resettable {
        // Cannot fail now.
        let _ = usage::reset_peak();
    }
    Ok(Peak {
        resident,
        footprint,
    })
}

impl Candidate<'_> {
    fn describe(&self, experiment: Experiment) -> String {
        format!(
            "{} of {} bytes by {}",
            experiment.name, experiment.bytes, self.name
        )
    }
}

impl<'a> Runner<'a> {
    fn new(candidate: Candidate<'a>, run: Run<'a>, peak: Peak) -> Self {
        Self {
            candidate,
            run,
            peak,
            times: Vec::new(),
            phases: BTreeMap::new(),
            faults: BTreeMap::new(),
            cpu: Cpu::default(),
            waits: 0,
            payloads: 0,
            delivered: 0,
            verified: 0,
            methods: BTreeSet::new(),
        }
    }

    fn forget(&mut self) {
        self.times.clear();
        self.phases.clear();
        self.faults.clear();
        self.cpu = Cpu::default();
        (self.waits, self.payloads) = (0, 0);
        (self.delivered, self.verified) = (0, 0);
        self.methods.clear();
    }

    fn round(&mut self) -> Result<()> {
        let mut watch = Watch::default();
        let before = Cpu::of_process();
        (self.run)(&mut watch)?;
        watch.beside(settle);
        self.cpu += Cpu::of_process() - before - watch.beside + watch.elsewhere;
        if watch.delivered == 0 || watch.verified < watch.delivered {
            bail!(
                "{} of {} payloads were verified",
                watch.verified,
                watch.delivered
            );
        }
        let payloads = watch.payloads.unwrap_or(watch.delivered);
        self.payloads += payloads;
        self.waits += watch.waits;
        let per_payload = |time: Duration| time.as_secs_f64() * 1e9 / payloads as f64;
        self.times.push(per_payload(watch.time));
        for (name, time) in watch.phases {
            self.phases.entry(name).or_default().push(per_payload(time));
        }
        for (name, count) in watch.faults {
            *self.faults.entry(name).or_default() += count;
        }
        self.delivered += watch.delivered;
        self.verified += watch.verified;
        self.methods.extend(watch.methods);
        Ok(())
    }

    fn row(mut self, experiment: Experiment) -> Row {
        let times = self.times.clone();
        self.times.sort_unstable_by(f64::total_cmp);
        let phases = self.phases.iter_mut().map(|(name, times)| {
            times.sort_unstable_by(f64::total_cmp);
            let [p50_ns, p95_ns, p99_ns] =
                [50.0, 95.0, 99.0].map(|percent| percentile(times, percent).round());
            let faults = self.faults.get(name).copied().unwrap_or(0);
            let phase = Phase {
                p50_ns,
                p95_ns,
                p99_ns,
                faults: (faults as f64 / self.payloads as f64).round(),
            };
            ((*name).to_owned(), phase)
        });
        let phases = phases.collect();
        let tenths = |nanoseconds: f64| (nanoseconds * 10.0).round() / 10.0;
        let percentile = |percent| tenths(percentile(&self.times, percent));
        let per_payload = |time: Duration| tenths(time.as_secs_f64() * 1e9 / self.payloads as f64);
        let bytes = self.candidate.bytes.unwrap_or(experiment.bytes);
        let per_second = |amount: f64| tenths(amount * 1e9 / percentile(50.0));
        let methods: Vec<_> = self.methods.iter().map(String::as_str).collect();
        Row {
            experiment: experiment.name.to_owned(),
            candidate: self.candidate.name.clone(),
            transport: self.candidate.transport.to_owned(),
            method: methods.join("+"),
            bytes,
            fanout: experiment.fanout,
            p50_ns: percentile(50.0),
            p95_ns: percentile(95.0),
            p99_ns: percentile(99.0),
            requests_per_s: per_second(experiment.fanout.into()),
            bytes_per_s: per_second(bytes as f64 * f64::from(experiment.fanout)),
            phases,
            times,
            spread_ns: tenths(spread(&self.times)),
            rounds: self.times.len() as u64,
            waits: self.waits as f64 / self.payloads as f64,
            payloads: self.payloads,
            delivered: self.delivered,
            verified: self.verified,
            cpu_user_ns: per_payload(self.cpu.user),
            cpu_sys_ns: per_payload(self.cpu.sys),
            peak_rss_bytes: self.peak.resident,
            footprint_bytes: self.peak.footprint,
        }
    }
}

/// Waits until no other thread of this process works: what a round left behind is charged to it, and does not disturb
/// the next one.
fn settle() {
    let began = Instant::now();
    let others = || {
        Cpu::of_process()
            .total()
            .saturating_sub(Cpu::of_thread().total())
    };
    let mut before = others();
    while began.elapsed() < SETTLING {
        std::thread::sleep(GLANCE);
        let now = others();
        if now.saturating_sub(before) < GLANCE / 10 {
            return;
        }
        before = now;
    }
}

/// By nearest rank. `sorted` is not empty.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The median of the distances from the median.
fn spread(sorted: &[f64]) -> f64 {
    let middle = percentile(sorted, 50.0);
    let mut distances: Vec<_> = sorted.iter().map(|time| (time - middle).abs()).collect();
    distances.sort_unstable_by(f64::total_cmp);
    percentile(&distances, 50.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&times, 50.0), 50.0);
        assert_eq!(percentile(&times, 95.0), 95.0);
        assert_eq!(percentile(&times, 99.0), 99.0);
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 100.0]), 1.0);
    }

    fn candidate<'a>(
        name: &'static str,
        log: &'a RefCell<Vec<&'static str>>,
        verify: bool,
    ) -> Candidate<'a> {
        Candidate::new(name, "test", move || {
            Ok(move |watch: &mut Watch| {
                log.borrow_mut().push(name);
                watch.time(|| std::thread::sleep(Duration::from_millis(2)));
                watch.delivered_by("copy", 2);
                if verify {
                    watch.verified_all(true, 2)?;
                }
                Ok(())
            })
        })
    }

    #[test]
    fn candidates_take_turns() {
        let log = RefCell::new(Vec::new());
        let candidates = vec![candidate("a", &log, true), candidate("b", &log, true)];
        let measured =
            interleaved(Scale::Quick, Experiment::new("x", 5), candidates).expect("it runs");
        let log = log.into_inner();
        assert_eq!(log[..4], ["a", "a", "b", "b"], "each alone");
        assert_eq!(log[4..12], ["a", "b", "b", "a", "a", "b", "b", "a"]);
        let row = measured.row("b").expect("a row");
        assert_eq!((row.method.as_str(), row.bytes, row.fanout), ("copy", 5, 1));
        assert!(row.rounds >= 7 && row.verified == 2 * row.rounds);
        assert!(row.p50_ns >= 1e6, "divided by the two payloads of a round");
        assert!(row.p50_ns <= row.p95_ns && row.p95_ns <= row.p99_ns);
        assert!(measured.row("c").is_err());
        assert_eq!(row.times.len() as u64, row.rounds);
    }

    #[test]
    fn rounds_are_compared_one_by_one() {
        let log = RefCell::new(Vec::new());
        let candidates = vec![candidate("a", &log, true), candidate("b", &log, true)];
        let mut measured =
            interleaved(Scale::Smoke, Experiment::new("x", 5), candidates).expect("it runs");
        // A machine that is five times as slow every now and then.
        measured.0[0].times = vec![2.0, 10.0, 2.0, 10.0, 2.0];
        measured.0[1].times = vec![1.0, 5.0, 1.0, 5.0, 1.0];
        assert_eq!(measured.paired("a", "b").expect("both"), 2.0);
        assert!(measured.paired("a", "c").is_err());
        assert!(Measured::default().paired("a", "b").expect("none").is_nan());
    }

    #[test]
    fn a_payload_that_nobody_verified_is_an_error() {
        let log = RefCell::new(Vec::new());
        let candidates = vec![candidate("a", &log, false)];
        let error = interleaved(Scale::Smoke, Experiment::new("x", 5), candidates)
            .expect_err("not verified");
        assert!(format!("{error:#}").contains("0 of 2 payloads were verified"));
    }
}
