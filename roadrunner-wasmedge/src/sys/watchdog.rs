//! Stops guests whose time is up.
//!
//! A guest that runs for ever has to be stopped from outside. WasmEdge's own way, code compiled as *interruptible*, puts
//! an atomic exchange into every loop (summing 100 MB took twelve times as long), and needs a thread per call (some
//! 100 µs). Here one thread per process waits for the earliest deadline and then takes the permission to execute away
//! from the code of that function's instance. The guest's next instruction faults, and WasmEdge turns the fault into a
//! trap as it does with any other. It costs a running guest nothing, it works wherever the thread is at that moment (in
//! WasmEdge, in a host function, in the kernel), and it reaches no other function: every instance loads code of its own.

use nix::libc;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where code that WasmEdge loaded for one [`Ast`](super::ast::Ast) is mapped.
///
/// Found as what became private, anonymous and executable while WasmEdge loaded it. Code that somebody else in this
/// process generates at the very same moment would be taken for it; it would have to be another just-in-time compiler,
/// as libraries are mapped from files, and it would only lose its permission if that function missed its deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CodeRange(Range<usize>);

impl CodeRange {
    pub(super) fn new(range: Range<usize>) -> Self {
        Self(range)
    }

    pub(super) fn contains(&self, address: usize) -> bool {
        self.0.contains(&address)
    }

    /// Makes its instructions fault. It stays readable: the unwinder looks at it.
    ///
    /// # Safety
    /// The range must still be mapped for the instance that it was found for.
    unsafe fn forbid(&self) -> bool {
        let start = self.0.start as *mut libc::c_void;
        // SAFETY: mprotect(2) with PROT_READ takes rights away and never changes a byte; the caller promises that the
        // pages are the code of that instance, to which nobody holds a Rust reference. Executing it from now on is a
        // fault that WasmEdge handles, as code only ever runs inside its fault handler.
        unsafe { libc::mprotect(start, self.0.len(), libc::PROT_READ) == 0 }
    }
}

/// How long to wait before trying again, should the kernel have refused.
const AGAIN: Duration = Duration::from_millis(10);

struct Watch {
    id: u64,
    at: Instant,
    code: Arc<[CodeRange]>,
    expired: bool,
}

#[derive(Default)]
struct State {
    watches: Vec<Watch>,
    next_id: u64,
    /// When the thread will look by itself; `None` while it waits to be told.
    wakes_at: Option<Instant>,
}

static STATE: Mutex<State> = Mutex::new(State {
    watches: Vec::new(),
    next_id: 0,
    wakes_at: None,
});
static CHANGED: Condvar = Condvar::new();
static RUNNING: AtomicBool = AtomicBool::new(false);

fn state() -> MutexGuard<'static, State> {
    // Nothing below panics while it holds the lock; should it, the state is still a list of watches.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One call into a guest that is being watched.
pub(crate) struct Watched {
    id: u64,
}

/// Watches a call that begins now: at `at` the guest loses the right to execute `code`.
///
/// # Safety
/// The code must stay mapped until the result is dropped.
pub(crate) unsafe fn watch(at: Instant, code: Arc<[CodeRange]>) -> Watched {
    let mut state = state();
    let id = state.next_id;
    state.next_id += 1;
    state.watches.push(Watch {
        id,
        at,
        code,
        expired: false,
    });
    if state.wakes_at.map_or(true, |wakes| wakes > at) {
        CHANGED.notify_one();
    }
    Watched { id }
}

impl Watched {
    /// Ends the watch and says whether the guest was stopped; if so, it can never run again.
    pub(crate) fn finish(self) -> bool {
        self.end()
    }

    fn end(&self) -> bool {
        let mut state = state();
        let Some(at) = state.watches.iter().position(|watch| watch.id == self.id) else {
            return false;
        };
        state.watches.swap_remove(at).expired
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether [`run`] has been entered.
pub(crate) fn is_running() -> bool {
    RUNNING.load(Ordering::Acquire)
}

/// What the watching thread does, for ever.
pub(crate) fn run(started: impl FnOnce()) -> ! {
    RUNNING.store(true, Ordering::Release);
    started();
    let mut state = state();
    loop {
        let now = Instant::now();
        for watch in &mut state.watches {
            if watch.expired || watch.at > now {
                continue;
            }
            // SAFETY: `watch` was promised that the code stays mapped while it is watched, and it is: the lock is held.
            let stopped = watch.code.iter().all(|code| unsafe { code.forbid() });
            if stopped {
                watch.expired = true;
            } else {
                watch.at = now + AGAIN;
            }
        }
        let pending = state.watches.iter().filter(|watch| !watch.expired);
        state.wakes_at = pending.map(|watch| watch.at).min();
        state = match state.wakes_at {
            None => CHANGED.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                CHANGED
                    .wait_timeout(state, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_lies_in_its_range() {
        let code = CodeRange::new(16..32);
        let found = [15, 16, 31, 32].map(|address| code.contains(address));
        assert_eq!(found, [false, true, true, false]);
    }

    #[test]
    fn nobody_is_watched_longer_than_the_call() {
        let far = Instant::now() + Duration::from_secs(3600);
        // SAFETY: there is no code.
        let watched = unsafe { watch(far, Arc::new([])) };
        let id = watched.id;
        let is_watched = || state().watches.iter().any(|watch| watch.id == id);
        assert!(is_watched());
        drop(watched);
        assert!(!is_watched());
    }
}
