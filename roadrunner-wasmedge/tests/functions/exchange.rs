//! Pages that change hands between the memories of two live functions.

use crate::support::*;
use roadrunner_core::{Method, Payload, Region, Sink};
use roadrunner_mem::{transfer, Policy};
use roadrunner_wasmedge::function::{Function, FunctionOptions, NoOutbox, Reply};

/// Two pages of 2 MiB and a bit, so that there is a tail to be copied.
const LEN: u64 = (4 << 20) + 100;

/// An aligned buffer at 2 MiB, and a handler that writes the sum of its payload's bytes over it, having written the byte
/// after the first everywhere if the first is not 0.
const WORKER: &str = r#"(module
    (memory (export "memory") 128 512)
    (func (export "roadrunner_allocate") (param i32 i32) (result i32) (i32.const 2097152))
    (func (export "roadrunner_free") (param i32))
    (func (export "roadrunner_handle") (param $ptr i32) (param $len i32) (result i64)
        (local $at i32) (local $sum i64)
        (if (i32.load8_u (local.get $ptr)) (then
            (memory.fill (local.get $ptr) (i32.load8_u offset=1 (local.get $ptr)) (local.get $len))))
        (local.set $at (local.get $ptr))
        (loop $on
            (local.set $sum (i64.add (local.get $sum) (i64.load8_u (local.get $at))))
            (br_if $on (i32.lt_u
                (local.tee $at (i32.add (local.get $at) (i32.const 1)))
                (i32.add (local.get $ptr) (local.get $len)))))
        (i64.store (i32.const 1024) (local.get $sum))
        (drop (memory.grow (i32.const 1)))
        (i64.const 0x0000040000000008)))"#;

fn worker() -> Function {
    Function::new(&module(WORKER), FunctionOptions::new("worker")).expect("a function")
}

/// Lets the guest look at its own memory; gives the sum of the bytes in the region.
fn sum(function: &mut Function, region: Region) -> u64 {
    let Reply::Region(reply) = function
        .handle(region, &mut NoOutbox, soon())
        .expect("a sum")
    else {
        panic!("no reply");
    };
    let bytes = bytes(function, reply);
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// Fills a region from the host: zero in front so that the guest leaves it alone, then `byte`.
fn fill(function: &mut Function, byte: u8) -> Region {
    let region = function.reserve(LEN, 2 << 20).expect("room");
    let mut content = vec![byte; LEN as usize];
    content[0] = 0;
    let span = region.span(function.memory()).expect("in the memory");
    assert_eq!(span.copy_from_slice(&content) as u64, LEN);
    region
}

#[test]
fn guests_see_the_pages_that_they_got_and_not_those_that_they_gave() {
    let (mut from, mut to) = (worker(), worker());
    let policy = Policy::default();
    // Both memories grow with every call, which must work on as before.
    for round in 1..=20_u8 {
        let source = fill(&mut from, round);
        let before = to.memory().len();
        let payload = Payload::given(from.memory(), source).expect("a payload");
        let delivery = transfer(payload, &mut to, &policy).expect("a transfer");
        assert_eq!(delivery.receipt().method(), Method::Exchange);
        assert_eq!(
            sum(&mut to, delivery.region()),
            u64::from(round) * (LEN - 1)
        );
        assert_eq!(to.memory().len(), before + 65536);
        // What the sender holds now is its own to use, and has nothing of the receiver's in it.
        let held = bytes(&mut from, source);
        let whole = (LEN & !4095) as usize;
        assert!(held[..whole].iter().all(|byte| *byte == 0), "round {round}");
        let source = fill(&mut from, 1);
        assert_eq!(sum(&mut from, source), LEN - 1);
    }
}

#[test]
fn a_function_can_be_dropped_while_its_pages_live_on() {
    let mut to = worker();
    for byte in 1..=5_u8 {
        let mut from = worker();
        let source = fill(&mut from, byte);
        let payload = Payload::given(from.memory(), source).expect("a payload");
        let delivery = transfer(payload, &mut to, &Policy::default()).expect("a transfer");
        drop(from);
        assert_eq!(sum(&mut to, delivery.region()), u64::from(byte) * (LEN - 1));
    }
}

#[test]
fn pages_can_be_taken_while_the_guest_waits_in_a_send() {
    // Sends its payload away, then writes all over it and reads it back.
    let text = r#"(module
        (import "roadrunner" "send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 128)
        (data (i32.const 64) "next")
        (func (export "roadrunner_allocate") (param i32 i32) (result i32) (i32.const 2097152))
        (func (export "roadrunner_free") (param i32))
        (func (export "roadrunner_handle") (param $ptr i32) (param $len i32) (result i64)
            (if (call $send (i32.const 64) (i32.const 4) (local.get $ptr) (local.get $len) (i32.const 1))
                (then (unreachable)))
            (memory.fill (local.get $ptr) (i32.const 9) (local.get $len))
            (i64.or (i64.shl (i64.extend_i32_u (local.get $ptr)) (i64.const 32))
                    (i64.extend_i32_u (local.get $len)))))"#;
    let mut from = instance(text);
    let mut to = worker();
    let source = fill(&mut from, 3);
    let mut delivered = None;
    let mut outbox = Does(|_: &str, payload: Payload<'_>| {
        delivered = Some(transfer(payload, &mut to, &Policy::default())?);
        Ok(())
    });
    let reply = from.handle(source, &mut outbox, soon()).expect("a reply");
    assert_eq!(reply, Reply::Region(source));
    assert_eq!(bytes(&mut from, source), vec![9; LEN as usize]);
    let delivery = delivered.expect("sent");
    assert_eq!(delivery.receipt().method(), Method::Exchange);
    assert_eq!(sum(&mut to, delivery.region()), 3 * (LEN - 1));
}
