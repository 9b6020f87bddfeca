//! `cargo xtask soak`: death in mid-transfer, again and again, and a million handovers.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{bail, Result};
use clap::ValueEnum;

use crate::build::{self, cargo};
use crate::context::Context;
use crate::setup;

/// Kills processes in mid-transfer, again and again, and hands pages and slots over without end.
///
/// In each round of `uds` and `net` one process sends payloads to another, and one of the two is killed (SIGKILL): at one
/// of its system calls, after a byte that crossed its socket, or some time after the link was opened. The other must have
/// got whole payloads and no wrong byte, and have as many descriptors, mappings, children and files as before. `mem` hands
/// payloads over in one process, which must take at the end what it took at the beginning. In each round of `session` the
/// connections of a session are cut, behind some byte, once after the other, and each payload must come once, both ways. In
/// each round of `wasmedge` one
/// process of a workflow is killed, after which no process, socket or output may be left. In each round of `hosts` the same is
/// done to a run between two network namespaces, or its cable is pulled and put back, which must cost it time only. What a round does is drawn from
/// its seed; a round that fails says how to play it again.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rounds of each part; if it is not given 600 for `uds`, `net` and `session`, a million handovers for `mem`, 60 for `wasmedge`
    /// and `hosts`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// What the first round is drawn from, the next ones from the numbers after it; another one in each run if it is not
    /// given
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// This part alone
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Uds,
    Net,
    Mem,
    Session,
    Wasmedge,
    Hosts,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Uds => "uds",
            Self::Net => "net",
            Self::Mem => "mem",
            Self::Session => "session",
            Self::Wasmedge => "wasmedge",
            Self::Hosts => "hosts",
        }
    }

    fn usual_rounds(self) -> u64 {
        match self {
            Self::Uds | Self::Net | Self::Session => 600,
            Self::Mem => 1_000_000,
            Self::Wasmedge | Self::Hosts => 60,
        }
    }
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let all = [
        Part::Uds,
        Part::Net,
        Part::Mem,
        Part::Session,
        Part::Wasmedge,
        Part::Hosts,
    ];
    let seed = arguments.seed.unwrap_or_else(any_seed);
    println!("seed {seed}");
    let mut failed = Vec::new();
    for part in all {
        if arguments.only.is_some_and(|only| only != part) {
            continue;
        }
        let rounds = arguments.rounds.unwrap_or(part.usual_rounds());
        if let Err(error) = play(context, part, rounds, seed) {
            eprintln!("{error:#}");
            failed.push(part.name());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{} failed: see above", failed.join(", "))
}

fn play(context: &Context, part: Part, rounds: u64, seed: u64) -> Result<()> {
    let what = format!("== {}: {rounds} rounds", part.name());
    let mut command = cargo();
    let test = match part {
        Part::Wasmedge => Some("soak::"),
        Part::Hosts => Some("hosts::"),
        _ => None,
    };
    if let Some(test) = test {
        setup::ensure(context)?;
        command
            .args(["test", "--locked", "--package=roadrunner-wasmedge"])
            .args(["--all-features", "--test", "program", "--", test])
            .arg("--nocapture")
            .env("ROADRUNNER_SOAK_ROUNDS", rounds.to_string())
            .env("ROADRUNNER_SOAK_SEED", seed.to_string());
    } else {
        command
            .args(["run", "--locked", "--quiet", "--release"])
            .args(["--package=roadrunner-soak", "--"])
            .args(["--only", part.name()])
            .args(["--rounds", &rounds.to_string()])
            .args(["--seed", &seed.to_string()]);
    }
    build::run(&what, command)
}

/// Short enough to be typed.
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |time| u64::from(time.subsec_micros()))
}
