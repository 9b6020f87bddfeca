//! The runner of this repository: `cargo xtask <subcommand>`.

mod command;
mod context;
mod doctor;
mod setup;
mod talk;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use context::Context;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, check and measure Roadrunner")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or fetch WasmEdge, libclang and the wasm32-wasip1 standard library; safe to repeat.
    Setup,
    /// Show what this machine offers; installs nothing.
    Doctor(doctor::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    let context = Context::of_this_machine()?;
    match task {
        Task::Setup => setup::run(&context),
        Task::Doctor(options) => doctor::run(&context, &options),
    }
}
