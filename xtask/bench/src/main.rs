//! Measures Roadrunner beside what one would use instead: `cargo xtask bench` builds this and runs it.
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`mod@bench`] | what an experiment is given: how much to measure, progress, where results go |
//! | [`measure`] | interleaved rounds of named candidates, and the watch that they are timed with |
//! | [`usage`] | processor time and memory of this process |
//! | [`payload`] | what is sent: filled and verified at the speed of memory |
//! | [`peer`] | this program once more, as the other process of an experiment |
//! | [`ends`] | what two such processes do: payloads, round by round |
//! | [`functions`] | the two functions of a workflow figure, on WasmEdge |
//! | [`compare`] | what got better or worse since an earlier run |
//! | [`results`] | rows and ratios, as JSON and as tables |
//! | [`plots`], [`report`] | the same as pictures, and as a page |
//! | [`mem`], [`uds`], [`net`], [`eval`] | the experiments |

mod bench;
mod clock;
mod compare;
mod ends;
mod eval;
mod functions;
mod measure;
mod mem;
mod net;
mod orders;
mod payload;
mod peer;
mod plots;
mod report;
mod results;
mod uds;
mod usage;

use anyhow::{bail, Result};
use bench::{Bench, Scale};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the example functions are when `cargo xtask bench` or `cargo xtask test` has built them.
const FUNCTIONS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../roadrunner-wasmedge/functions/target/wasm32-wasip1/release"
);

/// Where the programs are that functions are compared with.
const BASELINES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/baselines/target/wasm32-wasip1/release"
);

#[derive(Parser)]
#[command(
    name = "roadrunner-bench",
    about = "Measures Roadrunner beside its alternatives: by default the two published experiments",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    /// These experiments; may be repeated. The evaluation, if nothing is said
    #[arg(long, value_name = "PART", default_value = "eval")]
    only: Vec<Part>,
    /// Only experiments whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    experiment: Vec<String>,
    /// Fewer rounds: a quarter of the time, and more noise
    #[arg(long)]
    quick: bool,
    /// One round of tiny payloads: shows that everything runs, measures nothing
    #[arg(long, hide = true, conflicts_with = "quick")]
    smoke: bool,
    /// Say what got better or worse since an earlier run
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Where results.json, tables, pictures and report.html go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Where the functions produce.wasm and consume.wasm are
    #[arg(long, value_name = "DIR", default_value = FUNCTIONS)]
    functions: PathBuf,
    /// Where http.wasm is
    #[arg(long, value_name = "DIR", default_value = BASELINES)]
    baselines: PathBuf,
    #[command(subcommand)]
    inner: Option<Inner>,
}

#[derive(Subcommand)]
enum Inner {
    /// The other process of an experiment; started by this program only.
    #[command(hide = true)]
    Peer { name: String },
}

/// A group of experiments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// In one process
    Mem,
    /// Between processes of one host
    Uds,
    /// Over TCP
    Net,
    /// The published experiments, and what a user would pick instead
    Eval,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.inner {
        Some(Inner::Peer { name }) => {
            peer::run(name, &[mem::PEERS, uds::PEERS, net::PEERS, eval::PEERS])
        }
        None => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let scale = match arguments {
        Arguments { smoke: true, .. } => Scale::Smoke,
        Arguments { quick: true, .. } => Scale::Quick,
        _ => Scale::Full,
    };
    let mut bench = Bench::new(
        scale,
        arguments.functions.clone(),
        arguments.baselines.clone(),
        arguments.experiment.clone(),
    );
    for part in Part::value_variants() {
        if !arguments.only.contains(part) {
            continue;
        }
        let done = match part {
            Part::Mem => mem::run(&mut bench),
            Part::Uds => uds::run(&mut bench),
            Part::Net => net::run(&mut bench),
            Part::Eval => eval::run(&mut bench),
        };
        bench.unless_failed(done);
    }
    let results = bench.finish();
    results.print();
    // Before the earlier results are overwritten, if they lie there.
    let compared = arguments
        .compare
        .as_deref()
        .map_or(Ok(()), |old| compare::print(old, &results));
    let file = results.write(&arguments.out)?;
    eval::tables::write(&results, &arguments.out)?;
    let pictures = plots::of(&results);
    for picture in &pictures {
        picture.write(&arguments.out)?;
    }
    let report = report::write(&results, &pictures, &arguments.out)?;
    eprintln!("{}\n{}", file.display(), report.display());
    compared?;
    match results.failed.len() {
        0 => Ok(()),
        some => bail!("{some} of the experiments failed: the results lack them"),
    }
}
