//! Times that two processes can compare, and processor time to the nanosecond.

use nix::sys::time::TimeValLike;
use nix::time::{clock_gettime, ClockId};
use std::time::Duration;

/// Since the machine started, the same for all processes (clock_gettime(2), `CLOCK_MONOTONIC`).
pub(crate) fn now() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// What this process has spent on processors.
pub(crate) fn spent() -> Duration {
    read(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: ClockId) -> Duration {
    // Both clocks exist on every Linux, and neither is negative.
    let nanoseconds = clock_gettime(clock).map_or(0, |time| time.num_nanoseconds());
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}
