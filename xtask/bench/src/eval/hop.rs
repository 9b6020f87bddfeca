//! What a hop between two functions is made of, and how its parts are told.

use crate::measure::Watch;
use crate::uds::clock;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the receiver's side says of a payload.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Arrival {
    /// When it lay in the receiver's memory, and when that had read all of it.
    pub(super) arrived: Duration,
    pub(super) consumed: Duration,
    pub(super) sum: u64,
    /// [`Method::code`](roadrunner_core::Method::code), if there is one.
    pub(super) method: u8,
    pub(super) copies: u8,
}

/// When the parts of a round began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Departure {
    pub(super) began: Duration,
    pub(super) produced: Duration,
}

impl Departure {
    pub(super) fn now() -> Self {
        let now = clock::now();
        Self {
            began: now,
            produced: now,
        }
    }

    pub(super) fn produced(&mut self) {
        self.produced = clock::now();
    }

    /// The round is over.
    pub(super) fn tell(self, arrival: Arrival, watch: &mut Watch) {
        let now = clock::now();
        watch.add_time(now.saturating_sub(self.began));
        watch.phase("produce", self.produced.saturating_sub(self.began));
        watch.phase(HOP, arrival.arrived.saturating_sub(self.produced));
        watch.phase("consume", arrival.consumed.saturating_sub(arrival.arrived));
        watch.phase("answer", now.saturating_sub(arrival.consumed));
    }
}

/// From the moment that a payload is there to the moment that it lies in the other function's memory, as bytes: the
/// latency that the ratios are about.
pub(crate) const HOP: &str = "hop";
/// The part of a hop in which bytes become JSON, and JSON bytes.
pub(super) const SERIALIZE: &str = "serialize";
