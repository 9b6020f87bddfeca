//! Runs of functions on a `roadrunner serve`.

use super::server::{chain, SECRET};
use super::Bench;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Output, Stdio};

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

pub(crate) fn run(bench: &Bench, arguments: &[&str]) -> Output {
    let mut command = bench.command("network");
    command
        .env("ROADRUNNER_SECRET", SECRET)
        .args(arguments)
        .output()
        .expect("it starts")
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

/// Says that it handles, then never ends.
pub(crate) const STUCK: &str = "(drop (call $log (i32.const 2) (i32.const 16) (i32.const 8)))
    (loop $again (br $again)) (i64.const 0)";

/// Starts a run whose function `bad` runs for ever, and waits until it does.
pub(crate) fn stuck(bench: &Bench, arguments: &[&str]) -> (Child, BufReader<ChildStderr>) {
    let mut child = bench
        .command("network")
        .env("ROADRUNNER_SECRET", SECRET)
        .args(arguments)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut talk = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("bad: handling") {
        line.clear();
        assert_ne!(talk.read_line(&mut line).expect("readable"), 0, "it ended");
    }
    (child, talk)
}

#[track_caller]
pub(crate) fn ended_badly(
    bench: &Bench,
    (child, mut talk): (Child, BufReader<ChildStderr>),
    words: &[&str],
) {
    let mut stderr = Vec::new();
    talk.read_to_end(&mut stderr).expect("readable");
    let mut output = child.wait_with_output().expect("it ends");
    output.stderr = stderr;
    bench.failed("network", &output, words);
}
