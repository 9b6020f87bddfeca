//! How long an operation may wait.

use std::time::{Duration, Instant};

/// A point in time after which an operation stops waiting and returns [`Timeout`](crate::TransferError::Timeout).
///
/// It is absolute, so that an operation made of many steps does not start its time anew with each. Every operation
/// tries at least once before it looks at the clock: with [`Deadline::now`] it does what can be done without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The longest that [`Deadline::after`] looks ahead: 100 years, where "for ever" ends.
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    /// In `timeout` from now. Anything beyond 100 years counts as 100 years.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(timeout.min(Self::LONGEST)).unwrap_or(now))
    }

    /// At `instant`.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// Already passed: try once, never wait.
    #[must_use]
    pub fn now() -> Self {
        Self(Instant::now())
    }

    /// The point in time.
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time left, or `None` once it has passed.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.0
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_has_passed_and_the_far_future_has_not() {
        assert!(Deadline::now().has_passed());
        let far = Deadline::after(Duration::MAX);
        assert!(far.remaining().expect("far") > Duration::from_secs(1 << 30));
    }
}
