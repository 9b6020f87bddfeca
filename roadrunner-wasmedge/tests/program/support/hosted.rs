//! Runs of functions on a `roadrunner serve`.

use super::server::{chain, SECRET};
use super::{Bench, Running};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// A bench whose workflow is `a -> b -> …`, each on its host.
pub(crate) fn bench(functions: &[(&str, String, Option<&str>)]) -> Bench {
    let bench = Bench::new();
    let chained: Vec<(&str, PathBuf, Option<&str>)> = functions
        .iter()
        .map(|(name, text, host)| {
            let file = format!("{name}.wat");
            bench.write(&file, text.as_bytes());
            (*name, bench.path(&file), *host)
        })
        .collect();
    bench.write("flow.toml", chain(&chained).as_bytes());
    bench.write("input", b"some bytes");
    bench
}

fn command(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = bench.command("network");
    command.env("ROADRUNNER_SECRET", SECRET).args(arguments);
    command
}

pub(crate) fn run(bench: &Bench, arguments: &[&str]) -> Output {
    let output = command(bench, arguments).output();
    output.expect("it starts")
}

/// A run that goes on. What it says is for whoever waits for its output.
pub(crate) fn start(bench: &Bench, arguments: &[&str]) -> Child {
    let mut command = command(bench, arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it starts")
}

#[track_caller]
pub(crate) fn goes_well(bench: &Bench) {
    let output = run(bench, &[]);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
}

#[track_caller]
pub(crate) fn fails(bench: &Bench, arguments: &[&str], words: &[&str]) {
    let output = run(bench, arguments);
    bench.failed("network", &output, words);
}

/// Starts a run whose function `bad` runs for ever, and waits until it does.
pub(crate) fn stuck(bench: &Bench, arguments: &[&str]) -> Running {
    Running::until_handling(command(bench, arguments), "bad")
}

#[track_caller]
pub(crate) fn ended_badly(bench: &Bench, running: Running, words: &[&str]) {
    bench.failed("network", &running.ended(), words);
}
