//! `cargo xtask test`: everything that must be true of a commit.

use crate::build::{self, cargo};
use crate::context::Context;
use crate::setup::{self, Toolchain};
use anyhow::{bail, Result};
use std::process::Command;
use std::time::Instant;

/// Checks format, lints, documentation and tests of everything, WasmEdge included.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Go on after a check that failed
    #[arg(long)]
    keep_going: bool,
}

/// What properties are tried with, unless the environment says otherwise: the same cases every time, so that a commit does
/// not fail for what an earlier one brought. `cargo xtask prop` looks for new ones.
pub(crate) const SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "2025");
/// Where tests write what they could not check here, one line each.
const SKIPPED: &str = "ROADRUNNER_SKIPPED";
const BASELINES: &str = "xtask/bench/baselines/Cargo.toml";
const GUESTS: &str = "roadrunner-wasmedge/functions/Cargo.toml";

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let toolchain = setup::ensure(context)?;
    let skipped = tempfile::NamedTempFile::new()?;
    let mut passed = Vec::new();
    let mut failed = Vec::new();
    for (name, mut command) in checks(&toolchain) {
        let began = Instant::now();
        command
            .env(SKIPPED, skipped.path())
            .env("RUSTDOCFLAGS", "-D warnings");
        if std::env::var_os(SEED.0).is_none() {
            command.env(SEED.0, SEED.1);
        }
        let ended = build::run(&format!("\n== {name}"), command);
        let line = format!("{name} ({:.1} s)", began.elapsed().as_secs_f64());
        match ended {
            Ok(()) => passed.push(line),
            Err(error) => {
                eprintln!("{error:#}");
                failed.push(line);
                if !arguments.keep_going {
                    break;
                }
            }
        }
    }
    let text = std::fs::read_to_string(skipped.path())?;
    let skipped: Vec<_> = text
        .lines()
        .map(|line| line.trim_start_matches("skipped: "))
        .collect();
    println!();
    for (word, lines) in [("passed", &passed), ("failed", &failed)] {
        for line in lines {
            println!("{word}: {line}");
        }
    }
    for line in &skipped {
        println!("skipped: {line}");
    }
    println!(
        "{} passed, {} failed, {} skipped",
        passed.len(),
        failed.len(),
        skipped.len()
    );
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{} failed", failed.join(", "))
}

/// Name and command of every check, the quick ones first.
fn checks(toolchain: &Toolchain) -> Vec<(&'static str, Command)> {
    let cargo_with = |arguments: &[&str]| {
        let mut command = cargo();
        command.args(arguments);
        command
    };
    vec![
        ("format", cargo_with(&["fmt", "--all", "--check"])),
        (
            "format of the functions",
            cargo_with(&["fmt", "--all", "--check", "--manifest-path", GUESTS]),
        ),
        (
            "format of the baselines",
            cargo_with(&["fmt", "--all", "--check", "--manifest-path", BASELINES]),
        ),
        ("functions to WebAssembly", build::functions(toolchain)),
        ("baselines to WebAssembly", build::baselines(toolchain)),
        (
            "lints",
            cargo_with(&[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--all-features",
                "--",
                "-D",
                "warnings",
            ]),
        ),
        (
            "lints of the functions",
            cargo_with(&[
                "clippy",
                "--locked",
                "--manifest-path",
                GUESTS,
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]),
        ),
        (
            "documentation",
            cargo_with(&[
                "doc",
                "--locked",
                "--workspace",
                "--no-deps",
                "--all-features",
            ]),
        ),
        (
            "tests",
            // All that fail, not only those of the first program.
            cargo_with(&[
                "test",
                "--locked",
                "--workspace",
                "--all-features",
                "--no-fail-fast",
            ]),
        ),
        (
            "tests of the functions",
            cargo_with(&["test", "--locked", "--manifest-path", GUESTS, "--workspace"]),
        ),
    ]
}
