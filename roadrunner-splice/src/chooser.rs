//! Which method serves a connection best: measured by its first large payloads.

use nix::time::{clock_gettime, ClockId};
use roadrunner_core::Method;
use std::time::{Duration, Instant};

/// Payloads of so many bytes and more are measured, and go by what came of it: of shorter ones the socket's buffers take
/// too much of the time away.
const FROM: u64 = 4 << 20;
/// How often each method is tried. The first time it has to get its pages and pipes.
const ROUNDS: usize = 2;
/// Times that are no more than this longer than the shortest are equal: then the less work counts.
const EQUAL: f64 = 1.1;

/// What a payload has cost its sender, or how that is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    pub(crate) time: Duration,
    /// Of the processor, in this thread.
    pub(crate) work: Duration,
}

/// The clocks when a payload began.
#[derive(Debug)]
pub(crate) struct Clocks {
    time: Instant,
    work: Duration,
}

impl Clocks {
    pub(crate) fn start() -> Self {
        Self {
            time: Instant::now(),
            work: worked(),
        }
    }

    pub(crate) fn cost(&self) -> Cost {
        Cost {
            time: self.time.elapsed(),
            work: worked().saturating_sub(self.work),
        }
    }
}

/// Nothing if the system does not say.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Tries each method that there is, and chooses.
#[derive(Debug)]
pub(crate) struct Chooser {
    tried: Vec<Tried>,
    /// Payloads that were to try one.
    count: usize,
    chosen: Option<Method>,
}

/// A method, and the least that it took for a byte, in nanoseconds.
#[derive(Debug)]
struct Tried {
    method: Method,
    time: f64,
    work: f64,
}

impl Chooser {
    /// Of these methods, the first of which is used while nothing is known.
    pub(crate) fn new(methods: impl IntoIterator<Item = Method>) -> Self {
        let tried = methods.into_iter().map(|method| Tried {
            method,
            time: f64::INFINITY,
            work: f64::INFINITY,
        });
        Self {
            tried: tried.collect(),
            count: 0,
            chosen: None,
        }
    }

    /// By which one a payload of this length is to go, if that is possible.
    pub(crate) fn next(&self, len: u64) -> Option<Method> {
        let untried = if len < FROM { 0 } else { self.count };
        let chosen = self.chosen.filter(|_| len >= FROM);
        chosen.or_else(|| Some(self.tried.get(untried % self.tried.len().max(1))?.method))
    }

    /// Whether a payload of this length is to be measured.
    pub(crate) fn measures(&self, len: u64) -> bool {
        len >= FROM && self.chosen.is_none()
    }

    /// A payload has gone, by this method in the end.
    pub(crate) fn took(&mut self, method: Method, len: u64, cost: Cost) {
        if !self.measures(len) {
            return;
        }
        if let Some(tried) = self.tried.iter_mut().find(|one| one.method == method) {
            tried.time = tried.time.min(cost.time.as_nanos() as f64 / len as f64);
            tried.work = tried.work.min(cost.work.as_nanos() as f64 / len as f64);
        }
        self.count += 1;
        if self.count >= ROUNDS * self.tried.len() {
            self.chosen = self.best();
        }
    }

    /// Among the quickest the one with the least work.
    fn best(&self) -> Option<Method> {
        let least = self.tried.iter().map(|one| one.time).reduce(f64::min)?;
        let quick = self.tried.iter().filter(|one| one.time <= EQUAL * least);
        let best = quick.min_by(|a, b| a.work.total_cmp(&b.work))?;
        Some(best.method)
    }

    pub(crate) fn chosen(&self) -> Option<Method> {
        self.chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAYS: [Method; 3] = [Method::Splice, Method::Write, Method::ZeroCopySend];

    fn cost(time: u64, work: u64) -> Cost {
        Cost {
            time: Duration::from_millis(time),
            work: Duration::from_millis(work),
        }
    }

    /// What is chosen if each method takes this.
    fn chosen(costs: [Cost; 3]) -> Option<Method> {
        let mut chooser = Chooser::new(WAYS);
        for (round, (method, cost)) in WAYS.into_iter().zip(costs).cycle().take(6).enumerate() {
            assert_eq!((chooser.next(FROM), chooser.chosen()), (Some(method), None));
            assert_eq!(chooser.next(FROM - 1), Some(Method::Splice), "too short");
            // The first time is not held against it.
            let first = Duration::from_secs(u64::from(round < 3));
            chooser.took(
                method,
                FROM,
                Cost {
                    time: cost.time + first,
                    ..cost
                },
            );
            chooser.took(method, FROM - 1, self::cost(0, 0));
        }
        assert_eq!(chooser.next(FROM), chooser.chosen());
        assert_eq!(chooser.next(FROM - 1), Some(Method::Splice));
        assert!(!chooser.measures(FROM));
        chooser.chosen()
    }

    #[test]
    fn the_quickest_is_chosen_and_among_equals_the_one_with_the_least_work() {
        let [splice, write, zero_copy] = WAYS.map(Some);
        assert_eq!(
            chosen([cost(30, 1), cost(20, 9), cost(30, 1)]),
            write,
            "quickest"
        );
        assert_eq!(
            chosen([cost(20, 5), cost(21, 9), cost(21, 4)]),
            zero_copy,
            "equal"
        );
        assert_eq!(
            chosen([cost(20, 5), cost(20, 5), cost(20, 5)]),
            splice,
            "first"
        );
    }

    #[test]
    fn what_cannot_be_tried_does_not_keep_the_others_waiting() {
        let mut chooser = Chooser::new(WAYS);
        for _ in 0..6 {
            let method = match chooser.next(FROM) {
                Some(Method::Splice) => Method::Write,
                other => other.expect("one"),
            };
            chooser.took(method, FROM, cost(10, 10));
        }
        assert_eq!(chooser.chosen(), Some(Method::Write));
    }
}
