//! What belongs to the whole process: descriptors and mappings, threads that hang, and the list of what was skipped.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::Duration;

/// Read by tests that may run beside each other, written by the one that counts.
static COUNTED: RwLock<()> = RwLock::new(());

/// Runs `test` beside others.
pub(super) fn beside_others<R>(test: impl FnOnce() -> R) -> R {
    let _beside = COUNTED.read().unwrap_or_else(PoisonError::into_inner);
    test()
}

/// Runs `test` while no other of the suite runs.
pub(super) fn alone<R>(test: impl FnOnce() -> R) -> R {
    let _alone = COUNTED.write().unwrap_or_else(PoisonError::into_inner);
    test()
}

/// Runs `operation` in a thread of its own and gives its result, or `None` if it has none within `time`. The thread is
/// left behind then: whatever it waits for is the caller's to end.
///
/// # Panics
/// As `operation` does.
pub(super) fn within<R: Send + 'static>(
    time: Duration,
    operation: impl FnOnce() -> R + Send + 'static,
) -> Option<R> {
    let (done, is_done) = mpsc::channel();
    let name = thread::current().name().unwrap_or("suite").to_owned();
    let thread = thread::Builder::new()
        .name(name)
        .spawn(move || {
            let result = operation();
            // Nobody waits any more if it took too long.
            let _ = done.send(());
            result
        })
        .expect("a thread can be started");
    match is_done.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => None,
        Ok(()) | Err(RecvTimeoutError::Disconnected) => {
            Some(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
        }
    }
}

/// What the process has, as /proc/self tells it (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Census {
    /// Open descriptors.
    pub(super) descriptors: usize,
    /// Mappings of memory. Neighbours of the same kind count as one.
    pub(super) mappings: usize,
    /// Bytes of mappings that can be written.
    pub(super) writable: u64,
    /// Child processes.
    pub(super) children: usize,
}

impl Census {
    pub(super) fn take() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
        let children = fs::read_dir("/proc/self/task")
            .expect("/proc is mounted")
            .flatten()
            // A thread that has just ended has no list any more.
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .map(|list| list.split_whitespace().count())
            .sum();
        Self {
            descriptors: fs::read_dir("/proc/self/fd")
                .expect("/proc is mounted")
                .count(),
            mappings: maps.lines().count(),
            writable: maps.lines().filter_map(writable_bytes).sum(),
            children,
        }
    }
}

/// Bytes of one line of /proc/self/maps, if it can be written: `55d0a000-55d0b000 rw-p 00000000 00:00 0 [heap]`.
fn writable_bytes(line: &str) -> Option<u64> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    rest.starts_with("rw")
        .then(|| Some(number(end)? - number(start)?))?
}

/// Says on stderr that something was not tested: `skipped: <what>: <why>`. The line is also appended to the file that the
/// environment variable `ROADRUNNER_SKIPPED` names, if it is set.
///
/// # Panics
/// If the file cannot be written.
pub fn skipped(what: &str, why: &str) {
    let line = format!("skipped: {what}: {why}\n");
    // Not eprint!, which the test harness keeps to itself when a test passes. There is nobody to tell that stderr is
    // closed.
    let _ = io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("ROADRUNNER_SKIPPED") {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            // In one write, so that the lines of several test programs do not mix.
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .unwrap_or_else(|error| {
                panic!("ROADRUNNER_SKIPPED={}: {error}", path.to_string_lossy())
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_maps_counts_if_it_can_be_written() {
        assert_eq!(
            writable_bytes("1000-3000 rw-p 00000000 00:00 0 "),
            Some(0x2000)
        );
        assert_eq!(writable_bytes("1000-3000 r--p 00000000 00:00 0 "), None);
        assert_eq!(writable_bytes("nonsense"), None);
    }

    #[test]
    fn what_takes_too_long_is_left_behind() {
        let (release, wait) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || wait.recv()), None);
        drop(release);
        assert_eq!(within(Duration::from_secs(60), || 5), Some(5));
    }
}
