//! Waiting for any of several links.

use roadrunner_core::Deadline;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Rings when something happens on one of the links that it was hung on: a payload, an end, the peer's death.
///
/// A ring that comes before the wait is not lost: the next [`wait`](Self::wait) returns at once. One ring may stand for
/// several happenings: after it, receive from every link until none [is ready](crate::Link::is_ready). It may also have
/// rung for what is no longer there, such as a payload whose sender gave up.
#[derive(Debug, Clone, Default)]
pub struct Doorbell(Arc<Bell>);

#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Doorbell {
    /// A bell that has not rung.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until it has rung since the last wait; false if the deadline passed before.
    #[must_use]
    pub fn wait(&self, deadline: Deadline) -> bool {
        let mut rung = locked(&self.0.rung);
        while !*rung {
            let Some(left) = deadline.remaining() else {
                return false;
            };
            rung = self
                .0
                .changed
                .wait_timeout(rung, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *rung = false;
        true
    }

    pub(crate) fn ring(&self) {
        *locked(&self.0.rung) = true;
        self.0.changed.notify_one();
    }
}

/// No code of this crate panics while it holds a lock.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
