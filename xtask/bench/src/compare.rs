//! What got better or worse since an earlier run.

use crate::results::{time, Better, Ratio, Results, Row};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Changes below this are the machine's: two runs of the same program differ by as much.
const NOISE: f64 = 0.1;

/// The same for ratios, in which two medians are noisy.
const RATIO_NOISE: f64 = 0.25;

/// How a row or a ratio changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Better,
    Worse,
    /// Within what rounds of either run differ among themselves.
    None,
}

/// Prints, on stdout, the rows whose medians differ by more than noise, and what became of each ratio.
///
/// # Errors
/// If the file is not a `results.json`.
pub(crate) fn print(old: &Path, new: &Results) -> Result<()> {
    let text = fs::read_to_string(old).with_context(|| format!("reading {}", old.display()))?;
    let old: Results =
        serde_json::from_str(&text).with_context(|| format!("reading {}", old.display()))?;
    let mut same = 0;
    println!("\nsince the earlier run:");
    for row in &new.rows {
        let Some(before) = old.rows.iter().find(|before| key(before) == key(row)) else {
            continue;
        };
        let word = match change(before, row) {
            Change::Better => "better",
            Change::Worse => "worse",
            Change::None => {
                same += 1;
                continue;
            }
        };
        let (experiment, candidate, bytes, fanout) = key(row);
        println!(
            "{word}: {experiment} {candidate}, {bytes} bytes, fan-out {fanout}: {} was {}",
            time(row.p50_ns),
            time(before.p50_ns)
        );
    }
    println!("{same} rows differ by no more than noise");
    for ratio in &new.ratios {
        let Some(before) = old.ratios.iter().find(|before| before.name == ratio.name) else {
            continue;
        };
        let word = match ratio_change(before, ratio) {
            Change::Better => "better",
            Change::Worse => "worse",
            Change::None => "within noise",
        };
        let goal = match (before.met, ratio.met) {
            (false, true) => ", newly met",
            (true, false) => ", newly MISSED",
            _ => "",
        };
        println!(
            "{word}{goal}: {} {} was {}",
            ratio.name, ratio.value, before.value
        );
    }
    Ok(())
}

fn key(row: &Row) -> (&str, &str, u64, u32) {
    (&row.experiment, &row.candidate, row.bytes, row.fanout)
}

fn change(old: &Row, new: &Row) -> Change {
    // Of two medians; rounds lie about as far from them as their spread says.
    let noise = (NOISE * old.p50_ns).max(old.spread_ns + new.spread_ns);
    let more = new.p50_ns - old.p50_ns;
    if more > noise {
        Change::Worse
    } else if more < -noise {
        Change::Better
    } else {
        Change::None
    }
}

fn ratio_change(old: &Ratio, new: &Ratio) -> Change {
    // Equally far below one and above it.
    let factor = (new.value / old.value).ln();
    let better = match new.better {
        Better::Higher => factor,
        Better::Lower => -factor,
    };
    let noise = (1.0 + RATIO_NOISE).ln();
    if better > noise {
        Change::Better
    } else if better < -noise {
        Change::Worse
    } else {
        Change::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(p50: f64, spread: f64) -> Row {
        let row = serde_json::json!({
            "experiment": "x", "candidate": "c", "transport": "t", "method": "copy", "bytes": 1, "fanout": 1,
            "p50_ns": p50, "p95_ns": p50, "p99_ns": p50, "spread_ns": spread, "rounds": 9, "payloads": 9,
            "delivered": 9, "verified": 9, "cpu_user_ns": 0.0, "cpu_sys_ns": 0.0, "peak_rss_bytes": 1, "phases": {}
        });
        serde_json::from_value(row).expect("a row")
    }

    #[test]
    fn only_what_is_beyond_noise_has_changed() {
        assert_eq!(change(&row(100.0, 1.0), &row(109.0, 1.0)), Change::None);
        assert_eq!(change(&row(100.0, 1.0), &row(111.0, 1.0)), Change::Worse);
        assert_eq!(change(&row(100.0, 1.0), &row(89.0, 1.0)), Change::Better);
        assert_eq!(change(&row(100.0, 20.0), &row(130.0, 20.0)), Change::None);
    }

    #[test]
    fn a_ratio_gets_better_on_its_side() {
        let higher = |value| Ratio::at_least("x", value, 1.0);
        let lower = |value| Ratio::at_most("x", value, 1.0);
        assert_eq!(ratio_change(&higher(10.0), &higher(12.0)), Change::None);
        assert_eq!(ratio_change(&higher(10.0), &higher(13.0)), Change::Better);
        assert_eq!(ratio_change(&lower(10.0), &lower(13.0)), Change::Worse);
        assert_eq!(ratio_change(&lower(10.0), &lower(7.0)), Change::Better);
    }
}
