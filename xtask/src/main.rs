//! The runner of this repository: `cargo xtask <subcommand>`.

mod bench;
mod build;
mod command;
mod context;
mod demo;
mod doctor;
mod fuzz;
mod mutants;
mod prop;
mod registry;
mod release;
mod sample;
mod setup;
mod soak;
mod talk;
mod test;
mod tools;
mod verify;

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
    /// Run a picture through four functions in all three modes, and show what every hop cost.
    Demo(demo::Arguments),
    /// Check format, lints and documentation, and run every test, on real WasmEdge.
    Test(test::Arguments),
    Bench(bench::Arguments),
    Prop(prop::Arguments),
    Verify(verify::Arguments),
    Release(release::Arguments),
    Mutants(mutants::Arguments),
    Soak(soak::Arguments),
    Fuzz(fuzz::Arguments),
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
        Task::Demo(arguments) => demo::run(&context, &arguments),
        Task::Test(arguments) => test::run(&context, &arguments),
        Task::Bench(arguments) => bench::run(&context, &arguments),
        Task::Prop(arguments) => prop::run(&context, &arguments),
        Task::Verify(arguments) => verify::run(&context, &arguments),
        Task::Release(arguments) => release::run(&context, &arguments),
        Task::Mutants(arguments) => mutants::run(&context, &arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Soak(arguments) => soak::run(&context, &arguments),
    }
}
