//! Runs on a system that has no descriptors or no addresses left, or whose calls fail: a run is whole, or says why it is not
//! and leaves nothing.

use crate::support::{echo, names, Bench, MODES};
use nix::errno::Errno;
use roadrunner_core::testing::skipped;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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

/// Calls of the program's own, and how each may fail.
const CALLS: [(&str, &[Errno]); 13] = [
    ("mmap", &[Errno::ENOMEM]),
    ("mremap", &[Errno::ENOMEM, Errno::EAGAIN]),
    ("madvise", &[Errno::ENOMEM]),
    ("memfd_create", &[Errno::EMFILE, Errno::ENOMEM]),
    ("ftruncate", &[Errno::ENOSPC]),
    ("socketpair", &[Errno::EMFILE]),
    ("pipe2", &[Errno::EMFILE]),
    ("splice", &[Errno::ENOMEM]),
    ("vmsplice", &[Errno::ENOMEM]),
    ("sendmsg", &[Errno::ENOBUFS]),
    ("recvmsg", &[Errno::ENOMEM]),
    ("eventfd", &[Errno::EMFILE]),
    ("pthread_create", &[Errno::EAGAIN]),
];

/// The library that lets calls fail, if there is a compiler for it.
fn failing(bench: &Bench) -> Option<PathBuf> {
    let library = bench.path("failing.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/support/failing.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status();
    built
        .is_ok_and(|status| status.success())
        .then_some(library)
}

#[test]
fn runs_whose_calls_fail() {
    let bench = bench();
    let Some(library) = failing(&bench) else {
        skipped(
            "calls that fail beneath a whole run",
            "there is no C compiler `cc`",
        );
        return;
    };
    // Threads and exchanges of pages are user mode's, sockets and segments those between processes.
    for (mode, most, made_by) in [("user", 6, "mremap"), ("kernel", 3, "memfd_create")] {
        let counts = bench.path("counts");
        let mut command = bench.command(mode);
        command.env("LD_PRELOAD", &library);
        let counting = command.env("ROADRUNNER_COUNTS", &counts).output();
        assert!(
            check(&bench, mode, &counting.expect("it starts")),
            "nothing fails"
        );
        // Of the process that makes most of them.
        let mut made = BTreeMap::new();
        for line in std::fs::read_to_string(&counts).expect("counted").lines() {
            let (call, count) = line.split_once(' ').expect("two words");
            let count: u64 = count.parse().expect("a number");
            let before = made.entry(call.to_owned()).or_insert(0);
            *before = count.max(*before);
        }
        std::fs::remove_file(&counts).expect("there");
        assert!(
            made[made_by] > 0,
            "{mode}: no pages change hands, or the calls get past: {made:?}"
        );
        let (mut runs, mut whole) = (0, 0);
        for (call, errors) in CALLS {
            let count = made[call];
            let some = (0..count).step_by(count.div_ceil(most).max(1) as usize);
            let once = some.map(|nth| (nth, 1));
            // From the first on: there is none at all.
            for (nth, once) in once.chain((count > 0).then_some((0, 0))) {
                for error in errors {
                    let plan = format!("{call} {nth} {} {once}", *error as i32);
                    let mut command = bench.command(mode);
                    command.env("LD_PRELOAD", &library);
                    let output = command.env("ROADRUNNER_FAIL", &plan).output();
                    let label = format!("{mode}, ROADRUNNER_FAIL=\"{plan}\"");
                    runs += 1;
                    whole += u32::from(check(&bench, &label, &output.expect("it starts")));
                }
            }
        }
        println!("{mode}: {whole} runs of {runs} were whole, with {made:?}");
    }
}
