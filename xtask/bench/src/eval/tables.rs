//! The evaluation as CSV files in the shape of the published ones: a line for each size or number of receivers, a column
//! for each candidate, seconds and megabytes.

use super::groups::SUMMARY;
use super::hop::HOP;
use super::{FANOUT, SEQUENTIAL};
use crate::results::{time, Results, Row};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A value of a row, if it has one.
type Value = fn(&Row) -> Option<f64>;

/// Name of the file, experiment, what the lines are, and what is in them.
const TABLES: [(&str, &str, Value); 12] = [
    ("sequential-latency.csv", SEQUENTIAL, |row| {
        Some(row.phases.get(HOP)?.p50_ns / 1e9)
    }),
    ("sequential-total.csv", SEQUENTIAL, |row| {
        Some(row.p50_ns / 1e9)
    }),
    ("sequential-throughput.csv", SEQUENTIAL, |row| {
        Some(1e9 / row.p50_ns)
    }),
    ("sequential-cpu-user.csv", SEQUENTIAL, |row| {
        Some(row.cpu_user_ns / 1e9)
    }),
    ("sequential-cpu-kernel.csv", SEQUENTIAL, |row| {
        Some(row.cpu_sys_ns / 1e9)
    }),
    ("sequential-ram.csv", SEQUENTIAL, |row| {
        Some(row.peak_rss_bytes as f64 / 1e6)
    }),
    ("fanout-hop.csv", FANOUT, |row| {
        Some(row.phases.get(HOP)?.p50_ns / 1e9)
    }),
    ("fanout-latency.csv", FANOUT, |row| {
        Some(row.p50_ns / 1e9 / f64::from(row.fanout))
    }),
    ("fanout-throughput.csv", FANOUT, |row| {
        Some(f64::from(row.fanout) * 1e9 / row.p50_ns)
    }),
    ("fanout-cpu-user.csv", FANOUT, |row| {
        Some(row.cpu_user_ns / 1e9)
    }),
    ("fanout-cpu-kernel.csv", FANOUT, |row| {
        Some(row.cpu_sys_ns / 1e9)
    }),
    ("fanout-ram.csv", FANOUT, |row| {
        Some(row.peak_rss_bytes as f64 / 1e6)
    }),
];

/// Receivers of the summary's fan-out, and bytes for each.
const MANY: (u32, u64) = (100, 10_000_000);
/// Payloads of the summary, in bytes.
const SUMMARY_SIZES: [u64; 3] = [1_000_000, 100_000_000, 500_000_000];

/// Writes those that there are figures for, and a summary for a README.
///
/// # Errors
/// If one cannot be written.
pub(crate) fn write(results: &Results, directory: &Path) -> Result<()> {
    for (name, experiment, value) in TABLES {
        let Some(table) = table(results, experiment, value) else {
            continue;
        };
        let file = directory.join(name);
        fs::write(&file, table).with_context(|| format!("writing {}", file.display()))?;
    }
    if let Some(summary) = summary(results) {
        let file = directory.join("summary.md");
        fs::write(&file, summary).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// The hop alone, at a few sizes, with what a round of the largest takes besides, and what many receivers take.
fn summary(results: &Results) -> Option<String> {
    let row = |candidate: &str, bytes: u64| find(results, SEQUENTIAL, candidate, bytes, 1);
    let mut text = format!(
        "From the payload in the one function's memory to the payload in the other's, both on one host, TCP on loopback (a {} \
         run on {}; medians):\n\n| hop of",
        results.scale, results.machine
    );
    for bytes in SUMMARY_SIZES {
        text += &format!(" | {} MB", bytes / 1_000_000);
    }
    text += " | processor time of a round, 100 MB | memory, 100 MB |\n|---|";
    text += &"---:|".repeat(SUMMARY_SIZES.len() + 2);
    for candidate in SUMMARY.candidates {
        let Some(large) = row(candidate, SUMMARY_SIZES[1]) else {
            continue;
        };
        text += &format!("\n| {candidate} |");
        for bytes in SUMMARY_SIZES {
            let hop = row(candidate, bytes).and_then(|row| row.phases.get(HOP));
            let hop = hop.map_or_else(|| "-".to_owned(), |hop| time(hop.p50_ns));
            text += &format!(" {hop} |");
        }
        let memory = large.footprint_bytes.unwrap_or(large.peak_rss_bytes);
        text += &format!(
            " {} | {:.0} MB |",
            time(large.cpu_user_ns + large.cpu_sys_ns),
            memory as f64 / 1e6
        );
    }
    let many = |candidate| {
        Some(time(
            find(results, FANOUT, candidate, MANY.1, MANY.0)?.p50_ns,
        ))
    };
    let modes = [
        "user-loaned",
        "kernel-loaned",
        "network-loaned",
        "wasmedge-http-json",
    ];
    if let [Some(user), Some(kernel), Some(network), Some(json)] = modes.map(many) {
        text += &format!(
            "\n\n{} MB to {} receivers at once take {user} in one process, {kernel} to as many processes, {network} over TCP, \
             and {json} by HTTP with JSON between functions on WasmEdge, on all cores.",
            MANY.1 / 1_000_000,
            MANY.0
        );
    }
    let any = results.rows.iter().any(|row| row.experiment == SEQUENTIAL);
    any.then_some(text + "\n")
}

fn find<'r>(
    results: &'r Results,
    experiment: &str,
    candidate: &str,
    bytes: u64,
    fanout: u32,
) -> Option<&'r Row> {
    results.rows.iter().find(|row| {
        (row.experiment.as_str(), row.candidate.as_str()) == (experiment, candidate)
            && (row.bytes, row.fanout) == (bytes, fanout)
    })
}

fn table(results: &Results, experiment: &str, value: Value) -> Option<String> {
    let mut candidates = BTreeSet::new();
    let mut lines: BTreeMap<(u64, u32), BTreeMap<&str, f64>> = BTreeMap::new();
    for row in results
        .rows
        .iter()
        .filter(|row| row.experiment == experiment)
    {
        if let Some(value) = value(row) {
            candidates.insert(row.candidate.as_str());
            lines
                .entry((row.bytes, row.fanout))
                .or_default()
                .insert(&row.candidate, value);
        }
    }
    if lines.is_empty() {
        return None;
    }
    let mut text = "megabytes,receivers".to_owned();
    for candidate in &candidates {
        text.push(',');
        text.push_str(candidate);
    }
    for ((bytes, fanout), values) in lines {
        text.push_str(&format!("\n{},{fanout}", bytes as f64 / 1e6));
        for candidate in &candidates {
            text.push(',');
            if let Some(value) = values.get(candidate) {
                text.push_str(&format!("{value:.9}"));
            }
        }
    }
    text.push('\n');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Scale;
    use crate::results::Machine;

    #[test]
    fn nothing_measured_is_nothing_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let results = Results::new(Machine::this(), Scale::Quick);
        write(&results, directory.path()).expect("written");
        let files = fs::read_dir(directory.path()).expect("there").count();
        assert_eq!(files, 0);
    }
}
