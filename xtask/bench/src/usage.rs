//! Processor time, memory and page faults, of this process and of others.

use anyhow::{Context, Result};
use nix::sched::{sched_getaffinity, CpuSet};
use nix::sys::resource::{getrusage, UsageWho};
use nix::sys::time::TimeValLike;
use nix::time::{clock_gettime, ClockId};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::{Add, AddAssign, Sub};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
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
    let pages = kilobytes("/proc/self/smaps_rollup", "Pss:")?;
    Ok(pages + kilobytes("/proc/self/status", "VmPTE:")?)
}

/// The same of several processes that work meanwhile. A page of a segment that one of them maps between two looks would be
/// whole in the share of another and half in its own: segments are asked for their size.
fn footprint_of_all(processes: &[u32]) -> u64 {
    let mut segments = BTreeMap::new();
    let mut bytes = 0;
    // Those that end meanwhile have none.
    for process in processes {
        let (rollup, status) = (
            format!("/proc/{process}/smaps_rollup"),
            format!("/proc/{process}/status"),
        );
        let own = kilobytes(&rollup, "Pss_Anon:").and_then(|anonymous| {
            let files = kilobytes(&rollup, "Pss_File:")?;
            Ok(anonymous + files + kilobytes(&status, "VmPTE:")?)
        });
        bytes += own.unwrap_or(0);
        segments.extend(segments_of(*process));
    }
    bytes + segments.values().sum::<u64>()
}

/// The segments that a process has a descriptor of (memfd_create(2)), as long as it can be used: where they are, and the
/// bytes that they take up.
fn segments_of(process: u32) -> BTreeMap<(u64, u64), u64> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd"));
    let segment = |entry: fs::DirEntry| {
        let path = entry.path();
        let target = fs::read_link(&path).ok()?;
        let memfd = target
            .as_os_str()
            .as_encoded_bytes()
            .starts_with(b"/memfd:");
        let there = fs::metadata(&path).ok().filter(|_| memfd)?;
        // Blocks of 512 bytes (stat(2)).
        Some(((there.dev(), there.ino()), there.blocks() * 512))
    };
    let descriptors = descriptors.into_iter().flatten().flatten();
    descriptors.filter_map(segment).collect()
}

/// Page faults of this thread so far (getrusage(2), `ru_minflt` and `ru_majflt`).
pub(crate) fn faults() -> u64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| {
        let count = usage.minor_page_faults() + usage.major_page_faults();
        u64::try_from(count).unwrap_or(0)
    })
}

/// Nanoseconds that the first touch of a page of memory takes here: the kernel finds one, clears it and maps it.
pub(crate) fn fault_ns() -> f64 {
    const BYTES: usize = 64 << 20;
    const PAGE: usize = 4096;
    // Not there before it is written to.
    let mut fresh = vec![0_u8; BYTES];
    let (before, began) = (faults(), Instant::now());
    for byte in fresh.iter_mut().step_by(PAGE) {
        *byte = 1;
    }
    let took = began.elapsed();
    std::hint::black_box(&fresh);
    took.as_secs_f64() * 1e9 / (faults() - before).max(1) as f64
}

/// Looks at the footprint of this process and of all that it started, again and again, until it is stopped.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Sampler {
    /// How long it leaves the processes alone between two looks.
    const PAUSE: Duration = Duration::from_millis(2);

    pub(crate) fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            // One more time after it was told.
            loop {
                let last = told.load(Ordering::Acquire);
                most = most.max(footprint_of_all(&family(std::process::id())));
                if last {
                    return most;
                }
                std::thread::sleep(Self::PAUSE);
            }
        });
        Self { stop, thread }
    }

    /// The most that it saw, in bytes.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or(0)
    }
}

/// A process with those that it started, and those that they started.
fn family(root: u32) -> Vec<u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().parse::<u32>();
        if let Some((id, stat)) = id.ok().and_then(|id| Some((id, Stat::read(id).ok()?))) {
            parents.insert(id, stat.parent);
        }
    }
    let descends = |mut id: u32| {
        while id != root {
            match parents.get(&id) {
                Some(parent) => id = *parent,
                None => return false,
            }
        }
        true
    };
    parents.keys().copied().filter(|id| descends(*id)).collect()
}

/// What the kernel says of a process (proc_pid_stat(5)).
struct Stat {
    parent: u32,
    cpu: Cpu,
    faults: u64,
}

impl Stat {
    fn read(id: u32) -> Result<Self> {
        let file = format!("/proc/{id}/stat");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        // The name, in parentheses, may hold anything.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let words: Vec<_> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| {
            let word = words.get(number - 3);
            word.and_then(|word| word.parse::<u64>().ok())
                .with_context(|| format!("no field {number} in {file}"))
        };
        // Ticks of the clock, which even out over many rounds.
        let ticks = |number: usize| {
            field(number)
                .map(|ticks| Duration::from_nanos(ticks * 1_000_000_000 / ticks_a_second()))
        };
        Ok(Self {
            parent: u32::try_from(field(4)?)?,
            faults: field(10)? + field(12)?,
            cpu: Cpu {
                user: ticks(14)?,
                sys: ticks(15)?,
            },
        })
    }
}

/// Other processes whose rounds are measured from outside.
#[derive(Debug)]
pub(crate) struct Watched {
    processes: Vec<u32>,
    before: (Cpu, u64),
}

impl Watched {
    /// These, and those that they have started by now.
    pub(crate) fn new(processes: impl IntoIterator<Item = u32>) -> Self {
        Self {
            processes: processes.into_iter().flat_map(family).collect(),
            before: Default::default(),
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
        self.before = self.so_far()?;
        Ok(())
    }

    /// A round has ended: tells the watch what they took, and the caller how many page faults they had.
    ///
    /// # Errors
    /// If one of them is gone.
    pub(crate) fn end(&mut self, watch: &mut crate::measure::Watch) -> Result<u64> {
        let (cpu, faults) = self.so_far()?;
        watch.add_cpu(cpu - self.before.0);
        for id in &self.processes {
            watch.add_peak(kilobytes(&format!("/proc/{id}/status"), "VmHWM:")?);
        }
        Ok(faults - self.before.1)
    }

    fn so_far(&self) -> Result<(Cpu, u64)> {
        let (mut cpu, mut faults) = (Cpu::default(), 0);
        for id in &self.processes {
            let stat = Stat::read(*id)?;
            cpu += stat.cpu;
            faults += stat.faults;
        }
        Ok((cpu, faults))
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

/// Memory that this machine has to give, in bytes (proc_meminfo(5), `MemAvailable`).
pub(crate) fn available() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemAvailable:").ok()
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

/// Two cores that this process may use, if there are two.
pub(crate) fn two_cores() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::this()).ok()?;
    let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
    Some([cores.next()?, cores.next()?])
}

/// How often this process has waited for something, so far (getrusage(2), `ru_nvcsw`).
pub(crate) fn waits() -> u64 {
    let waits =
        getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.voluntary_context_switches());
    u64::try_from(waits).unwrap_or(0)
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
    fn first_touches_are_counted_and_memory_is_seen_at_its_peak() {
        let sampler = Sampler::start();
        let before = faults();
        let fresh = std::hint::black_box(vec![1_u8; 32 << 20]);
        // Pages of 2 MiB, if they are larger.
        assert!(faults() - before >= 16);
        drop(fresh);
        assert!(fault_ns() > 1.0);
        assert!(sampler.stop() > 1 << 20);
    }

    #[test]
    fn a_segment_counts_once_and_whole_mapped_or_not() {
        let name = c"counted";
        let made = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
        let mut file = fs::File::from(made.expect("a memfd"));
        std::io::Write::write_all(&mut file, &vec![1; 16 << 20]).expect("memory");
        let _again = file.try_clone().expect("a descriptor");
        let there = file.metadata().expect("it is open");
        let this = std::process::id();
        let segments = segments_of(this);
        let counted = segments.get(&(there.dev(), there.ino()));
        assert_eq!(counted, Some(&(16 << 20)), "{segments:?}");
        assert!(footprint_of_all(&[this, this]) >= 16 << 20);
    }

    #[test]
    fn another_process_is_measured_from_outside() {
        let mut watched = Watched::new([std::process::id()]);
        watched.begin().expect("it is there");
        let mut watch = crate::measure::Watch::default();
        watched.end(&mut watch).expect("it is there");
        assert!(family(u32::MAX).is_empty());
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
