//! The build script's work: a program of this package finds libwasmedge when it runs, and is otherwise a program like any
//! other, even where it runs on a dynamic loader and a libc that are not the machine's own.

use std::collections::HashMap;
use std::env;
use std::process::Command;

use wasmedge_sdk::vm::SyncInst;
use wasmedge_sdk::{params, wat2wasm, Module, Store, Vm, WasmVal};

/// Makes this program, started once more by itself, print a line and end.
const AGAIN: &str = "ROADRUNNER_TEST_STARTED_AGAIN";

#[test]
fn a_function_runs() {
    let wasm = wat2wasm(
        br#"(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))"#,
    )
    .unwrap();
    let module = Module::from_bytes(None, wasm).unwrap();
    let mut vm = Vm::new(Store::new(None, HashMap::<String, &mut dyn SyncInst>::new()).unwrap());
    vm.register_module(Some("sums"), module).unwrap();
    let sum = vm.run_func(Some("sums"), "add", params!(40_i32, 2_i32)).unwrap();
    assert_eq!(sum[0].to_i32(), 42);
}

#[test]
fn the_program_knows_its_own_path() {
    let path = env::current_exe().unwrap();
    assert!(path.file_name().unwrap().to_string_lossy().starts_with("link-"), "{}", path.display());
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
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("started again"));
}

#[test]
fn the_program_starts_programs_of_the_machine() {
    let output = Command::new("/bin/sh").args(["-c", "ls / >/dev/null && echo fine"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"fine\n");
}
