//! What a function can do.

use crate::support::*;
use roadrunner_core::{Backing, Deadline, Payload, Region, Sink, TransferError};
use roadrunner_wasmedge::function::{
    Function, FunctionError, FunctionOptions, LogLevel, NoOutbox, Reply, SendError,
};
use std::time::Duration;

#[test]
fn the_buffer_that_came_in_can_be_the_reply() {
    let mut echo = function(ECHO);
    for input in [&b""[..], b"x", &[7; 300_000]] {
        assert_eq!(
            call(&mut echo, input).expect("a reply").as_deref(),
            Some(input)
        );
    }
}

#[test]
fn bytes_can_be_changed_in_place() {
    let mut invert = function(
        "(local $at i32)
        (block $done (loop $next
            (br_if $done (i32.ge_u (local.get $at) (local.get $len)))
            (i32.store8 (i32.add (local.get $ptr) (local.get $at))
                (i32.xor (i32.const 255) (i32.load8_u (i32.add (local.get $ptr) (local.get $at)))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $next)))
        (call $reply (local.get $ptr) (local.get $len))",
    );
    let input: Vec<u8> = (0..=255).collect();
    let expected: Vec<u8> = (0..=255).rev().collect();
    assert_eq!(call(&mut invert, &input).expect("a reply"), Some(expected));
}

#[test]
fn a_handler_need_not_reply() {
    let mut silent = function("(i64.const 0)");
    assert_eq!(call(&mut silent, b"x").expect("no failure"), None);
}

#[test]
fn a_reply_is_given_back_to_the_guest() {
    // Replies with the number of buffers that it has got back.
    let mut counting = function(
        "(i32.store (local.get $ptr) (global.get $freed))
        (call $reply (local.get $ptr) (local.get $len))",
    );
    for expected in 0..3_u32 {
        let reply = call(&mut counting, &[0; 4])
            .expect("a reply")
            .expect("bytes");
        assert_eq!(reply, expected.to_le_bytes());
    }
    let unused = put(&mut counting, b"unused");
    counting.release(unused);
    let reply = call(&mut counting, &[0; 4])
        .expect("a reply")
        .expect("bytes");
    assert_eq!(reply, 4_u32.to_le_bytes());
}

#[test]
fn a_failure_has_the_guests_words_and_is_not_the_end() {
    let text = wat(r#"(data (i32.const 100) "no such picture\1b[2J")
        (func (export "roadrunner_handle") (param i32 i32) (result i64)
            (if (i32.eqz (local.get 1)) (then (return (i64.const -1))))
            (drop (call $fail (i32.const 100) (i32.const 19)))
            (i64.const -1))"#);
    let mut failing = instance(&text);
    match call(&mut failing, b"x") {
        Err(FunctionError::Failed { function, reason }) => {
            assert_eq!(function, "test");
            // The escape character does not reach a terminal.
            assert_eq!(reason, "no such picture\u{fffd}[2J");
        }
        other => panic!("{other:?}"),
    }
    match call(&mut failing, b"") {
        Err(FunctionError::Failed { reason, .. }) => assert_eq!(reason, "it gave no reason"),
        other => panic!("{other:?}"),
    }
    assert!(failing.is_usable());
}

#[test]
fn payloads_can_be_sent_while_a_handler_runs() {
    let text = wat(r#"(data (i32.const 100) "next")
        (func (export "roadrunner_handle") (param $ptr i32) (param $len i32) (result i64)
            (drop (call $send (i32.const 100) (i32.const 4) (local.get $ptr) (local.get $len) (i32.const 0)))
            (i32.store8 (local.get $ptr) (i32.const 33))
            (drop (call $send (i32.const 100) (i32.const 4) (local.get $ptr) (local.get $len) (i32.const 1)))
            (i64.const 0))"#);
    let mut sending = instance(&text);
    let mut sent = Sent::default();
    call_with(&mut sending, b"hello", &mut sent).expect("no failure");
    assert_eq!(
        sent.0,
        [(false, b"hello".to_vec()), (true, b"!ello".to_vec())]
    );
}

/// A handler that sends its payload, flags in `flags`, and replies with the code that `send` returned.
fn sends(target: &str, flags: i32) -> String {
    wat(&format!(
        r#"(data (i32.const 100) "{target}")
        (func (export "roadrunner_handle") (param $ptr i32) (param $len i32) (result i64)
            (i32.store (i32.const 200)
                (call $send (i32.const 100) (i32.const {len}) (local.get $ptr) (local.get $len) (i32.const {flags})))
            (call $reply (i32.const 200) (i32.const 4)))"#,
        len = target.len(),
    ))
}

fn code(reply: Option<Vec<u8>>) -> i32 {
    let reply = reply.expect("a reply");
    i32::from_le_bytes(reply.try_into().expect("four bytes"))
}

#[test]
fn an_unknown_target_has_a_code() {
    let mut sending = instance(&sends("nobody", 0));
    assert_eq!(code(call(&mut sending, b"x").expect("a reply")), -2);
    let long = "x".repeat(300);
    let mut sending = instance(&sends(&long, 0));
    assert_eq!(code(call(&mut sending, b"x").expect("a reply")), -2);
}

#[test]
fn every_failure_of_a_transfer_has_a_code() {
    let mut sending = instance(&sends("next", 0));
    let mut code_for = |error: fn() -> SendError| {
        let mut outbox = Does(|_: &str, _: Payload<'_>| Err(error()));
        code(call_with(&mut sending, b"x", &mut outbox).expect("a reply"))
    };
    assert_eq!(code_for(|| SendError::UnknownTarget), -2);
    assert_eq!(code_for(|| TransferError::Timeout.into()), -3);
    assert_eq!(code_for(|| TransferError::PeerClosed.into()), -4);
    assert_eq!(code_for(|| TransferError::Broken.into()), -4);
    assert_eq!(
        code_for(|| TransferError::TooLarge { len: 2, limit: 1 }.into()),
        -5
    );
    assert_eq!(
        code_for(|| TransferError::Refused(String::new()).into()),
        -6
    );
}

#[test]
fn there_is_nobody_to_send_to_before_the_first_call() {
    let text = wat(r#"(global $code (mut i32) (i32.const 0))
        (func (export "_initialize")
            (global.set $code (call $send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
        (func (export "roadrunner_handle") (param $ptr i32) (param $len i32) (result i64)
            (i32.store (i32.const 200) (global.get $code))
            (call $reply (i32.const 200) (i32.const 4)))"#);
    assert_eq!(code(call(&mut instance(&text), b"").expect("a reply")), -7);
}

#[test]
fn log_lines_reach_the_sink_with_their_level() {
    let text = wat(r#"(data (i32.const 100) "careful")
        (func (export "roadrunner_handle") (param $ptr i32) (param $len i32) (result i64)
            (drop (call $log (i32.const 1) (i32.const 100) (i32.const 7)))
            (drop (call $log (i32.const 4) (i32.const 0) (i32.const 100000)))
            (i32.store (i32.const 200) (call $log (i32.const 5) (i32.const 100) (i32.const 7)))
            (call $reply (i32.const 200) (i32.const 4)))"#);
    let (mut logs, lines) = logging(&text, FunctionOptions::new("test"));
    assert_eq!(code(call(&mut logs, b"").expect("a reply")), -1);
    let lines = lines.lock().expect("lines");
    assert_eq!(lines[0], (LogLevel::Warn, "careful".to_owned()));
    let (level, long) = &lines[1];
    assert_eq!(*level, LogLevel::Trace);
    assert!(long.ends_with('…'));
    assert_eq!(long.chars().count(), (8 << 10) + 1, "a long text is cut");
    assert_eq!(lines.len(), 2);
}

#[test]
fn a_function_knows_how_much_time_is_left() {
    let mut asking = function(
        "(i64.store (local.get $ptr) (call $left)) (call $reply (local.get $ptr) (local.get $len))",
    );
    let reply = call(&mut asking, &[0; 8]).expect("a reply").expect("bytes");
    let left = i64::from_le_bytes(reply.try_into().expect("eight bytes"));
    assert!((1..=20_000).contains(&left), "{left}");
}

#[test]
fn memory_that_grew_in_a_call_is_seen_afterwards() {
    let mut growing = function(
        "(local $at i32)
        (drop (memory.grow (i32.const 3)))
        (local.set $at (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 5)))
        (memory.copy (local.get $at) (local.get $ptr) (i32.const 5))
        (call $reply (local.get $at) (i32.const 5))",
    );
    let before = growing.memory().len();
    // The reply lies in the pages that are new.
    assert_eq!(
        call(&mut growing, b"hello").expect("a reply").as_deref(),
        Some(&b"hello"[..])
    );
    assert_eq!(growing.memory().len(), before + 3 * 65536);
    // And the allocator's own growth.
    let large = growing.reserve(1 << 20, 1).expect("room");
    assert!(large.fits(growing.memory().len() as u64));
    assert!(growing.memory().len() > 1 << 20);
}

#[test]
fn buffers_are_aligned_as_asked() {
    let mut echo = function(ECHO);
    for align in [1, 16, 4096, 2 << 20] {
        let region = echo.reserve(10, align).expect("room");
        assert_eq!(region.offset() % align, 0);
    }
    // More than the guest's allocator knows: less alignment, no failure.
    assert!(echo.reserve(10, 1 << 40).is_ok());
}

#[test]
fn the_pages_of_a_memory_may_be_exchanged() {
    let mut echo = function(ECHO);
    assert_eq!(echo.memory().backing(), Backing::PrivateAnonymous);
    assert_eq!(echo.memory().base().as_ptr() as usize % 4096, 0);
}

#[test]
fn a_memory_has_no_more_pages_than_allowed() {
    let text = handler(ECHO);
    let options = |pages| FunctionOptions::new("small").max_pages(Some(pages));
    match Function::new(&module(&text), options(1)) {
        Err(FunctionError::TooMuchMemory {
            function,
            pages,
            limit,
        }) => {
            assert_eq!((function.as_str(), pages, limit), ("small", 2, 1));
        }
        other => panic!("{other:?}"),
    }
    let mut small = Function::new(&module(&text), options(3)).expect("a function");
    assert!(small.reserve(100_000, 1).is_ok());
    match small.reserve(100_000, 1) {
        Err(TransferError::NoRoom { len: 100_000, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// Replies with its whole environment, and writes two lines and a bit to its outputs.
const WASI: &str = r#"(module
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 16) "\40\00\00\00\06\00\00\00\46\00\00\00\03\00\00\00")
    (data (i32.const 64) "one\ntw" "o\n!")
    (func (export "roadrunner_allocate") (param i32 i32) (result i32) (i32.const 1024))
    (func (export "roadrunner_free") (param i32))
    (func (export "roadrunner_handle") (param i32 i32) (result i64)
        (if (call $write (i32.const 1) (i32.const 16) (i32.const 2) (i32.const 8)) (then (unreachable)))
        (if (i32.ne (i32.load (i32.const 8)) (i32.const 9)) (then (unreachable)))
        (if (call $write (i32.const 2) (i32.const 16) (i32.const 1) (i32.const 8)) (then (unreachable)))
        (if (i32.ne (call $prestat (i32.const 3) (i32.const 8)) (i32.const 8)) (then (unreachable)))
        (if (call $sizes (i32.const 0) (i32.const 4)) (then (unreachable)))
        (if (i32.ne (i32.load (i32.const 0)) (i32.const 2)) (then (unreachable)))
        (if (call $environ (i32.const 2048) (i32.const 3072)) (then (unreachable)))
        (if (i32.ne (i32.load (i32.const 2048)) (i32.const 3072)) (then (unreachable)))
        (i64.or (i64.shl (i64.const 3072) (i64.const 32)) (i64.extend_i32_u (i32.load (i32.const 4))))))"#;

#[test]
fn a_function_sees_its_own_environment_and_its_output_is_logged() {
    let env = vec![
        ("WIDTH".to_owned(), "800".to_owned()),
        ("EMPTY".to_owned(), String::new()),
    ];
    let (mut function, lines) = logging(WASI, FunctionOptions::new("wasi").env(env));
    let reply = call(&mut function, b"").expect("a reply").expect("bytes");
    assert_eq!(reply, b"WIDTH=800\0EMPTY=\0");
    let lines = lines.lock().expect("lines");
    let texts: Vec<_> = lines
        .iter()
        .map(|(level, text)| (*level, text.as_str()))
        .collect();
    let expected = [
        (LogLevel::Info, "one"),
        (LogLevel::Info, "two"),
        (LogLevel::Warn, "one"),
        // What is not a whole line when the call ends.
        (LogLevel::Info, "!"),
        (LogLevel::Warn, "tw"),
    ];
    assert_eq!(texts, expected);
}

#[test]
fn two_functions_run_on_two_threads() {
    let text = handler(ECHO);
    let module = module(&text);
    let worker = |byte: u8| {
        let mut function =
            Function::new(&module, FunctionOptions::new("test")).expect("a function");
        move || {
            for _ in 0..2000 {
                let region = put(&mut function, &[byte; 64]);
                let reply = function
                    .handle(region, &mut NoOutbox, soon())
                    .expect("a reply");
                assert_eq!(reply, Reply::Region(region));
                assert_eq!(bytes(&mut function, region), [byte; 64]);
                function.free(region).expect("freed");
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(worker(1));
        scope.spawn(worker(2));
    });
}

#[test]
fn a_function_can_be_moved_to_another_thread() {
    let mut echo = function(ECHO);
    assert_eq!(
        call(&mut echo, b"here").expect("a reply").as_deref(),
        Some(&b"here"[..])
    );
    let echo = std::thread::spawn(move || {
        assert_eq!(
            call(&mut echo, b"there").expect("a reply").as_deref(),
            Some(&b"there"[..])
        );
        echo
    });
    let mut echo = echo.join().expect("no panic");
    assert_eq!(
        call(&mut echo, b"back").expect("a reply").as_deref(),
        Some(&b"back"[..])
    );
}

#[test]
fn a_deadline_that_has_passed_is_not_the_functions_end() {
    let mut echo = function(ECHO);
    let region = put(&mut echo, b"x");
    match echo.handle(region, &mut NoOutbox, Deadline::now()) {
        Err(FunctionError::Deadline { after, .. }) => assert_eq!(after, Duration::ZERO),
        other => panic!("{other:?}"),
    }
    let reply = echo.handle(region, &mut NoOutbox, soon()).expect("a reply");
    assert_eq!(reply, Reply::Region(Region::new(region.offset(), 1)));
}

#[test]
fn what_cannot_be_a_variable_is_refused_and_its_value_not_shown() {
    let module = module(&handler(ECHO));
    for (name, value) in [
        ("", "secret"),
        ("A=B", "secret"),
        ("A\0", "secret"),
        ("A", "sec\0ret"),
    ] {
        let env = vec![(name.to_owned(), value.to_owned())];
        let error = Function::new(&module, FunctionOptions::new("test").env(env)).expect_err("bad");
        assert!(
            matches!(error, FunctionError::BadEnvironment { .. }),
            "{error}"
        );
        assert!(!error.to_string().contains("sec"), "{error}");
    }
}
