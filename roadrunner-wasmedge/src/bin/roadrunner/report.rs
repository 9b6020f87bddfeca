//! What a run tells: a table for people, JSON for programs, both of the same figures.

use comfy_table::{presets, CellAlignment, Table};
use roadrunner_wasmedge::run::{Mode, Outcome};
use serde::Serialize;
use std::path::PathBuf;

/// The runs of one invocation.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    pub(crate) ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    hops: Vec<HopRow>,
    functions: Vec<FunctionRow>,
    outputs: Vec<OutputRow>,
    misuses: Vec<MisuseRow>,
    runs: Vec<RunRow>,
}

#[derive(Serialize)]
struct HopRow {
    mode: Mode,
    from: String,
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_host: Option<String>,
    bytes: u64,
    method: &'static str,
    copies: u8,
    seconds: f64,
}

#[derive(Serialize)]
struct FunctionRow {
    mode: Mode,
    name: String,
    seconds: f64,
}

#[derive(Serialize)]
struct OutputRow {
    mode: Mode,
    function: String,
    path: PathBuf,
    bytes: u64,
    sha256: String,
}

/// What a function did with slots that it must not.
#[derive(Serialize)]
struct MisuseRow {
    mode: Mode,
    function: String,
    what: String,
}

#[derive(Serialize)]
struct RunRow {
    mode: Mode,
    seconds: f64,
}

impl Report {
    pub(crate) fn add(&mut self, mode: Mode, outcome: &Outcome) {
        self.hops.extend(outcome.hops.iter().map(|hop| HopRow {
            mode,
            from: hop.from.clone(),
            to: hop.to.clone(),
            from_host: hop.from_host.clone(),
            to_host: hop.to_host.clone(),
            bytes: hop.bytes,
            method: hop.method,
            copies: hop.copies,
            seconds: hop.duration.as_secs_f64(),
        }));
        self.functions.extend(
            outcome
                .functions
                .iter()
                .map(|(name, duration)| FunctionRow {
                    mode,
                    name: name.clone(),
                    seconds: duration.as_secs_f64(),
                }),
        );
        self.outputs
            .extend(outcome.outputs.iter().map(|output| OutputRow {
                mode,
                function: output.function.clone(),
                path: output.path.clone(),
                bytes: output.bytes,
                sha256: output.sha256.clone(),
            }));
        let misuses = outcome.misuses.iter();
        self.misuses
            .extend(misuses.map(|(function, what)| MisuseRow {
                mode,
                function: function.clone(),
                what: what.clone(),
            }));
        self.runs.push(RunRow {
            mode,
            seconds: outcome.duration.as_secs_f64(),
        });
    }

    /// Hops and outputs, ready to print.
    pub(crate) fn table(&self) -> String {
        let mut header = vec!["mode", "hop", "bytes", "method", "copies", "time", "GB/s"];
        let several_hosts = self.hops.iter().any(HopRow::is_elsewhere);
        if several_hosts {
            header.push("hosts");
        }
        let mut hops = table(&header);
        for hop in &self.hops {
            let mut row = vec![
                hop.mode.to_string(),
                format!("{} -> {}", hop.from, hop.to),
                hop.bytes.to_string(),
                hop.method.to_owned(),
                hop.copies.to_string(),
                time(hop.seconds),
                format!("{:.2}", hop.bytes as f64 / hop.seconds.max(1e-9) / 1e9),
            ];
            if several_hosts {
                row.push(hop.hosts());
            }
            hops.add_row(row);
        }
        right(&mut hops, &[2, 4, 5, 6]);
        let mut outputs = table(&["output", "bytes", "sha256"]);
        for output in &self.outputs {
            outputs.add_row([
                output.path.display().to_string(),
                output.bytes.to_string(),
                output.sha256[..16].to_owned(),
            ]);
        }
        right(&mut outputs, &[1]);
        let misuses = self.misuses.iter().map(|misuse| {
            let MisuseRow {
                mode,
                function,
                what,
            } = misuse;
            format!("misuse of slots ({mode}): {function} {what}\n")
        });
        let misuses: String = misuses.collect();
        let runs: Vec<_> = self
            .runs
            .iter()
            .map(|run| format!("{} {}", run.mode, time(run.seconds)))
            .collect();
        format!(
            "{hops}\n\n{outputs}\n\n{misuses}whole runs: {}\n",
            runs.join(", ")
        )
    }
}

impl HopRow {
    fn is_elsewhere(&self) -> bool {
        self.from_host.is_some() || self.to_host.is_some()
    }

    /// From where to where it went.
    fn hosts(&self) -> String {
        let name = |host: &Option<String>| host.as_deref().unwrap_or("here").to_owned();
        let (from, to) = (name(&self.from_host), name(&self.to_host));
        if from == to {
            from
        } else {
            format!("{from} -> {to}")
        }
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::ASCII_MARKDOWN)
        .set_header(header);
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A duration with three digits or so and its unit.
fn time(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 1e-3 {
        format!("{:.2} ms", seconds * 1e3)
    } else {
        format!("{:.1} µs", seconds * 1e6)
    }
}
