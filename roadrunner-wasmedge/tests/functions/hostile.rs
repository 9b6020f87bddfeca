//! What a function cannot do to its host.

use crate::support::*;
use roadrunner_core::{Deadline, Payload, Region, Sink, TransferError};
use roadrunner_wasmedge::function::{
    Function, FunctionError, FunctionOptions, NoOutbox, Reply, SendError,
};
use roadrunner_wasmedge::module::Module;
use std::time::{Duration, Instant};

/// Calls a handler that is not to return; gives how it was ended.
fn stopped_after(function: &mut Function, time: Duration) -> FunctionError {
    let region = put(function, b"x");
    loop {
        let error = function
            .handle(region, &mut NoOutbox, Deadline::after(time))
            .expect_err("it does not return");
        // On a busy machine the time may have passed before the function was entered.
        let entered =
            !matches!(error, FunctionError::Deadline { after, .. } if after == Duration::ZERO);
        assert_eq!(function.is_usable(), !entered, "{error}");
        if entered {
            return error;
        }
    }
}

const SHORT: Duration = Duration::from_millis(30);

#[test]
fn an_endless_loop_is_stopped_at_the_deadline() {
    for body in [
        "(loop $on (br $on)) (unreachable)",
        "(loop $on (i32.store (i32.const 8) (i32.add (i32.const 1) (i32.load (i32.const 8)))) (br $on)) (unreachable)",
        // In WasmEdge most of the time, not in the guest's own code.
        "(loop $on (memory.fill (i32.const 0) (i32.const 1) (i32.const 131072)) (br $on)) (unreachable)",
        "(loop $on (drop (memory.grow (i32.const 0))) (br $on)) (unreachable)",
        // In the host most of the time.
        "(loop $on (drop (call $left)) (br $on)) (unreachable)",
        "(loop $on (drop (call $fail (i32.const 0) (i32.const 4))) (br $on)) (unreachable)",
    ] {
        let mut endless = function(body);
        let began = Instant::now();
        match stopped_after(&mut endless, SHORT) {
            FunctionError::Deadline { function, after } => {
                assert_eq!(function, "test");
                assert!(after >= SHORT && after <= began.elapsed());
            }
            other => panic!("{body}: {other}"),
        }
        match endless.reserve(1, 1) {
            Err(TransferError::Sink(error)) => assert!(error.to_string().contains("earlier"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn other_functions_of_the_module_go_on_when_one_is_stopped() {
    let text = handler(
        "(if (i32.eqz (local.get $len)) (then (loop $on (br $on))))
        (call $reply (local.get $ptr) (local.get $len))",
    );
    let mut stays = instance(&text);
    for _ in 0..3 {
        let mut endless = instance(&text);
        let region = put(&mut endless, b"");
        let deadline = Deadline::after(SHORT);
        let error = endless
            .handle(region, &mut NoOutbox, deadline)
            .expect_err("endless");
        assert!(matches!(error, FunctionError::Deadline { .. }), "{error}");
        assert_eq!(
            call(&mut stays, b"x").expect("a reply").as_deref(),
            Some(&b"x"[..])
        );
        drop(endless);
        assert_eq!(
            call(&mut stays, b"y").expect("a reply").as_deref(),
            Some(&b"y"[..])
        );
    }
}

#[test]
fn wherever_a_function_is_it_can_be_stopped() {
    // Deep in calls, in prologues and epilogues: where an unwinder could lose its way.
    let text = wat(r#"(func $fib (param $n i64) (result i64)
            (if (i64.lt_u (local.get $n) (i64.const 2)) (then (return (local.get $n))))
            (i64.add (call $fib (i64.sub (local.get $n) (i64.const 1)))
                     (call $fib (i64.sub (local.get $n) (i64.const 2)))))
        (func (export "roadrunner_handle") (param i32 i32) (result i64)
            (loop $on (drop (call $fib (i64.const 30))) (br $on)) (unreachable))"#);
    let module = module(&text);
    for microseconds in 0..200 {
        let mut endless = Function::new(&module, FunctionOptions::new("test")).expect("a function");
        let error = stopped_after(&mut endless, Duration::from_micros(500 + 17 * microseconds));
        assert!(matches!(error, FunctionError::Deadline { .. }), "{error}");
    }
}

#[test]
fn sleep_ends_at_the_deadline() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 64) "\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\ff\ff\ff\ff\ff\ff\ff\7f")
        (func (export "roadrunner_allocate") (param i32 i32) (result i32) (i32.const 1024))
        (func (export "roadrunner_free") (param i32))
        (func (export "roadrunner_handle") (param i32 i32) (result i64)
            (drop (call $poll (i32.const 64) (i32.const 512) (i32.const 1) (i32.const 256)))
            (loop $on (br $on)) (unreachable)))"#;
    let error = stopped_after(&mut instance(text), SHORT);
    assert!(matches!(error, FunctionError::Deadline { .. }), "{error}");
}

#[test]
fn calls_without_a_deadline_have_a_limit() {
    let endless = "(loop $on (br $on))";
    let options = || FunctionOptions::new("slow").call_limit(SHORT);
    let handle =
        r#"(func (export "roadrunner_handle") (param i32 i32) (result i64) (i64.const 0))"#;
    for text in [
        wat(&format!(
            r#"(func (export "_initialize") {endless}) {handle}"#
        )),
        wat(&format!("(func $begin {endless}) (start $begin) {handle}")),
    ] {
        match Function::new(&module(&text), options()) {
            Err(FunctionError::Deadline { function, .. }) => assert_eq!(function, "slow"),
            other => panic!("{other:?}"),
        }
    }
    let text = wat(&format!(
        r#"(func (export "roadrunner_allocate") (param i32 i32) (result i32) {endless} (unreachable))
        (func (export "roadrunner_free") (param i32) {endless}) {handle}"#
    ));
    let mut slow = Function::new(&module(&text), options()).expect("a function");
    match slow.reserve(1, 1) {
        Err(TransferError::Sink(error)) => {
            assert!(error.to_string().contains("deadline"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    let mut slow = Function::new(&module(&text), options()).expect("a function");
    let error = slow.free(Region::new(8, 1)).expect_err("endless");
    assert!(matches!(error, FunctionError::Deadline { .. }), "{error}");
}

#[test]
fn a_trap_is_an_error_with_its_reason() {
    for (body, reason) in [
        ("(unreachable)", "unreachable"),
        (
            "(drop (i32.load (i32.const -8))) (i64.const 0)",
            "out of bounds",
        ),
        (
            "(drop (i32.div_u (i32.const 1) (i32.eqz (local.get $ptr)))) (i64.const 0)",
            "divide by zero",
        ),
    ] {
        let mut trapping = function(body);
        match call(&mut trapping, b"x") {
            Err(FunctionError::Trap {
                function,
                reason: found,
                said: None,
            }) => {
                assert_eq!(function, "test");
                assert!(found.contains(reason), "{found}");
            }
            other => panic!("{body}: {other:?}"),
        }
        assert!(!trapping.is_usable());
        let again = trapping.handle(Region::new(0, 0), &mut NoOutbox, soon());
        assert!(
            matches!(again, Err(FunctionError::Unusable { .. })),
            "{again:?}"
        );
    }
}

#[test]
fn a_trap_has_what_the_guest_said_before() {
    let text = wat(r#"(data (i32.const 100) "panicked at lib.rs")
        (func (export "roadrunner_handle") (param i32 i32) (result i64)
            (drop (call $fail (i32.const 100) (i32.const 18)))
            (unreachable))"#);
    let error = call(&mut instance(&text), b"").expect_err("a trap");
    let message = error.to_string();
    for part in ["test", "unreachable", "panicked at lib.rs"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn exiting_is_a_trap_that_says_so() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "roadrunner_allocate") (param i32 i32) (result i32) (i32.const 1024))
        (func (export "roadrunner_free") (param i32))
        (func (export "roadrunner_handle") (param i32 i32) (result i64) (call $exit (i32.const 3)) (unreachable)))"#;
    let error = call(&mut instance(text), b"").expect_err("an exit");
    assert!(
        error.to_string().contains("exited with status 3"),
        "{error}"
    );
}

#[test]
fn more_than_an_address_can_name_is_refused() {
    let mut echo = function(ECHO);
    // Asked for, and not to be had.
    match echo.reserve(u32::MAX.into(), 2 << 20) {
        Err(TransferError::NoRoom { len, .. }) => assert_eq!(len, u64::from(u32::MAX)),
        other => panic!("{other:?}"),
    }
    // Not even asked for.
    for len in [1 << 32, u64::MAX] {
        assert!(matches!(
            echo.reserve(len, 1),
            Err(TransferError::NoRoom { .. })
        ));
    }
    assert_eq!(
        call(&mut echo, b"x").expect("a reply").as_deref(),
        Some(&b"x"[..])
    );
}

#[test]
fn an_allocation_outside_the_memory_is_an_error() {
    let gives = |address: i64| {
        instance(&wat(&format!(
            r#"(func (export "roadrunner_allocate") (param i32 i32) (result i32) (i32.const {address}))
            (func (export "roadrunner_free") (param i32))
            (func (export "roadrunner_handle") (param i32 i32) (result i64) (i64.const 0))"#
        )))
    };
    for address in [2 * 65536, 2 * 65536 - 99, -1, 0x7fff_ffff] {
        match gives(address).reserve(100, 1) {
            Err(TransferError::Sink(error)) => {
                let message = error.to_string();
                assert!(
                    message.contains("test") && message.contains("131072"),
                    "{message}"
                );
            }
            other => panic!("{address}: {other:?}"),
        }
    }
    assert!(gives(2 * 65536 - 100).reserve(100, 1).is_ok());
    assert!(matches!(
        gives(0).reserve(100, 1),
        Err(TransferError::NoRoom { .. })
    ));
}

#[test]
fn a_reply_outside_the_memory_is_an_error() {
    for (ptr, len) in [(4096, 2 * 65536), (2 * 65536, 1), (-1, -1), (0, 8)] {
        let mut lying = function(&format!(
            "(call $reply (i32.const {ptr}) (i32.const {len}))"
        ));
        let found = call(&mut lying, b"x");
        if (ptr, len) == (-1, -1) {
            assert!(
                matches!(found, Err(FunctionError::Failed { .. })),
                "{found:?}"
            );
            continue;
        }
        match found {
            Err(FunctionError::BadReply {
                function,
                region,
                memory,
            }) => {
                assert_eq!(function, "test");
                assert_eq!(region, Region::new(ptr as u64, len as u64));
                assert_eq!(memory, 2 * 65536);
            }
            other => panic!("{ptr} {len}: {other:?}"),
        }
    }
}

#[test]
fn a_region_that_the_host_passes_is_checked_too() {
    let mut echo = function(ECHO);
    for region in [
        Region::new(0, 3 * 65536),
        Region::new(u64::MAX, 1),
        Region::new(1 << 32, 0),
    ] {
        let result = echo.handle(region, &mut NoOutbox, soon());
        assert!(
            matches!(result, Err(FunctionError::BadRegion { .. })),
            "{result:?}"
        );
    }
    assert!(echo.is_usable());
    assert!(echo.free(Region::new(1 << 32, 1)).is_err());
}

/// A handler that makes one call and replies with what it returned.
fn returns(call: &str) -> String {
    handler(&format!(
        "(i32.store (i32.const 200) {call}) (call $reply (i32.const 200) (i32.const 4))"
    ))
}

#[test]
fn regions_and_texts_that_lie_have_a_code() {
    let invalid = [
        // Regions that are not in the memory: target, payload, text.
        "(call $send (i32.const -4) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0))",
        "(call $send (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 0))",
        "(call $send (i32.const 0) (i32.const 0) (i32.const 131072) (i32.const 1) (i32.const 0))",
        "(call $send (i32.const 0) (i32.const 0) (i32.const 4) (i32.const -1) (i32.const 1))",
        "(call $log (i32.const 0) (i32.const 131000) (i32.const 100))",
        "(call $fail (i32.const -1) (i32.const -1))",
        // Flags and levels that are not defined.
        "(call $send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2))",
        "(call $send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1))",
        "(call $log (i32.const -1) (i32.const 0) (i32.const 0))",
    ];
    for call_text in invalid {
        let reply = call(&mut instance(&returns(call_text)), b"x").expect("a reply");
        assert_eq!(reply, Some((-1_i32).to_le_bytes().to_vec()), "{call_text}");
    }
    // Texts that are not UTF-8.
    for call_text in [
        "(call $send (local.get $ptr) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0))",
        "(call $log (i32.const 0) (local.get $ptr) (i32.const 1))",
        "(call $fail (local.get $ptr) (i32.const 1))",
    ] {
        let reply = call(&mut instance(&returns(call_text)), b"\xff").expect("a reply");
        assert_eq!(reply, Some((-1_i32).to_le_bytes().to_vec()), "{call_text}");
    }
}

#[test]
fn a_panic_of_the_host_becomes_a_code() {
    let text = returns(
        "(call $send (i32.const 0) (i32.const 0) (local.get $ptr) (local.get $len) (i32.const 0))",
    );
    let mut sending = instance(&text);
    let mut outbox =
        Does(|_: &str, _: Payload<'_>| -> Result<(), SendError> { panic!("on purpose") });
    let reply = call_with(&mut sending, b"x", &mut outbox).expect("a reply");
    assert_eq!(reply, Some((-6_i32).to_le_bytes().to_vec()));
    // And of a log, whose function goes on as well.
    let text = returns("(call $log (i32.const 0) (i32.const 0) (i32.const 1))");
    let options = FunctionOptions::new("test").log(|_, _| panic!("on purpose"));
    let mut logging = Function::new(&module(&text), options).expect("a function");
    let reply = call(&mut logging, b"x").expect("a reply");
    assert_eq!(reply, Some((-6_i32).to_le_bytes().to_vec()));
}

#[test]
fn a_host_function_exported_as_the_functions_own_is_an_error() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (export "roadrunner_allocate" (func $sizes))
        (func (export "roadrunner_free") (param i32))
        (func (export "roadrunner_handle") (param i32 i32) (result i64) (i64.const 0)))"#;
    match instance(text).reserve(10, 1) {
        Err(TransferError::Sink(error)) => {
            assert!(error.to_string().contains("host function"), "{error}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn deep_recursion_is_a_trap() {
    let text = wat(r#"(func $down (param $n i32) (result i32)
            (local $a i32)
            (local.set $a (call $down (i32.add (local.get $n) (i32.const 1))))
            (i32.store (i32.and (local.get $n) (i32.const 4095)) (local.get $a))
            (call $down (local.get $a)))
        (func (export "roadrunner_handle") (param i32 i32) (result i64)
            (i64.extend_i32_u (call $down (i32.const 0))))"#);
    for _ in 0..3 {
        let mut deep = instance(&text);
        let error = call(&mut deep, b"x").expect_err("a trap");
        assert!(matches!(error, FunctionError::Trap { .. }), "{error}");
    }
    let mut echo = function(ECHO);
    assert_eq!(
        call(&mut echo, b"x").expect("a reply").as_deref(),
        Some(&b"x"[..])
    );
}

#[test]
fn the_memory_stays_whole_after_a_trap() {
    let mut trapping = function("(unreachable)");
    let region = put(&mut trapping, b"still here");
    trapping
        .handle(region, &mut NoOutbox, soon())
        .expect_err("a trap");
    assert!(region.fits(trapping.memory().len() as u64));
    assert_eq!(bytes(&mut trapping, region), b"still here");
}

#[test]
fn a_trap_stays_a_trap_while_another_thread_comes_and_goes() {
    let trapping = module(&handler("(drop (i32.load (i32.const -8))) (i64.const 0)"));
    let traps = || {
        for _ in 0..200 {
            let mut trapping =
                Function::new(&trapping, FunctionOptions::new("test")).expect("a function");
            let error = call(&mut trapping, b"x").expect_err("a trap");
            assert!(matches!(error, FunctionError::Trap { .. }), "{error}");
        }
    };
    std::thread::scope(|scope| {
        let traps = scope.spawn(traps);
        let mut silent = function("(i64.const 0)");
        let region = put(&mut silent, b"x");
        while !traps.is_finished() {
            let reply = silent.handle(region, &mut NoOutbox, soon());
            assert_eq!(reply.expect("no failure"), Reply::None);
        }
    });
}

#[test]
fn nothing_reaches_stdout() {
    let Some(output) = alone("hostile::nothing_reaches_stdout") else {
        // Compiling, an invalid module, a trap, output of the guest's own, a deadline.
        let _ = Module::from_bytes("bad", b"\0asm\x01\0\0\0\x01\xff", Some(cache()));
        call(&mut function("(unreachable)"), b"x").expect_err("a trap");
        let text = r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 16) "\40\00\00\00\0a\00\00\00")
            (data (i32.const 64) "the guest\0a")
            (func (export "roadrunner_allocate") (param i32 i32) (result i32) (i32.const 1024))
            (func (export "roadrunner_free") (param i32))
            (func (export "roadrunner_handle") (param i32 i32) (result i64)
                (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))
                (i64.const 0)))"#;
        call(&mut instance(text), b"x").expect("no failure");
        stopped_after(&mut function("(loop $on (br $on)) (unreachable)"), SHORT);
        return;
    };
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    // A function whose log nobody took speaks on stderr.
    assert!(talk.contains("test: info: the guest"), "{talk}");
    // What the test harness prints, and nothing else.
    let stdout = String::from_utf8_lossy(&output.stdout);
    let others = stdout.lines().filter(|line| {
        !line.is_empty() && !line.starts_with("running") && !line.starts_with("test ")
    });
    assert_eq!(others.collect::<Vec<_>>(), [""; 0], "{stdout}");
}
