//! What came out: `results.json`, and the same as tables.

use crate::bench::Scale;
use crate::usage;
use anyhow::{Context, Result};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use roadrunner_wasmedge::module::wasmedge_version;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// Everything that a run came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// `full`, `quick` or `smoke`.
    pub(crate) scale: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) ratios: Vec<Ratio>,
    /// What could not be measured on this machine, and why.
    pub(crate) skipped: Vec<String>,
    /// What went wrong: the run has failed, and the rest of it is here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failed: Vec<String>,
}

/// What it ran on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// Its version.
    #[serde(default)]
    pub(crate) wasmedge: String,
    /// Bytes.
    pub(crate) memory: u64,
    /// What the first touch of a page takes.
    #[serde(default)]
    pub(crate) fault_ns: f64,
    /// Where the two processes of an experiment of `net` over loopback run, the sender and the receiver; none where the
    /// system chose. Wherever they run, two ways are compared fairly only in the same place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cores_of_a_pair: Option<[usize; 2]>,
}

/// One candidate of one experiment. Times are nanoseconds for one payload, of all its receivers together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) experiment: String,
    /// What was asked for.
    pub(crate) candidate: String,
    /// Whose code it is.
    pub(crate) transport: String,
    /// What the receipts said; several if rounds differed.
    pub(crate) method: String,
    pub(crate) bytes: u64,
    pub(crate) fanout: u32,
    /// Percentiles over rounds. Where a round is a batch of small payloads its mean is one value.
    pub(crate) p50_ns: f64,
    pub(crate) p95_ns: f64,
    pub(crate) p99_ns: f64,
    /// At the median: what all receivers got in a second.
    #[serde(default)]
    pub(crate) requests_per_s: f64,
    #[serde(default)]
    pub(crate) bytes_per_s: f64,
    /// Parts of a round, where it was taken apart.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) phases: BTreeMap<String, Phase>,
    /// How often the receiver had to wait, for each payload, where that is looked at: each time the sender has to wake it.
    #[serde(skip)]
    pub(crate) waits: f64,
    /// Of each round, in their order: those of the candidates of an experiment belong together.
    #[serde(skip)]
    pub(crate) times: Vec<f64>,
    /// The median distance of a round from the median one.
    pub(crate) spread_ns: f64,
    pub(crate) rounds: u64,
    /// What times and processor times are divided by.
    pub(crate) payloads: u64,
    /// Each payload counts once for each of its receivers.
    pub(crate) delivered: u64,
    /// Of these every byte was compared with what was sent.
    pub(crate) verified: u64,
    /// Processor time of all threads and processes that took part, work off the critical path included.
    pub(crate) cpu_user_ns: f64,
    pub(crate) cpu_sys_ns: f64,
    /// The most memory that the processes had resident while this candidate ran alone, shared pages counted for each
    /// mapping.
    pub(crate) peak_rss_bytes: u64,
    /// The same with every page counted once, page tables included, where it was looked at (proc_pid_smaps(5), `Pss`; of
    /// segments that several processes have, their blocks).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) footprint_bytes: Option<u64>,
}

/// What one part of a round took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) p50_ns: f64,
    pub(crate) p95_ns: f64,
    pub(crate) p99_ns: f64,
    /// Page faults in it, on average.
    #[serde(default)]
    pub(crate) faults: f64,
}

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// A promise, and whether it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// None for what is only to be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<f64>,
    pub(crate) better: Better,
    pub(crate) met: bool,
    /// Why not, as measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl Ratio {
    /// Should be `goal` or more.
    pub(crate) fn at_least(name: &str, value: f64, goal: f64) -> Self {
        Self::new(name, value, Some(goal), Better::Higher, value >= goal)
    }

    /// Should be `goal` or less.
    pub(crate) fn at_most(name: &str, value: f64, goal: f64) -> Self {
        Self::new(name, value, Some(goal), Better::Lower, value <= goal)
    }

    /// Should be low, and nobody has promised how low.
    #[cfg(any(test, feature = "peers"))]
    pub(crate) fn to_know(name: &str, value: f64) -> Self {
        Self::new(name, value, None, Better::Lower, true)
    }

    fn new(name: &str, value: f64, goal: Option<f64>, better: Better, met: bool) -> Self {
        Self {
            name: name.to_owned(),
            // Four digits are more than a run can repeat.
            value: round_to_digits(value, 4),
            goal,
            better,
            met,
            reason: None,
        }
    }

    /// What was measured that explains it, for the case that the goal is missed.
    pub(crate) fn because(self, reason: impl FnOnce() -> String) -> Self {
        let reason = (!self.met).then(reason);
        Self { reason, ..self }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores of {}, {:.0} GiB, Linux {}, WasmEdge {}",
            self.cores,
            self.cpu,
            self.memory as f64 / f64::from(1 << 30),
            self.kernel,
            self.wasmedge
        )
    }
}

fn round_to_digits(value: f64, digits: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powi(digits - 1 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

impl Machine {
    /// What /proc says.
    pub(crate) fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(field, _)| field.trim() == "model name")
            .map_or("unknown", |(_, name)| name.trim());
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0);
        let kernel = nix::sys::utsname::uname().map_or_else(
            |_| "unknown".to_owned(),
            |name| name.release().to_string_lossy().into_owned(),
        );
        Self {
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel,
            wasmedge: wasmedge_version(),
            memory: memory << 10,
            fault_ns: usage::fault_ns().round(),
            cores_of_a_pair: usage::two_cores(),
        }
    }
}

impl Results {
    pub(crate) fn new(machine: Machine, scale: Scale) -> Self {
        Self {
            machine,
            scale: format!("{scale:?}").to_lowercase(),
            rows: Vec::new(),
            ratios: Vec::new(),
            skipped: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Writes `results.json` into a directory, which is made if it is not there. Says where it is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, directory: &Path) -> Result<PathBuf> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let file = directory.join("results.json");
        let half = directory.join("results.json.half");
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&half, text)
            .and_then(|()| fs::rename(&half, &file))
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    /// Shows the tables on stdout.
    pub(crate) fn print(&self) {
        println!("{}, {} run", self.machine, self.scale);
        let is_net = |row: &Row| row.experiment.starts_with("net.");
        if let (Some([sender, receiver]), true) =
            (self.machine.cores_of_a_pair, self.rows.iter().any(is_net))
        {
            println!("net, over loopback: senders on core {sender}, receivers on core {receiver}");
        }
        if !self.rows.is_empty() {
            println!("\n{}", self.rows_table());
        }
        if !self.ratios.is_empty() {
            println!("\n{}", self.ratios_table());
        }
        for line in &self.skipped {
            println!("skipped: {line}");
        }
        for line in &self.failed {
            println!("failed: {line}");
        }
    }

    fn rows_table(&self) -> Table {
        let mut table = table(
            &[
                "experiment",
                "candidate",
                "method",
                "bytes",
                "fan-out",
                "p50",
                "p95",
                "p99",
                "GB/s",
                "user",
                "sys",
                "peak RSS",
            ],
            3..12,
        );
        for row in &self.rows {
            let fanned = row.bytes as f64 * f64::from(row.fanout);
            table.add_row([
                row.experiment.clone(),
                row.candidate.clone(),
                row.method.clone(),
                row.bytes.to_string(),
                row.fanout.to_string(),
                time(row.p50_ns),
                time(row.p95_ns),
                time(row.p99_ns),
                format!("{:.2}", fanned / row.p50_ns),
                time(row.cpu_user_ns),
                time(row.cpu_sys_ns),
                format!("{:.1} MB", row.peak_rss_bytes as f64 / 1e6),
            ]);
        }
        table
    }

    fn ratios_table(&self) -> Table {
        let mut table = table(&["ratio", "value", "goal", ""], 1..3);
        for ratio in &self.ratios {
            let sign = match ratio.better {
                Better::Higher => ">=",
                Better::Lower => "<=",
            };
            let verdict = match (ratio.met, &ratio.reason) {
                (true, _) if ratio.goal.is_none() => String::new(),
                (true, _) => "met".to_owned(),
                (false, None) => "MISSED".to_owned(),
                (false, Some(reason)) => format!("MISSED: {reason}"),
            };
            table.add_row([
                ratio.name.clone(),
                ratio.value.to_string(),
                ratio
                    .goal
                    .map_or_else(String::new, |goal| format!("{sign} {goal}")),
                verdict,
            ]);
        }
        table
    }
}

fn table(header: &[&str], numbers: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(header);
    for column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Nanoseconds for people.
pub(crate) fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ..1e3 => format!("{nanoseconds:.1} ns"),
        ..1e6 => format!("{:.2} µs", nanoseconds / 1e3),
        ..1e9 => format!("{:.2} ms", nanoseconds / 1e6),
        _ => format!("{:.2} s", nanoseconds / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_on_its_side() {
        assert!(Ratio::at_least("x", 1.0, 1.0).met);
        assert!(!Ratio::at_least("x", 0.99, 1.0).met);
        assert!(Ratio::at_most("x", 1.0, 1.0).met);
        let missed = Ratio::at_most("x", 1.234_56, 1.0).because(|| "so".to_owned());
        assert_eq!((missed.value, missed.met), (1.235, false));
        assert_eq!(missed.reason.as_deref(), Some("so"));
        let known = Ratio::to_know("x", 9.0).because(|| "so".to_owned());
        assert!(known.met && known.goal.is_none() && known.reason.is_none());
        let met = Ratio::at_most("x", 0.5, 1.0).because(|| "so".to_owned());
        assert_eq!(met.reason, None);
    }

    #[test]
    fn values_keep_four_digits() {
        assert_eq!(round_to_digits(1234.56, 4), 1235.0);
        assert_eq!(round_to_digits(0.000_123_456, 4), 0.000_123_5);
        assert_eq!(round_to_digits(0.0, 4), 0.0);
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!(time(12.34), "12.3 ns");
        assert_eq!(time(12_340.0), "12.34 µs");
        assert_eq!(time(12_340_000.0), "12.34 ms");
        assert_eq!(time(2e9), "2.00 s");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut results = Results::new(Machine::this(), Scale::Quick);
        results.ratios.push(Ratio::at_least("x", 2.0, 1.0));
        let file = results.write(&directory.path().join("new")).expect("room");
        let text = fs::read_to_string(file).expect("it is there");
        let read: Results = serde_json::from_str(&text).expect("as written");
        assert_eq!(read.ratios, results.ratios);
        assert_eq!(read.scale, "quick");
        assert!(text.contains(r#""better": "higher""#), "{text}");
    }
}
