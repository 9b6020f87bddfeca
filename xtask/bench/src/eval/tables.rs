//! The evaluation as CSV files in the shape of the published ones: a line for each size or number of receivers, a column
//! for each candidate, seconds and megabytes.

use super::hop::HOP;
use super::published;
use super::{FANOUT, SEQUENTIAL};
use crate::results::{Results, Row};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A value of a row, if it has one.
type Value = fn(&Row) -> Option<f64>;

/// Name of the file, experiment, what the lines are, and what is in them.
const TABLES: [(&str, &str, Value); 9] = [
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
    ("fanout-latency.csv", FANOUT, |row| {
        Some(row.p50_ns / 1e9 / f64::from(row.fanout))
    }),
    ("fanout-throughput.csv", FANOUT, |row| {
        Some(f64::from(row.fanout) * 1e9 / row.p50_ns)
    }),
    ("fanout-ram.csv", FANOUT, |row| {
        Some(row.peak_rss_bytes as f64 / 1e6)
    }),
];

/// Writes those that there are figures for.
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
    Ok(())
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

/// The published curves that belong to a plot of the hop's latency over size: name, and pairs of bytes and seconds.
pub(crate) fn published_curves() -> impl Iterator<Item = (String, Vec<(f64, f64)>)> {
    published::SEQUENTIAL.into_iter().map(|(name, column)| {
        let points = published::MEGABYTES.into_iter().zip(column);
        let points = points.map(|(megabytes, seconds)| (megabytes * 1e6, seconds));
        (format!("published: {name}"), points.collect())
    })
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

    #[test]
    fn published_curves_have_a_point_for_each_size() {
        for (name, points) in published_curves() {
            assert_eq!(points.len(), published::MEGABYTES.len(), "{name}");
            assert!(points.windows(2).all(|two| two[0].0 < two[1].0), "{name}");
        }
    }
}
