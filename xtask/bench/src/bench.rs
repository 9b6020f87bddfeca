//! What an experiment is given.

use crate::measure::{self, Candidate, Measured};
use crate::results::{Machine, Ratio, Results};
use crate::usage;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Enough rounds for figures that can be published.
    Full,
    /// A quarter of the time.
    Quick,
    /// One round, and no payload above 5 MB: shows that everything runs.
    Smoke,
}

impl Scale {
    /// How many rounds of each candidate, at least and at most, and how long they should take in all.
    pub(crate) fn rounds(self) -> (usize, usize, Duration) {
        match self {
            Self::Full => (15, 401, Duration::from_millis(1200)),
            Self::Quick => (7, 101, Duration::from_millis(300)),
            Self::Smoke => (1, 1, Duration::ZERO),
        }
    }
}

/// What is measured: one row for each candidate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Experiment {
    /// For example `mem.steady`.
    pub(crate) name: &'static str,
    /// Bytes of a payload.
    pub(crate) bytes: u64,
    /// Receivers of each payload.
    pub(crate) fanout: u32,
    /// Takes a second: half as many rounds at least, and fewer before them.
    pub(crate) large: bool,
    /// Has so many candidates that each gets half of the usual time.
    pub(crate) crowded: bool,
    /// Takes seconds: three rounds, whatever the scale.
    pub(crate) heavy: bool,
    /// The memory of all processes is looked at with every page counted once, too.
    pub(crate) footprint: bool,
    /// How much of the whole run it is, beside those that say nothing.
    pub(crate) weight: u64,
}

impl Experiment {
    /// With one receiver.
    pub(crate) fn new(name: &'static str, bytes: u64) -> Self {
        Self {
            name,
            bytes,
            fanout: 1,
            large: false,
            crowded: false,
            heavy: false,
            footprint: false,
            weight: 1,
        }
    }

    pub(crate) fn fanout(self, fanout: u32) -> Self {
        Self { fanout, ..self }
    }

    pub(crate) fn large(self, large: bool) -> Self {
        Self { large, ..self }
    }

    pub(crate) fn crowded(self) -> Self {
        Self {
            crowded: true,
            ..self
        }
    }

    pub(crate) fn footprint(self) -> Self {
        Self {
            footprint: true,
            ..self
        }
    }

    pub(crate) fn weight(self, weight: u64) -> Self {
        Self { weight, ..self }
    }

    pub(crate) fn heavy(self) -> Self {
        Self {
            heavy: true,
            ..self
        }
    }
}

/// The time left, if the rest takes as long as its weight says: an experiment of minutes is one step, so that the speed of
/// the last steps tells nothing.
fn left(state: &ProgressState, text: &mut dyn std::fmt::Write) {
    let done = f64::from(state.fraction());
    if done > 0.0 {
        let left = state.elapsed().mul_f64((1.0 - done) / done);
        // Cannot fail; there is nobody to tell either.
        let _ = write!(text, "{:.0} min", left.as_secs_f64() / 60.0);
    } else {
        let _ = text.write_str("?");
    }
}

/// A run: how much to measure, and what came out so far.
pub(crate) struct Bench {
    scale: Scale,
    functions: PathBuf,
    baselines: PathBuf,
    /// Parts of the names of those experiments that are run; none for all.
    wanted: Vec<String>,
    bar: ProgressBar,
    results: Results,
}

impl Bench {
    pub(crate) fn new(
        scale: Scale,
        functions: PathBuf,
        baselines: PathBuf,
        wanted: Vec<String>,
    ) -> Self {
        // Draws on a terminal, and nothing elsewhere.
        let bar = ProgressBar::new(0);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:24} {percent:>3} % {msg} ({elapsed}, {left} left)")
        {
            bar.set_style(style.with_key("left", left));
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        let mut bench = Self {
            scale,
            functions,
            baselines,
            wanted,
            bar,
            results: Results::new(Machine::this(), scale),
        };
        if let Err(error) = usage::reset_peak() {
            let why = format!("cannot be reset ({error}): it is that of the run so far");
            bench.skip("peak_rss_bytes", &why);
        }
        bench
    }

    pub(crate) fn is_full(&self) -> bool {
        self.scale == Scale::Full
    }

    pub(crate) fn is_smoke(&self) -> bool {
        self.scale == Scale::Smoke
    }

    /// The file of an example function.
    pub(crate) fn function(&self, name: &str) -> PathBuf {
        self.functions.join(Path::new(name).with_extension("wasm"))
    }

    /// The file of a program that functions are compared with.
    pub(crate) fn baseline(&self, name: &str) -> PathBuf {
        self.baselines.join(Path::new(name).with_extension("wasm"))
    }

    /// The length that stands for `bytes` at this scale.
    pub(crate) fn bytes(&self, bytes: u64) -> u64 {
        match self.scale {
            Scale::Smoke => bytes.min(5_000_000),
            Scale::Full | Scale::Quick => bytes,
        }
    }

    /// Those of `sizes` that are measured at this scale.
    pub(crate) fn sizes(&self, sizes: &[u64]) -> Vec<u64> {
        let mut sizes: Vec<_> = sizes.iter().map(|bytes| self.bytes(*bytes)).collect();
        sizes.dedup();
        sizes
    }

    /// So many calls of [`measure`](Self::measure) will follow, or so much by their weights: for the time left.
    pub(crate) fn expect(&mut self, experiments: usize) {
        self.bar.inc_length(experiments as u64);
    }

    /// Measures the candidates in turns, and adds a row for each, if the experiment is asked for.
    pub(crate) fn measure(
        &mut self,
        experiment: Experiment,
        candidates: Vec<Candidate<'_>>,
    ) -> Result<Measured> {
        self.bar
            .set_message(format!("{} {}", experiment.name, experiment.bytes));
        let mut wanted = self.wanted.iter();
        if !self.wanted.is_empty() && !wanted.any(|part| experiment.name.contains(part)) {
            self.bar.inc(experiment.weight);
            return Ok(Measured::default());
        }
        let measured = measure::interleaved(self.scale, experiment, candidates);
        self.bar.inc(experiment.weight);
        let measured = measured?;
        self.results.rows.extend(measured.rows().cloned());
        Ok(measured)
    }

    /// Keeps a ratio, unless it is not a number: of experiments that were not asked for.
    pub(crate) fn ratio(&mut self, ratio: Ratio) {
        if ratio.value.is_finite() {
            self.results.ratios.push(ratio);
        }
    }

    /// Something that cannot be measured on this machine: said at once, and in the results.
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        let line = format!("{what}: {why}");
        self.bar.suspend(|| eprintln!("skipped: {line}"));
        self.results.skipped.push(line);
    }

    /// Says at once, and in the results, what went wrong; what was measured before is kept, and the rest goes on.
    pub(crate) fn unless_failed<T>(&mut self, done: Result<T>) -> Option<T> {
        done.map_err(|error| {
            let line = format!("{error:#}");
            self.bar.suspend(|| eprintln!("failed: {line}"));
            self.results.failed.push(line);
        })
        .ok()
    }

    pub(crate) fn finish(self) -> Results {
        self.bar.finish_and_clear();
        self.results
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Watch;
    use anyhow::bail;

    #[test]
    fn an_experiment_that_fails_costs_no_results_but_its_own() {
        let mut bench = Bench::new(Scale::Smoke, PathBuf::new(), PathBuf::new(), Vec::new());
        for works in [true, false, true] {
            let candidate = Candidate::new("worker", "test", move || {
                Ok(move |watch: &mut Watch| {
                    if !works {
                        bail!("cut in the middle");
                    }
                    watch.delivered_by("test", 1);
                    watch.verified(true)
                })
            });
            let done = bench.measure(Experiment::new("test", 1), vec![candidate]);
            assert_eq!(bench.unless_failed(done).is_some(), works);
        }
        let results = bench.finish();
        assert_eq!(results.rows.len(), 2);
        let [told] = &results.failed[..] else {
            panic!("{:?}", results.failed);
        };
        assert!(
            told.contains("worker") && told.contains("cut in the middle"),
            "{told}"
        );
    }
}
