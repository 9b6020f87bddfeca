//! `cargo xtask bench`: the measurements, beside what one would use instead.

use crate::context::Context;
use crate::{build, setup};
use anyhow::{bail, Context as _, Result};
use std::path::PathBuf;
use std::process::Command;

/// Measures everything beside its alternatives, and says which goals are met.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these experiments: in one process, between processes of one host, over TCP, the
    /// published ones
    #[arg(long, value_name = "PART", value_parser = ["mem", "uds", "net", "eval"])]
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
    /// Where results.json goes
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
