//! How many faults there were, what may take how long, and who runs beside whom.

use crate::plan::{Fault, Plan};
use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What is counted is the whole process's: one sweep at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let Some(value) = std::env::var_os(variable) else {
        return otherwise;
    };
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("{variable}={} is no number", value.to_string_lossy()))
}

/// How many times each random sweep draws lots: `ROADRUNNER_FAULT_ROUNDS`, or 100.
pub(crate) fn rounds() -> u64 {
    number("ROADRUNNER_FAULT_ROUNDS", 100)
}

/// Whether this is more than what `cargo test` does.
#[must_use]
pub fn is_long() -> bool {
    rounds() > 100
}

/// Where random sweeps begin: `ROADRUNNER_FAULT_SEED`, or 1.
pub(crate) fn seed() -> u64 {
    number("ROADRUNNER_FAULT_SEED", 1)
}

/// What a sweep did; told on stderr when it is over.
pub(crate) struct Report {
    what: String,
    began: Instant,
    runs: u64,
    errors: usize,
    short: usize,
    deaths: usize,
}

impl Report {
    pub(crate) fn new(what: String) -> Self {
        Self {
            what,
            began: Instant::now(),
            runs: 0,
            errors: 0,
            short: 0,
            deaths: 0,
        }
    }

    pub(crate) fn add(&mut self, plans: &[Plan]) {
        self.runs += 1;
        for plan in plans {
            for (_, _, fault) in plan.injected() {
                match fault {
                    Fault::Errno(_) => self.errors += 1,
                    Fault::Short(_) => self.short += 1,
                }
            }
            self.deaths += usize::from(plan.has_died());
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let line = format!(
            "{}: {} runs, {} failed calls, {} cut short, {} deaths ({:.1} s)\n",
            self.what,
            self.runs,
            self.errors,
            self.short,
            self.deaths,
            self.began.elapsed().as_secs_f64()
        );
        // Not eprint!, which the test harness keeps to itself. There is nobody to tell that stderr is closed.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// Ends the process, and says where, when a run hangs although every operation of it has a deadline.
pub(crate) struct Watchdog {
    expected: Option<Sender<String>>,
    thread: Option<JoinHandle<()>>,
}

const HANGS: Duration = Duration::from_secs(120);

impl Watchdog {
    pub(crate) fn new() -> Self {
        let (expected, next) = mpsc::channel::<String>();
        let thread = thread::spawn(move || {
            let mut now = "the first run".to_owned();
            loop {
                match next.recv_timeout(HANGS) {
                    Ok(label) => now = label,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        let line = format!("hangs: {now}\n");
                        let _ = io::stderr().write_all(line.as_bytes());
                        std::process::abort();
                    }
                }
            }
        });
        Self {
            expected: Some(expected),
            thread: Some(thread),
        }
    }

    /// The next run begins.
    pub(crate) fn expect(&self, label: &str) {
        if let Some(expected) = &self.expected {
            // It ends only after this.
            let _ = expected.send(label.to_owned());
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.expected = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
