//! Runs on a system that has no descriptors, or no addresses, left: a run is whole, or says why it is not and leaves nothing.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::{echo, names, Bench, MODES};

/// More than sockets and pipes hold, and enough for pages to change hands.
const BYTES: usize = 6 << 20;

fn bench() -> Bench {
    let bench = Bench::chain(&["a", "b", "c"].map(|name| (name, echo())));
    let input: Vec<_> = (0..BYTES).map(|at| (at * 7 + at / 251) as u8).collect();
    bench.write("input", &input);
    bench
}

/// A run whose processes may have this much of something (`ulimit`, sh(1)).
fn run(bench: &Bench, mode: &str, limit: &str) -> Output {
    let unlimited = bench.command(mode);
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")])
        .arg(unlimited.get_program())
        .args(unlimited.get_args())
        .stdin(Stdio::null());
    for (key, value) in unlimited.get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    command.output().expect("it starts")
}

/// Whether it was whole. If not it says something, and neither panics nor dies.
fn check(bench: &Bench, label: &str, output: &Output) -> bool {
    if !output.status.success() {
        bench.failed(label, output, &["roadrunner: "]);
        return false;
    }
    assert_eq!(names(&bench.path("out")), ["c"], "{label}");
    let read = |path: &Path| std::fs::read(path).expect("readable");
    let (input, out) = (read(&bench.path("input")), bench.path("out/c"));
    assert!(read(&out) == input, "{label}: the output is not the input");
    std::fs::remove_file(out).expect("there");
    bench.left_nothing(label);
    true
}

/// Tries each limit in each mode. The last one is enough.
fn squeeze(limits: impl Iterator<Item = String> + Clone) {
    let bench = bench();
    for mode in MODES {
        let output = bench.run(mode);
        assert!(check(&bench, mode, &output), "nothing is scarce");
        let mut whole = Vec::new();
        for limit in limits.clone() {
            let label = format!("{mode}, ulimit {limit}");
            let output = run(&bench, mode, &limit);
            whole.push(check(&bench, &label, &output));
        }
        println!(
            "{mode}: {} runs of {} were whole",
            whole.iter().filter(|it| **it).count(),
            whole.len()
        );
        assert_eq!(
            (whole.first(), whole.last()),
            (Some(&false), Some(&true)),
            "{mode}"
        );
    }
}

#[test]
fn runs_without_enough_descriptors() {
    squeeze(
        (4..24)
            .step_by(3)
            .chain([32, 48, 1024])
            .map(|most| format!("-n {most}")),
    );
}

/// WasmEdge reserves 12 GiB for each memory, user mode has three of them in one process.
#[test]
fn runs_without_enough_addresses() {
    squeeze((1..=64).step_by(7).map(|gib| format!("-v {}", gib << 20)));
}
