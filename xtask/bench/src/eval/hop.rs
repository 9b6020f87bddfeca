//! What a hop between two functions is made of, and how its parts are told.

use crate::clock;
use crate::measure::Watch;
use crate::usage;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// From the moment that a payload is there to the moment that it lies in the other function's memory, as bytes: the
/// latency that the ratios are about.
pub(crate) const HOP: &str = "hop";
/// The part of a hop in which bytes become JSON, and JSON bytes.
pub(crate) const SERIALIZE: &str = "serialize";
/// The part of a hop in which the receiving function finds room.
pub(crate) const ALLOCATE: &str = "allocate";
pub(crate) const PRODUCE: &str = "produce";
pub(crate) const CONSUME: &str = "consume";
/// From the last byte read to the round's end.
pub(crate) const ANSWER: &str = "answer";

/// What the receiver's side says of a payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Arrival {
    /// When it was waited for, lay in the receiver's memory, and had been read by that.
    waited: Duration,
    arrived: Duration,
    consumed: Duration,
    allocated: Duration,
    /// Page faults of the receiver until the one, and from there to the other.
    faults: [u64; 2],
    pub(super) sum: u64,
    pub(super) method: String,
}

/// The receiver's side of a round. Begins when it starts to wait.
#[derive(Debug)]
pub(super) struct Receiving {
    began: Duration,
    before: u64,
    arrived: Duration,
    faults: u64,
    allocated: Duration,
}

impl Receiving {
    pub(super) fn begin() -> Self {
        Self {
            began: clock::now(),
            before: usage::faults(),
            arrived: Duration::ZERO,
            faults: 0,
            allocated: Duration::ZERO,
        }
    }

    /// The payload lies in the receiver's memory; finding room there took so long.
    pub(super) fn arrived(&mut self, allocated: Duration) {
        self.arrived = clock::now();
        self.faults = usage::faults();
        self.allocated = allocated;
    }

    /// All of it has been read.
    pub(super) fn consumed(self, sum: u64, method: impl Into<String>) -> Arrival {
        Arrival {
            waited: self.began,
            arrived: self.arrived,
            consumed: clock::now(),
            allocated: self.allocated,
            faults: [
                self.faults.saturating_sub(self.before),
                usage::faults().saturating_sub(self.faults),
            ],
            sum,
            method: method.into(),
        }
    }
}

/// The sender's side of a round. Begins when it starts to produce.
#[derive(Debug, Clone, Copy)]
pub(super) struct Departure {
    began: Duration,
    produced: Duration,
    /// Page faults of the sender at each of these times, and when it had sent.
    faults: [u64; 3],
}

impl Departure {
    pub(super) fn begin() -> Self {
        let now = clock::now();
        Self {
            began: now,
            produced: now,
            faults: [usage::faults(); 3],
        }
    }

    pub(super) fn produced(&mut self) {
        self.produced = clock::now();
        self.faults[1] = usage::faults();
    }

    pub(super) fn sent(&mut self) {
        self.faults[2] = usage::faults();
    }

    /// The round is over for all of many receivers. Hop and consumption are the means of theirs: a hop begins when the
    /// payload is there and the thread that serves the receiver looks for it.
    pub(super) fn tell_all(self, arrivals: &[Arrival], watch: &mut Watch) {
        watch.add_time(clock::now().saturating_sub(self.began));
        watch.phase(PRODUCE, self.produced.saturating_sub(self.began));
        let mean = |part: fn(&Self, &Arrival) -> Duration| {
            let sum: Duration = arrivals.iter().map(|arrival| part(&self, arrival)).sum();
            sum / u32::try_from(arrivals.len()).unwrap_or(u32::MAX).max(1)
        };
        let hop = mean(|from, to| to.arrived.saturating_sub(to.waited.max(from.produced)));
        watch.phase(HOP, hop);
        watch.phase(
            CONSUME,
            mean(|_, to| to.consumed.saturating_sub(to.arrived)),
        );
        for arrival in arrivals {
            watch.faults(HOP, arrival.faults[0]);
            watch.faults(CONSUME, arrival.faults[1]);
            watch.delivered_by(&arrival.method, 1);
        }
    }

    /// The round is over.
    pub(super) fn tell(self, arrival: &Arrival, watch: &mut Watch) {
        let now = clock::now();
        watch.add_time(now.saturating_sub(self.began));
        watch.phase(PRODUCE, self.produced.saturating_sub(self.began));
        watch.phase(HOP, arrival.arrived.saturating_sub(self.produced));
        watch.phase(ALLOCATE, arrival.allocated);
        watch.phase(CONSUME, arrival.consumed.saturating_sub(arrival.arrived));
        watch.phase(ANSWER, now.saturating_sub(arrival.consumed));
        let [began, produced, sent] = self.faults;
        let sending = sent.saturating_sub(produced);
        watch.faults(PRODUCE, produced.saturating_sub(began));
        watch.faults(HOP, sending + arrival.faults[0]);
        watch.faults(CONSUME, arrival.faults[1]);
        watch.delivered_by(&arrival.method, 1);
    }
}
