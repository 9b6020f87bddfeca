//! Compiling in a process whose functions run already.

use roadrunner_core::{Deadline, Sink};
use roadrunner_wasmedge::function::{Function, FunctionError, FunctionOptions, NoOutbox};
use roadrunner_wasmedge::module::Module;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A module that is another one for each `body`.
fn module(body: &str, cache: &Path) -> Module {
    let text = format!(
        r#"(module
            (memory (export "memory") 1)
            (func (export "roadrunner_allocate") (param i32 i32) (result i32) (i32.const 1024))
            (func (export "roadrunner_free") (param i32))
            (func (export "roadrunner_handle") (param i32 i32) (result i64) {body}))"#
    );
    Module::from_bytes("module", text.as_bytes(), Some(cache)).expect("a good module")
}

fn run(module: &Module) -> Result<(), FunctionError> {
    let mut function = Function::new(module, FunctionOptions::new("f"))?;
    let region = function.reserve(1, 1).expect("room");
    let deadline = Deadline::after(Duration::from_millis(50));
    function.handle(region, &mut NoOutbox, deadline).map(drop)
}

/// Where the child finds the cache that its parent has filled, in part.
const CACHE: &str = "ROADRUNNER_TEST_CACHE";

/// The compiler's first run in a process comes after the first function's: what stops guests still works.
#[test]
fn a_guest_is_stopped_after_another_was_compiled() {
    if let Some(cache) = std::env::var_os(CACHE) {
        let cache = Path::new(&cache);
        run(&module("(i64.const 0)", cache)).expect("from the cache");
        let late = run(&module("(loop $again (br $again)) (i64.const 0)", cache));
        assert!(matches!(late, Err(FunctionError::Deadline { .. })));
        let trap = run(&module("(unreachable)", cache));
        assert!(matches!(trap, Err(FunctionError::Trap { .. })));
        return;
    }
    let cache = tempfile::tempdir().expect("a directory");
    run(&module("(i64.const 0)", cache.path())).expect("compiled");
    let child = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "a_guest_is_stopped_after_another_was_compiled"])
        .env(CACHE, cache.path())
        .output()
        .expect("it starts");
    assert!(child.status.success(), "{child:?}");
}
