//! Kills processes in the middle of transfers, again and again, and looks at what the other side got and what is left;
//! and hands pages and slots over a million times in one process. `cargo xtask soak` runs it.

mod function;
mod mem;
mod moment;
mod progress;
mod round;
mod session;
mod survivor;
mod victim;
mod ways;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "roadrunner-soak",
    about = "Kills processes in the middle of transfers; hands pages over without end"
)]
struct Arguments {
    /// What is tried
    #[arg(long, value_enum)]
    only: Part,
    /// Kills, handovers, or sessions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// What the first round is drawn from; the next ones from the numbers after it
    #[arg(long, value_name = "S")]
    seed: u64,
    /// Be the process that is killed in the round of this seed
    #[arg(long, hide = true, value_name = "ADDRESS")]
    victim: Option<String>,
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Links over UNIX sockets, whose other end is killed
    Uds,
    /// Links over TCP, whose other end is killed
    Net,
    /// Links within a process, a great many times
    Mem,
    /// Sessions over TCP, whose connections are cut
    Session,
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uds => "uds",
            Self::Net => "net",
            Self::Mem => "mem",
            Self::Session => "session",
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        only,
        rounds,
        seed,
        victim,
    } = arguments;
    match (only, victim) {
        (Part::Mem, _) => mem::soak(*rounds, *seed),
        (Part::Session, _) => session::soak(*rounds, *seed),
        (part, Some(address)) => victim::live(*part, *seed, address),
        (part, None) => survivor::soak(*part, *rounds, *seed),
    }
}
