//! Processor time and memory of this process.

use anyhow::{Context, Result};
use nix::sys::resource::{getrusage, UsageWho};
use nix::sys::time::TimeValLike;
use nix::time::{clock_gettime, ClockId};
use serde::{Deserialize, Serialize};
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;
use std::{fs, io};

/// Processor time. Its sum is exact; how it is split between user and kernel is what the kernel found at its ticks
/// (getrusage(2)), and evens out over many rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cpu {
    pub(crate) user: Duration,
    pub(crate) sys: Duration,
}

impl Cpu {
    /// Of all threads so far.
    pub(crate) fn of_process() -> Self {
        Self::of(UsageWho::RUSAGE_SELF)
    }

    /// Of this thread so far.
    pub(crate) fn of_thread() -> Self {
        Self::of(UsageWho::RUSAGE_THREAD)
    }

    fn of(who: UsageWho) -> Self {
        // Makes the kernel count up to this moment what this thread has used; getrusage(2) alone is as old as the last
        // tick.
        let _ = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
        let Ok(usage) = getrusage(who) else {
            return Self::default();
        };
        let time = |value: nix::sys::time::TimeVal| {
            Duration::from_micros(u64::try_from(value.num_microseconds()).unwrap_or(0))
        };
        Self {
            user: time(usage.user_time()),
            sys: time(usage.system_time()),
        }
    }

    pub(crate) fn total(self) -> Duration {
        self.user + self.sys
    }
}

impl Add for Cpu {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            sys: self.sys + other.sys,
        }
    }
}

impl Sub for Cpu {
    type Output = Self;
    /// Never below nothing: the two parts of a sum are told apart by guessing.
    fn sub(self, other: Self) -> Self {
        Self {
            user: self.user.saturating_sub(other.user),
            sys: self.sys.saturating_sub(other.sys),
        }
    }
}

impl AddAssign for Cpu {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Lets the peak resident set start anew at what is resident now (proc_pid_clear_refs(5)).
pub(crate) fn reset_peak() -> io::Result<()> {
    fs::write("/proc/self/clear_refs", "5")
}

/// The peak resident set since it was reset, in bytes.
///
/// # Errors
/// Without /proc.
pub(crate) fn peak_rss() -> Result<u64> {
    kilobytes("/proc/self/status", "VmHWM:")
}

/// Bytes that this process makes the machine keep: its share of every page (smaps_rollup, `Pss`), so that one that is
/// mapped a hundred times counts once, and the page tables that this takes (`VmPTE`).
///
/// # Errors
/// Without /proc.
pub(crate) fn footprint() -> Result<u64> {
    Ok(kilobytes("/proc/self/smaps_rollup", "Pss:")? + kilobytes("/proc/self/status", "VmPTE:")?)
}

/// Other processes whose rounds are measured from outside.
#[derive(Debug)]
pub(crate) struct Watched {
    processes: Vec<u32>,
    before: Cpu,
}

impl Watched {
    pub(crate) fn new(processes: impl IntoIterator<Item = u32>) -> Self {
        Self {
            processes: processes.into_iter().collect(),
            before: Cpu::default(),
        }
    }

    /// A round begins. Where their peaks cannot be reset they are those of the whole run.
    ///
    /// # Errors
    /// If one of them is gone.
    pub(crate) fn begin(&mut self) -> Result<()> {
        for id in &self.processes {
            let _ = fs::write(format!("/proc/{id}/clear_refs"), "5");
        }
        self.before = self.cpu()?;
        Ok(())
    }

    /// A round has ended: tells the watch what they took.
    ///
    /// # Errors
    /// If one of them is gone.
    pub(crate) fn end(&mut self, watch: &mut crate::measure::Watch) -> Result<()> {
        watch.add_cpu(self.cpu()? - self.before);
        for id in &self.processes {
            watch.add_peak(kilobytes(&format!("/proc/{id}/status"), "VmHWM:")?);
        }
        Ok(())
    }

    /// In ticks of the clock (proc_pid_stat(5), `utime`, `stime`), which even out over many rounds.
    fn cpu(&self) -> Result<Cpu> {
        let tick = Duration::from_nanos(1_000_000_000 / ticks_a_second());
        let mut all = Cpu::default();
        for id in &self.processes {
            let file = format!("/proc/{id}/stat");
            let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
            // The name, in parentheses, may hold anything.
            let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
            let field = |number: usize| {
                let word = rest.split_ascii_whitespace().nth(number - 3);
                word.and_then(|word| word.parse::<u32>().ok())
                    .with_context(|| format!("no field {number} in {file}"))
            };
            all += Cpu {
                user: tick * field(14)?,
                sys: tick * field(15)?,
            };
        }
        Ok(all)
    }
}

fn ticks_a_second() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    // What it is on every Linux that anybody runs.
    ticks
        .ok()
        .flatten()
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

fn kilobytes(file: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    find(&text, field).with_context(|| format!("no {field} in {file}"))
}

/// The value behind `field` in lines like `VmHWM:     1234 kB`, in bytes.
fn find(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let number = line.trim().strip_suffix("kB")?.trim();
    Some(number.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let text = "VmPeak:\t 9 kB\nVmHWM:\t    1234 kB\n";
        assert_eq!(find(text, "VmHWM:"), Some(1234 << 10));
        assert_eq!(find(text, "VmPTE:"), None);
        assert!(peak_rss().expect("/proc is mounted") > 1 << 20);
        assert!(footprint().expect("/proc is mounted") > 100 << 10);
    }

    #[test]
    fn another_process_is_measured_from_outside() {
        let mut watched = Watched::new([std::process::id()]);
        watched.begin().expect("it is there");
        let mut watch = crate::measure::Watch::default();
        watched.end(&mut watch).expect("it is there");
        let mut nobody = Watched::new([u32::MAX]);
        assert!(nobody.begin().is_err());
    }

    #[test]
    fn processor_time_of_a_thread_is_the_process_too() {
        let (process, thread) = (Cpu::of_process(), Cpu::of_thread());
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let thread = Cpu::of_thread().total() - thread.total();
        assert!(thread > Duration::from_millis(1), "{thread:?}");
        let before = Cpu::of_thread();
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_micros(300) {
            std::hint::spin_loop();
        }
        // Unless it was interrupted all the time: far less than a tick is seen.
        assert!(Cpu::of_thread().total() > before.total());
        let process = Cpu::of_process().total() - process.total();
        assert!(process + Duration::from_micros(10) >= thread, "{process:?}");
    }
}
