//! How long an operation may wait.

use std::time::{Duration, Instant};

/// A point in time after which an operation stops waiting and returns [`Timeout`](crate::TransferError::Timeout).
///
/// It is absolute, so that an operation made of many steps does not start its time anew with each. Every operation
/// tries at least once before it looks at the clock: with [`Deadline::now`] it does what can be done without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
// Without an instant it is the one that has passed before anything begins; it is the least of all.
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// The longest that [`Deadline::after`] looks ahead: 100 years, where "for ever" ends.
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    /// In `timeout` from now. Anything beyond 100 years counts as 100 years.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(timeout.min(Self::LONGEST)).or(Some(now)))
    }

    /// At `instant`.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// Already passed: try once, never wait.
    #[must_use]
    pub fn now() -> Self {
        Self(None)
    }

    /// For an operation that begins now, to be asked once: if it has passed by now, that is one that never waits, as with
    /// [`now`](Self::now), and the same otherwise. [`is_over`](Self::is_over) tells one from the other, however long the
    /// operation takes.
    #[must_use]
    pub fn begin(self) -> Self {
        if self.has_passed() {
            Self::now()
        } else {
            self
        }
    }

    /// Whether an operation that gets on has to end all the same, so that a peer that always takes or gives a little more
    /// does not put it off. Never with [`now`](Self::now): what needs no waiting is done, however long that takes.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.0.is_some() && self.has_passed()
    }

    /// The point in time; the present one for [`now`](Self::now).
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0.unwrap_or_else(Instant::now)
    }

    /// The time left, or `None` once it has passed.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.0?
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
        assert_eq!(far.min(Deadline::now()), Deadline::now());
        assert!(Deadline::now().instant() < far.instant());
    }

    #[test]
    fn an_operation_that_begins_late_is_one_that_never_waits() {
        let far = Deadline::after(Duration::from_secs(100));
        assert!(!far.is_over() && far.begin() == far);
        let passed = Deadline::at(Instant::now());
        assert!(passed.is_over(), "it began in time");
        assert!(!passed.begin().is_over() && !Deadline::now().is_over());
    }
}
