//! Which pictures the rows of a run make.

use super::breakdown::Breakdown;
use super::curves::{Curves, Line, LineKind, Unit};
use super::{Kind, Picture};
use crate::eval::groups::{Group, GROUPS, SUMMARY};
use crate::eval::{self, HOP};
use crate::results::{Results, Row};

/// What a row has to say.
type Value = fn(&Row) -> Option<f64>;

/// A way to look at an experiment.
struct View {
    /// The end of the file's name.
    suffix: &'static str,
    about: &'static str,
    unit: Unit,
    value: Value,
}

const HOPS: View = View {
    suffix: "hop",
    about: "latency of the hop alone",
    unit: Unit::Nanoseconds,
    value: |row| Some(row.phases.get(HOP)?.p50_ns),
};
const ROUNDS: View = View {
    suffix: "time",
    about: "time of a round",
    unit: Unit::Nanoseconds,
    value: |row| Some(row.p50_ns),
};
const THROUGHPUT: View = View {
    suffix: "throughput",
    about: "throughput of whole rounds",
    unit: Unit::BytesPerSecond,
    value: |row| Some(row.bytes as f64 * f64::from(row.fanout) / row.p50_ns * 1e9),
};
const CPU: View = View {
    suffix: "cpu",
    about: "processor time of a round, user and kernel",
    unit: Unit::Nanoseconds,
    // What is measured in ticks may be none.
    value: |row| Some(row.cpu_user_ns + row.cpu_sys_ns).filter(|time| *time > 0.0),
};
const MEMORY: View = View {
    suffix: "memory",
    about: "most memory of all processes",
    unit: Unit::Memory,
    value: |row| Some(row.footprint_bytes.unwrap_or(row.peak_rss_bytes) as f64),
};
const OVER_SIZE: [View; 5] = [HOPS, ROUNDS, THROUGHPUT, CPU, MEMORY];

const RECEIVED: View = View {
    suffix: "receivers",
    about: "payloads per second",
    unit: Unit::PerSecond,
    value: |row| Some(f64::from(row.fanout) / row.p50_ns * 1e9),
};
const SHARE: View = View {
    suffix: "latency",
    about: "time of a round by receivers",
    unit: Unit::Nanoseconds,
    value: |row| Some(row.p50_ns / f64::from(row.fanout)),
};
const OVER_FANOUT: [View; 4] = [RECEIVED, SHARE, CPU, MEMORY];

/// Every picture that the rows make: of each experiment that was measured at several sizes or fan-outs.
pub(crate) fn of(results: &Results) -> Vec<Picture> {
    let mut experiments: Vec<&str> = Vec::new();
    for row in &results.rows {
        if !experiments.contains(&row.experiment.as_str()) {
            experiments.push(&row.experiment);
        }
    }
    let mut pictures = Vec::new();
    for experiment in experiments {
        let rows: Vec<&Row> = results
            .rows
            .iter()
            .filter(|row| row.experiment == experiment)
            .collect();
        if experiment == eval::SEQUENTIAL {
            pictures.extend(over_size(experiment, Some(&SUMMARY), &HOPS, &rows));
            pictures.extend(breakdown(results, &rows));
            for group in &GROUPS {
                for view in &OVER_SIZE {
                    pictures.extend(over_size(experiment, Some(group), view, &rows));
                }
            }
        } else {
            for view in &OVER_SIZE {
                pictures.extend(over_size(experiment, None, view, &rows));
            }
        }
        pictures.extend(over_fanout(experiment, &rows));
    }
    pictures
}

fn file(experiment: &str, rest: &str) -> String {
    format!("{}-{rest}", experiment.replace('.', "-"))
}

fn over_size(
    experiment: &str,
    group: Option<&Group>,
    view: &View,
    rows: &[&Row],
) -> Option<Picture> {
    let fanout = rows.first()?.fanout;
    let rows: Vec<_> = rows
        .iter()
        .copied()
        .filter(|row| row.fanout == fanout)
        .collect();
    let mut lines = lines(&rows, group, |row| row.bytes as f64, view.value);
    let published = group.map_or(&[][..], |group| group.published);
    for (name, seconds) in published {
        let points = seconds.iter().map(|(megabytes, seconds)| {
            let bytes = megabytes * 1e6;
            match view.unit {
                Unit::BytesPerSecond => (bytes, bytes / seconds),
                _ => (bytes, seconds * 1e9),
            }
        });
        if matches!(view.suffix, "hop" | "time" | "throughput") {
            lines.push(published_line(name, points.collect()));
        }
    }
    let memory = group.map_or(&[][..], |group| group.published_memory);
    if view.suffix == MEMORY.suffix {
        for (name, megabytes) in memory {
            lines.push(published_line(name, vec![(500e6, megabytes * 1e6)]));
        }
    }
    let about = group.map_or(experiment, |group| group.title);
    let suffix = group.map_or_else(
        || view.suffix.to_owned(),
        |group| format!("{}-{}", group.name, view.suffix),
    );
    let curves = Curves {
        title: format!("{about}: {}", view.about),
        x: Unit::Payload,
        y: view.unit,
        lines,
    };
    Some(Picture {
        name: file(experiment, &suffix),
        heading: about.to_owned(),
        kind: Kind::Curves(curves.if_worth_it()?),
    })
}

fn over_fanout(experiment: &str, rows: &[&Row]) -> Vec<Picture> {
    let mut sizes: Vec<u64> = rows.iter().map(|row| row.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let count = |bytes: u64| rows.iter().filter(|row| row.bytes == bytes).count();
    let Some(most) = sizes.iter().copied().max_by_key(|bytes| count(*bytes)) else {
        return Vec::new();
    };
    let mut pictures = Vec::new();
    for bytes in sizes {
        let rows: Vec<_> = rows
            .iter()
            .copied()
            .filter(|row| row.bytes == bytes)
            .collect();
        let views = if bytes == most {
            &OVER_FANOUT[..]
        } else {
            &OVER_FANOUT[..1]
        };
        for view in views {
            let mut lines = lines(&rows, None, |row| f64::from(row.fanout), view.value);
            // Published are 10 MB.
            if experiment == eval::FANOUT && view.suffix == SHARE.suffix && bytes == 10_000_000 {
                for (name, points) in eval::groups::FANOUT_LATENCY {
                    let points = points
                        .iter()
                        .map(|(count, seconds)| (*count, seconds * 1e9));
                    lines.push(published_line(name, points.collect()));
                }
            }
            let suffix = if bytes == most {
                view.suffix.to_owned()
            } else {
                format!("{}MB-{}", bytes as f64 / 1e6, view.suffix)
            };
            let megabytes = bytes as f64 / 1e6;
            let heading = format!("{experiment}: one payload to many receivers");
            let curves = Curves {
                title: format!("{megabytes} MB to many: {}", view.about),
                x: Unit::Receivers,
                y: view.unit,
                lines,
            };
            pictures.extend(curves.if_worth_it().map(|curves| Picture {
                name: file(experiment, &suffix),
                heading,
                kind: Kind::Curves(curves),
            }));
        }
    }
    pictures
}

/// Of the candidates of a group, in its order, or of all.
fn lines(rows: &[&Row], group: Option<&Group>, x: fn(&Row) -> f64, y: Value) -> Vec<Line> {
    let mut names: Vec<&str> = Vec::new();
    match group {
        Some(group) => names.extend(group.candidates),
        None => {
            for row in rows {
                if !names.contains(&row.candidate.as_str()) {
                    names.push(&row.candidate);
                }
            }
        }
    }
    let line = |name: &&str| {
        let rows = rows.iter().filter(|row| row.candidate == *name);
        let ours = rows.clone().any(|row| row.transport == "roadrunner");
        let mut points: Vec<_> = rows.filter_map(|row| Some((x(row), y(row)?))).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        (!points.is_empty()).then(|| Line {
            name: (*name).to_owned(),
            points,
            kind: if ours || group.is_none() && !name.contains("http") {
                LineKind::Ours
            } else {
                LineKind::Peer
            },
        })
    };
    names.iter().filter_map(line).collect()
}

fn published_line(name: &str, points: Vec<(f64, f64)>) -> Line {
    Line {
        name: format!("published: {name}"),
        points,
        kind: LineKind::Published,
    }
}

/// For the largest payload: 100 MB, where that was measured.
fn breakdown(results: &Results, rows: &[&Row]) -> Option<Picture> {
    let largest = rows.iter().map(|row| row.bytes).max()?;
    let bytes = largest.min(100_000_000);
    let rows: Vec<_> = rows
        .iter()
        .copied()
        .filter(|row| row.bytes == bytes)
        .collect();
    let title = format!(
        "Where the time of a round of {:.0} MB goes",
        bytes as f64 / 1e6
    );
    let bars = Breakdown::of(title.clone(), results.machine.fault_ns, &rows)?;
    Some(Picture {
        name: file(eval::SEQUENTIAL, "breakdown"),
        heading: title,
        kind: Kind::Breakdown(bars),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Scale;
    use crate::results::Machine;
    use std::fs;

    fn row(candidate: &str, bytes: u64, fanout: u32) -> Row {
        let phase = |time: f64| serde_json::json!({"p50_ns": time, "p95_ns": time, "p99_ns": time, "faults": 3.0});
        let row = serde_json::json!({
            "experiment": if fanout == 1 { eval::SEQUENTIAL } else { eval::FANOUT },
            "candidate": candidate, "transport": "roadrunner", "method": "copy",
            "bytes": bytes, "fanout": fanout,
            "p50_ns": bytes as f64, "p95_ns": 1.0, "p99_ns": 1.0,
            "phases": {HOP: phase(bytes as f64 / 2.0), "produce": phase(9e5)},
            "spread_ns": 0.0, "rounds": 9, "payloads": 9, "delivered": 9, "verified": 9,
            "cpu_user_ns": 1e5, "cpu_sys_ns": 1e5, "peak_rss_bytes": bytes
        });
        serde_json::from_value(row).expect("a row")
    }

    #[test]
    fn both_files_of_each_are_pictures_with_all_names() {
        let mut results = Results::new(Machine::this(), Scale::Quick);
        for bytes in [1_000_000, 10_000_000] {
            results.rows.push(row("user", bytes, 1));
            results.rows.push(row("wasmedge-http-json", bytes, 1));
        }
        results
            .rows
            .extend([20, 40].map(|count| row("kernel", 10_000_000, count)));
        let pictures = of(&results);
        let names: Vec<_> = pictures
            .iter()
            .map(|picture| picture.name.as_str())
            .collect();
        for name in [
            "eval-sequential-summary-hop",
            "eval-sequential-breakdown",
            "eval-sequential-user-memory",
            "eval-fanout-latency",
        ] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        let directory = tempfile::tempdir().expect("a directory");
        // One of each kind.
        for picture in &pictures[..2] {
            picture.write(directory.path()).expect("drawn");
            let file = directory.path().join(&picture.name);
            let svg = fs::read_to_string(file.with_extension("svg")).expect("there");
            assert!(svg.starts_with("<svg"), "{svg}");
            let png = fs::read(file.with_extension("png")).expect("there");
            assert!(png.starts_with(b"\x89PNG"));
        }
        for picture in &pictures {
            picture.svg().expect("drawn");
        }
        let svg = pictures[0].svg().expect("drawn");
        assert!(svg.contains("wasmedge-http-json") && svg.contains("published: user"));
    }

    #[test]
    fn one_point_is_no_line() {
        let mut results = Results::new(Machine::this(), Scale::Quick);
        results.rows.push(row("user", 1_000_000, 1));
        let pictures = of(&results);
        assert_eq!(pictures.len(), 1, "the breakdown alone: {pictures:?}");
    }
}
