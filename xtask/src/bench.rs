//! `cargo xtask bench`: the measurements, beside what one would use instead.

use crate::context::Context;
use crate::{build, setup};
use anyhow::{bail, Context as _, Result};
use std::path::PathBuf;
use std::process::Command;

/// Runs the two published experiments again, with what one would use instead beside them, and
/// says which goals are met.
///
/// Sequential: one function produces 1 to 500 MB, another reads them. Fan-out: 1 to 100 functions
/// read what one has produced. Both in each mode, on WasmEdge, beside WasmEdge with HTTP, the
/// published prototype's ways, native processes, Redis, and what this machine can do at most.
/// A full run takes about 12 minutes on 2 cores. Other experiments by --only.
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
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
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
