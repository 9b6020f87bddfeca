//! What the tests of functions share: modules in the text format, a cache for them, and an outbox that remembers.

pub(crate) mod puppet;

use roadrunner_core::{Deadline, Payload, Region, Sink};
use roadrunner_wasmedge::function::{
    Function, FunctionError, FunctionOptions, LogLevel, Outbox, Reply, SendError,
};
use roadrunner_wasmedge::module::Module;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tempfile::TempDir;

/// One cache for all tests of a program, so that equal modules are compiled once.
pub(crate) fn cache() -> &'static Path {
    static CACHE: OnceLock<TempDir> = OnceLock::new();
    CACHE
        .get_or_init(|| tempfile::tempdir().expect("a directory"))
        .path()
}

/// A module with the imports of version 1, a memory of two pages that may grow to a hundred, and an allocator that
/// hands out what lies behind the last buffer, growing the memory as needed, and never takes anything back. Then `rest`,
/// which is `roadrunner_handle` at least.
pub(crate) fn wat(rest: &str) -> String {
    format!(
        r#"(module
        (import "roadrunner" "send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
        (import "roadrunner" "log" (func $log (param i32 i32 i32) (result i32)))
        (import "roadrunner" "fail" (func $fail (param i32 i32) (result i32)))
        (import "roadrunner" "deadline_left" (func $left (result i64)))
        (memory (export "memory") 2 100)
        (global $top (mut i32) (i32.const 4096))
        (global $freed (mut i32) (i32.const 0))
        (func $reply (param $ptr i32) (param $len i32) (result i64)
            (i64.or (i64.shl (i64.extend_i32_u (local.get $ptr)) (i64.const 32))
                    (i64.extend_i32_u (local.get $len))))
        {allocator}
        {rest})"#,
        allocator = if rest.contains("roadrunner_allocate") {
            ""
        } else {
            ALLOCATOR
        },
    )
}

const ALLOCATOR: &str = r#"
    (func $allocate (export "roadrunner_allocate") (param $len i32) (param $align i32) (result i32)
        (local $start i32) (local $end i64)
        (local.set $start (i32.and
            (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
            (i32.sub (i32.const 0) (local.get $align))))
        (local.set $end (i64.add (i64.extend_i32_u (local.get $start)) (i64.extend_i32_u (local.get $len))))
        (block $room
            (br_if $room (i64.le_u (local.get $end) (i64.mul (i64.extend_i32_u (memory.size)) (i64.const 65536))))
            (br_if $room (i32.ne (i32.const -1) (memory.grow (i32.wrap_i64 (i64.sub
                (i64.div_u (i64.add (local.get $end) (i64.const 65535)) (i64.const 65536))
                (i64.extend_i32_u (memory.size)))))))
            (return (i32.const 0)))
        (global.set $top (i32.wrap_i64 (local.get $end)))
        (local.get $start))
    (func $free (export "roadrunner_free") (param i32)
        (global.set $freed (i32.add (global.get $freed) (i32.const 1))))"#;

/// A handler with this body, which has `$ptr` and `$len`.
pub(crate) fn handler(body: &str) -> String {
    wat(&format!(
        r#"(func (export "roadrunner_handle") (param $ptr i32) (param $len i32) (result i64) {body})"#
    ))
}

pub(crate) const ECHO: &str = "(call $reply (local.get $ptr) (local.get $len))";

pub(crate) fn module(text: &str) -> Module {
    Module::from_bytes("test.wat", text.as_bytes(), Some(cache())).expect("a good module")
}

/// A function whose handler has this body.
pub(crate) fn function(body: &str) -> Function {
    instance(&handler(body))
}

pub(crate) fn instance(text: &str) -> Function {
    Function::new(&module(text), FunctionOptions::new("test")).expect("a function")
}

/// What a function logged.
pub(crate) type Lines = Arc<Mutex<Vec<(LogLevel, String)>>>;

pub(crate) fn logging(text: &str, options: FunctionOptions) -> (Function, Lines) {
    let lines = Lines::default();
    let log = lines.clone();
    let options = options.log(move |level, text| {
        log.lock().expect("lines").push((level, text.to_owned()));
    });
    (
        Function::new(&module(text), options).expect("a function"),
        lines,
    )
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// Puts bytes into a function, by its own allocator.
pub(crate) fn put(function: &mut Function, bytes: &[u8]) -> Region {
    let region = function.reserve(bytes.len() as u64, 16).expect("room");
    let span = region.span(function.memory()).expect("in the memory");
    assert_eq!(span.copy_from_slice(bytes), bytes.len());
    region
}

pub(crate) fn bytes(function: &mut Function, region: Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len() as usize];
    let span = region.span(function.memory()).expect("in the memory");
    span.copy_to_slice(&mut bytes);
    bytes
}

/// Lets a function handle some bytes; gives what it replied, and gives the buffer back.
pub(crate) fn call(
    function: &mut Function,
    input: &[u8],
) -> Result<Option<Vec<u8>>, FunctionError> {
    call_with(function, input, &mut Sent::default())
}

pub(crate) fn call_with(
    function: &mut Function,
    input: &[u8],
    outbox: &mut dyn Outbox,
) -> Result<Option<Vec<u8>>, FunctionError> {
    let region = put(function, input);
    match function.handle(region, outbox, soon())? {
        Reply::None => Ok(None),
        Reply::Region(region) => {
            let reply = bytes(function, region);
            function.free(region)?;
            Ok(Some(reply))
        }
    }
}

/// An outbox that knows `next` and remembers what it was sent.
#[derive(Debug, Default)]
pub(crate) struct Sent(pub(crate) Vec<(bool, Vec<u8>)>);

impl Outbox for Sent {
    fn send(&mut self, target: &str, mut payload: Payload<'_>) -> Result<(), SendError> {
        if target != "next" {
            return Err(SendError::UnknownTarget);
        }
        let mut bytes = vec![0; payload.len() as usize];
        payload.span()?.copy_to_slice(&mut bytes);
        self.0.push((payload.is_given(), bytes));
        Ok(())
    }
}

/// An outbox that does what it is told.
pub(crate) struct Does<F>(pub(crate) F);

impl<F: FnMut(&str, Payload<'_>) -> Result<(), SendError>> Outbox for Does<F> {
    fn send(&mut self, target: &str, payload: Payload<'_>) -> Result<(), SendError> {
        (self.0)(target, payload)
    }
}

/// Runs one test alone in a process of its own, and gives what came of it; `None` in that process.
pub(crate) fn alone(test: &str) -> Option<std::process::Output> {
    const ALONE: &str = "ROADRUNNER_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return None;
    }
    let program = std::env::current_exe().expect("a program");
    let output = std::process::Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("it runs");
    // None is run, and nothing fails, if there is no test of that name.
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("running 1 test\n"), "{test}: {said}");
    Some(output)
}
