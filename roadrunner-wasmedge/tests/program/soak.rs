//! Processes of a run are killed, again and again: `cargo xtask soak --only wasmedge` plays more rounds of this.

use crate::support::lots::{number, Lots};
use crate::support::{echo, names, Bench};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// More than sockets hold, so that there is much to be killed in.
const BYTES: usize = 3 << 20;
/// After the coordinator has been killed workers have so long to notice.
const PATIENCE: Duration = Duration::from_secs(20);

fn input() -> Vec<u8> {
    (0..BYTES).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// A chain, in kernel mode some of it over socket files.
fn bench() -> Bench {
    let bench = Bench::chain(&NAMES.map(|name| (name, echo())));
    let flow = std::fs::read_to_string(bench.path("flow.toml")).expect("just written");
    let with_socket = flow.replace(
        "module = \"c.wat\"\n",
        &format!(
            "module = \"c.wat\"\nsocket = \"{}\"\n",
            bench.path("c.sock").display()
        ),
    );
    assert_ne!(flow, with_socket);
    bench.write("flow.toml", with_socket.as_bytes());
    bench.write("input", &input());
    bench
}

fn start(bench: &Bench, mode: &str) -> Child {
    let mut command = bench.command(mode);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it starts")
}

/// A run that nobody disturbs: whole, and nothing beside its output.
fn undisturbed(bench: &Bench, mode: &str) {
    let output = bench.run(mode);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{mode}: {talk}");
    assert_eq!(names(&bench.path("out")), ["d"], "{mode}");
    let whole = std::fs::read(bench.path("out/d")).expect("an output");
    assert!(whole == input(), "{mode}: the output is not the input");
    std::fs::remove_file(bench.path("out/d")).expect("there");
    bench.left_nothing(mode);
}

#[test]
fn whoever_of_a_run_is_killed_leaves_nothing() {
    let rounds = number("ROADRUNNER_SOAK_ROUNDS", 12);
    let first = number("ROADRUNNER_SOAK_SEED", 1);
    let bench = bench();
    let mut killed = [0, 0];
    let mut late = 0;
    for mode in ["kernel", "network"] {
        undisturbed(&bench, mode);
        let began = Instant::now();
        undisturbed(&bench, mode);
        let usual = began.elapsed();
        for seed in first..first + rounds.div_ceil(2) {
            let label = format!("{mode}, ROADRUNNER_SOAK_ROUNDS=1 ROADRUNNER_SOAK_SEED={seed}");
            let mut lots = Lots(seed);
            let child = start(&bench, mode);
            let usual = usual.as_micros() as u64;
            thread::sleep(Duration::from_micros(lots.below(usual)));
            let is_worker =
                |arguments: &[String]| arguments.get(1).is_some_and(|word| word == "worker");
            let mut victims: Vec<_> = bench.processes().into_iter().collect();
            victims
                .retain(|(number, arguments)| *number == child.id() as i32 || is_worker(arguments));
            let chosen = lots.below(victims.len() as u64) as usize;
            let victim = victims.get(chosen);
            if let Some((number, _)) = victim {
                // It may have ended by itself in the meantime.
                let _ = kill(Pid::from_raw(*number), Signal::SIGKILL);
            }
            let output = child.wait_with_output().expect("it ends");
            let talk = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                late += 1;
                let whole = std::fs::read(bench.path("out/d")).expect("an output");
                assert!(whole == input(), "{label}: the output is not the input");
                std::fs::remove_file(bench.path("out/d")).expect("there");
                bench.left_nothing(&label);
                continue;
            }
            let Some((_, arguments)) = victim else {
                panic!("{label}: nobody was killed, and it failed: {talk}");
            };
            if is_worker(arguments) {
                killed[0] += 1;
                let function = format!("function `{}`", arguments[2]);
                bench.failed(&label, &output, &[&function, "signal 9"]);
            } else {
                killed[1] += 1;
                assert_eq!(output.status.code(), None, "{label}: {talk}");
                let began = Instant::now();
                while !bench.processes().is_empty() {
                    let left = bench.processes();
                    assert!(began.elapsed() < PATIENCE, "{label}: still there: {left:?}");
                    thread::sleep(Duration::from_millis(2));
                }
                // No output is half there: it is whole if the run was over. What it wrote on its way the next run sweeps up, a
                // stale socket file included.
                if let Ok(output) = std::fs::read(bench.path("out/d")) {
                    assert!(output == input(), "{label}: half an output");
                    std::fs::remove_file(bench.path("out/d")).expect("there");
                }
                undisturbed(&bench, mode);
            }
        }
    }
    println!(
        "wasmedge: {} workers and {} coordinators killed, {late} runs that had ended",
        killed[0], killed[1]
    );
}
