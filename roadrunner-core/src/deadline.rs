//! How long an operation may wait.

use std::time::{Duration, Instant};

/// A point in time after which an operation stops waiting and returns [`Timeout`](crate::TransferError::Timeout).
///
/// It is absolute, so that an operation made of many steps does not start its time anew with each. Every operation
/// tries at least once before it looks at the clock: with [`Deadline::now`] it does what can be done without waiting.
/// Deadlines are ordered by how long they let an operation wait; [`Deadline::now`] is the least of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
// The order of the fields is the order of deadlines.
pub struct Deadline {
    /// Whether an operation may wait at all.
    waits: bool,
    /// `None` for one that neither waits nor ends while it gets on.
    instant: Option<Instant>,
    /// The operation has begun, in time.
    begun: bool,
}

impl Deadline {
    /// The longest that [`Deadline::after`] looks ahead: 100 years, where "for ever" ends.
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    /// In `timeout` from now. Anything beyond 100 years counts as 100 years.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        let now = Instant::now();
        Self::at(now.checked_add(timeout.min(Self::LONGEST)).unwrap_or(now))
    }

    /// At `instant`.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self {
            waits: true,
            instant: Some(instant),
            begun: false,
        }
    }

    /// Already passed: try once, never wait.
    #[must_use]
    pub fn now() -> Self {
        Self {
            waits: false,
            instant: None,
            begun: true,
        }
    }

    /// For an operation that begins now, to be asked once: if it has passed by now, that is one that never waits, as with
    /// [`now`](Self::now), and the same otherwise. [`is_over`](Self::is_over) tells one from the other, however long the
    /// operation takes. The operations that this one is made of do not begin anew with it.
    #[must_use]
    pub fn begin(self) -> Self {
        if !self.begun && self.has_passed() {
            return Self::now();
        }
        Self {
            begun: true,
            ..self
        }
    }

    /// For a part of an operation that never waits, and ends when all of it does.
    #[must_use]
    pub(crate) fn without_waiting(self) -> Self {
        Self {
            waits: false,
            ..self.begin()
        }
    }

    /// Whether an operation that gets on has to end all the same, so that a peer that always takes or gives a little more
    /// does not put it off. Never with [`now`](Self::now): what needs no waiting is done, however long that takes.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.instant
            .is_some_and(|instant| instant <= Instant::now())
    }

    /// The point in time; the present one for [`now`](Self::now).
    #[must_use]
    pub fn instant(self) -> Instant {
        self.instant.unwrap_or_else(Instant::now)
    }

    /// The time left to wait, or `None` once it has passed.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.instant
            .filter(|_| self.waits)?
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
        assert!(!far.is_over() && far.begin().remaining().is_some());
        let passed = Deadline::at(Instant::now());
        assert!(passed.is_over(), "it began in time");
        assert_eq!(passed.begin(), Deadline::now());
        assert!(!Deadline::now().is_over() && !Deadline::now().begin().is_over());
    }

    #[test]
    fn an_operation_that_began_in_time_does_not_begin_anew_with_its_parts() {
        let moment = Duration::from_millis(1);
        // A machine that does something else meanwhile may begin late.
        let began = (0..100).find_map(|_| {
            let deadline = Deadline::after(moment).begin();
            (deadline != Deadline::now()).then_some(deadline)
        });
        let began = began.expect("once in a hundred times it begins in time");
        let part = began.without_waiting();
        assert!(part.has_passed() && part < began && part > Deadline::now());
        while !began.has_passed() {
            std::thread::yield_now();
        }
        assert!(began.is_over() && began.begin().is_over());
        assert!(part.is_over() && part.begin().is_over());
        assert_eq!(Deadline::now().without_waiting(), Deadline::now());
    }
}
