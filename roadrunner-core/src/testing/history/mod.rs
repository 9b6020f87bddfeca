//! A link is a queue in either direction: random histories over any transport, compared with one.

mod model;
mod room;

use super::fixture::Fixture;
use super::process::{beside_others, within};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use std::panic::Location;
use std::time::Duration;

/// Histories without `PROPTEST_CASES`.
const CASES: u32 = 32;

/// Lets the two ends of a link send, receive, overwrite what they sent, grow their memories, run out of time, close, go
/// away and open the link anew, in random order, from and to memories of either [backing](crate::Backing), and compares
/// what they see with a queue in either direction, and their memories with what belongs there. Shrinks a history that
/// differs.
///
/// 32 histories, or as many as the environment variable `PROPTEST_CASES` says; the other variables of proptest count too.
/// A history that differs is kept beside the file that called this, as `*.proptest-regressions`, and tried first from
/// then on.
///
/// # Panics
/// If a history differs.
#[track_caller]
pub fn follow<F: Fixture>(fixture: F) {
    let config = configuration(Location::caller().file());
    let cases = config.cases;
    let time = Duration::from_secs(10) * cases.max(12);
    let name = fixture.name().to_owned();
    let done = beside_others(|| {
        within(time, move || {
            let outcome = TestRunner::new(config)
                .run(&history(), |history| model::compare(&fixture, &history));
            if let Err(error) = outcome {
                panic!("{}: {error}", fixture.name());
            }
        })
    });
    assert!(done.is_some(), "{name}: a history hangs");
}

fn configuration(source: &'static str) -> Config {
    let defaults = Config::default();
    Config {
        cases: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => defaults.cases,
            None => CASES,
        },
        source_file: Some(source),
        // proptest's own choice, beside `src`, is not for files of `tests`. None if the environment says so.
        failure_persistence: defaults.failure_persistence.as_ref().map(|_| {
            Box::new(FileFailurePersistence::WithSource("proptest-regressions")) as Box<_>
        }),
        ..defaults
    }
}

/// What happens to one link, and then to those that are opened in its place.
#[derive(Debug, Clone)]
struct History {
    /// Sources whose pages nobody may exchange, whatever the fixture's are.
    opaque_sources: bool,
    /// The same for destinations.
    opaque_destinations: bool,
    steps: Vec<Step>,
}

/// One step of a history. `end` is 0 or 1.
#[derive(Debug, Clone)]
enum Step {
    Send(Sending),
    Receive {
        end: usize,
        /// Whether the memory grows when it is asked for a region.
        grows: bool,
        /// Whether there is no time to wait.
        hurried: bool,
    },
    /// The memories of an end grow by so many pages of WebAssembly.
    Grow {
        end: usize,
        pages: u64,
    },
    Close {
        end: usize,
    },
    Drop {
        end: usize,
    },
    /// Both ends go, and there is a new link.
    Reopen,
}

#[derive(Debug, Clone, Copy)]
struct Sending {
    end: usize,
    /// Bytes beyond the shortest for which the method runs.
    len: u64,
    place: Place,
    given: bool,
    /// Whether the source is overwritten when it is sent.
    overwrite: bool,
    hurried: bool,
}

/// Where a payload lies in the sender's memory.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// So many bytes behind the start.
    Start(u64),
    /// So many bytes before the end, wherever that is by now.
    End(u64),
}

fn history() -> impl Strategy<Value = History> {
    let steps = prop::collection::vec(step(), 0..32);
    (any::<bool>(), any::<bool>(), steps).prop_map(
        |(opaque_sources, opaque_destinations, steps)| History {
            opaque_sources,
            opaque_destinations,
            steps,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let end = 0..2_usize;
    let hurried = prop::bool::weighted(0.2);
    let receive =
        (end.clone(), prop::bool::weighted(0.2), hurried).prop_map(|(end, grows, hurried)| {
            Step::Receive {
                end,
                grows,
                hurried,
            }
        });
    prop_oneof![
        8 => sending().prop_map(Step::Send),
        8 => receive,
        1 => (end.clone(), 1..3_u64).prop_map(|(end, pages)| Step::Grow { end, pages }),
        1 => end.clone().prop_map(|end| Step::Close { end }),
        1 => end.prop_map(|end| Step::Drop { end }),
        1 => Just(Step::Reopen),
    ]
}

fn sending() -> impl Strategy<Value = Sending> {
    let len = prop_oneof![0..4_u64, 0..300_u64, 4090..4100_u64];
    let distance = prop_oneof![Just(0_u64), Just(13), Just(4096)];
    let place = (distance, any::<bool>()).prop_map(|(bytes, end)| {
        if end {
            Place::End(bytes)
        } else {
            Place::Start(bytes)
        }
    });
    let hurried = prop::bool::weighted(0.2);
    (
        0..2_usize,
        len,
        place,
        any::<bool>(),
        any::<bool>(),
        hurried,
    )
        .prop_map(|(end, len, place, given, overwrite, hurried)| Sending {
            end,
            len,
            place,
            given,
            overwrite,
            hurried,
        })
}

#[cfg(test)]
mod tests;
