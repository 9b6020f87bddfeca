//! A few rounds of each kind; `cargo xtask soak` plays many.

use std::process::Command;

fn soak(part: &str, rounds: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_roadrunner-soak"))
        .args(["--only", part, "--rounds", rounds, "--seed", "1"])
        .output()
        .expect("it starts");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn killed_over_unix_sockets() {
    soak("uds", "32");
}

#[test]
fn killed_over_tcp() {
    soak("net", "16");
}

#[test]
fn handed_over_in_one_process() {
    soak("mem", "2000");
}
