//! `cargo xtask bench`: the measurements, beside what one would use instead.

use crate::context::Context;
use crate::{build, setup};
use anyhow::{bail, Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the two published experiments again, with what one would use instead beside them, and
/// says which goals are met.
///
/// Sequential: one function produces 1 to 500 MB, another reads them. Fan-out: 1 to 100 functions
/// read what one has produced. Both in each mode, on WasmEdge, beside WasmEdge with HTTP, the
/// published prototype's ways, native processes, Redis, and what this machine can do at most.
/// A full run takes about 25 minutes on 2 cores. Other experiments by --only.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// These experiments: in one process, between processes of one host, over TCP, the
    /// published ones; may be repeated
    #[arg(long, value_name = "PART", value_parser = ["mem", "uds", "net", "eval"], default_value = "eval")]
    only: Vec<String>,
    /// Only experiments whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    experiment: Vec<String>,
    /// Fewer rounds: a quarter of the time, and more noise
    #[arg(long)]
    quick: bool,
    /// Say what got better or worse since an earlier run
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Where results.json, tables (CSV), pictures (SVG, PNG) and report.html go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Measure nothing: put the picture and the figures of the run whose results lie here into README.md
    #[arg(long, value_name = "DIR", conflicts_with_all = ["only", "experiment", "quick", "compare", "out"])]
    readme: Option<PathBuf>,
}

/// What of README.md comes from a run lies between these lines.
const FIGURES: [&str; 2] = ["<!-- figures of a run -->\n", "<!-- end of figures -->\n"];
const PICTURE: &str = "xtask/bench/evaluation.svg";

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    if let Some(results) = &arguments.readme {
        return show(results);
    }
    let toolchain = setup::ensure(context)?;
    build::run("building the functions", build::functions(&toolchain))?;
    build::run("building the baselines", build::baselines(&toolchain))?;
    // With the crates that it is measured beside.
    let program = build::release("roadrunner-bench", &["--features", "peers"])?;
    let mut bench = Command::new(&program);
    for part in &arguments.only {
        bench.args(["--only", part]);
    }
    for name in &arguments.experiment {
        bench.args(["--experiment", name]);
    }
    if arguments.quick {
        bench.arg("--quick");
    }
    if let Some(old) = &arguments.compare {
        bench.arg("--compare").arg(std::path::absolute(old)?);
    }
    bench.arg("--out").arg(std::path::absolute(&arguments.out)?);
    let status = bench
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    if !status.success() {
        bail!("the measurements ended early ({status}): see above");
    }
    Ok(())
}

/// Puts the picture and the figures of a run into README.md.
fn show(results: &Path) -> Result<()> {
    let read = |file: &Path| {
        fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
    };
    let summary = read(&results.join("summary.md"))?;
    let picture = read(&results.join("eval-sequential-summary-hop.svg"))?;
    let file = build::root().join("README.md");
    let text = replaced(&read(&file)?, &summary)?;
    fs::write(build::root().join(PICTURE), picture).context("writing the picture")?;
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

/// The text with other figures.
fn replaced(text: &str, figures: &str) -> Result<String> {
    let [begin, end] = FIGURES;
    let parts = text.split_once(begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(end)?;
        Some((before, after))
    });
    let (before, after) = parts.context("README.md has no place for figures")?;
    Ok(format!("{before}{begin}\n{figures}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_take_the_place_of_older_ones() {
        let file = fs::read_to_string(build::root().join("README.md")).expect("it is there");
        let once = replaced(&file, "new\n").expect("a place");
        assert!(once.contains("\n\nnew\n\n"), "{once}");
        assert!(once.contains(PICTURE), "and the picture is shown");
        assert_eq!(replaced(&once, "new\n").expect("a place"), once);
        assert!(replaced("no place", "new").is_err());
    }
}
