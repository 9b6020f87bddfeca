//! The build script's work: a program of this package finds libwasmedge when it runs, and is otherwise a program like any
//! other, even where it runs on a dynamic loader and a libc that are not the machine's own.

use std::env;
use std::process::Command;

/// Makes this program, started once more by itself, print a line and end.
const AGAIN: &str = "ROADRUNNER_TEST_STARTED_AGAIN";

#[test]
fn libwasmedge_answers() {
    let mut config = wasmedge_sys::Config::create().unwrap();
    config.simd(false);
    assert!(!config.simd_enabled());
    config.simd(true);
    assert!(config.simd_enabled());
}

#[test]
fn the_program_knows_its_own_path() {
    let path = env::current_exe().unwrap();
    assert!(
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("link-"),
        "{}",
        path.display()
    );
}

#[test]
fn the_program_starts_itself() {
    if env::var_os(AGAIN).is_some() {
        println!("started again");
        return;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "the_program_starts_itself", "--nocapture"])
        .env(AGAIN, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("started again"));
}

#[test]
fn the_program_starts_programs_of_the_machine() {
    let output = Command::new("/bin/sh")
        .args(["-c", "ls / >/dev/null && echo fine"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.stdout, b"fine\n");
}
