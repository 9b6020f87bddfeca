//! Loaned buffers: whose they are through sends, replies, drops, and a host that gives few slots or none.
#![allow(unsafe_code)] // The host passes payloads by address.

use proptest::prelude::*;
use roadrunner_guest::abi::{allocate, free, handle, Outcome};
use roadrunner_guest::testing::Slots;
use roadrunner_guest::{loan, send, send_copy, testing, Buffer, Error};
use std::ops::Range;

const LEN: usize = (1 << 20) + 5;
const PAGE: usize = 4096;

fn slots(loaned: usize, free: usize) -> Slots {
    Slots { loaned, free }
}

fn filled(byte: u8) -> Buffer {
    let mut buffer = loan(LEN).expect("memory");
    buffer.fill(byte);
    buffer
}

#[test]
fn a_slot_is_used_again_when_it_was_sent_or_dropped() {
    let first = filled(1);
    let address = first.as_ptr();
    assert_eq!(first.len(), LEN);
    assert_eq!(address as usize % (2 << 20), 0);
    assert_eq!(testing::slots(), slots(1, 0));
    send("next", first).expect("it is accepted");
    assert_eq!(testing::slots(), slots(0, 1));
    let second = filled(2);
    assert_eq!(second.as_ptr(), address);
    send_copy("next", &second).expect("it is accepted");
    assert_eq!(testing::slots(), slots(1, 0));
    drop(second);
    assert_eq!(testing::slots(), slots(0, 1));
    let third = filled(3);
    assert_eq!(third.as_ptr(), address);
    testing::refuse_sends(Some(Error::PeerClosed));
    assert_eq!(send("next", third), Err(Error::PeerClosed));
    assert_eq!(testing::slots(), slots(0, 1));
    let sent: Vec<_> = testing::take_sent()
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect();
    assert!(sent == [vec![1; LEN], vec![2; LEN]]);
}

#[test]
fn slots_that_are_in_use_are_left_alone() {
    let buffers: Vec<_> = (0..3).map(filled).collect();
    assert_eq!(testing::slots(), slots(3, 0));
    for (byte, buffer) in (0..).zip(&buffers) {
        assert!(buffer.iter().all(|found| *found == byte));
    }
}

#[test]
fn a_free_slot_that_is_too_small_is_left_alone() {
    drop(filled(1));
    let larger = loan(2 * LEN).expect("memory");
    assert_eq!(larger.len(), 2 * LEN);
    assert_eq!(testing::slots(), slots(1, 1));
    // The capacity is whole pages, and smaller payloads fit in.
    drop(larger);
    let capacity = loan(LEN).expect("memory").capacity();
    assert!(capacity >= LEN && capacity % PAGE == 0);
}

#[test]
fn small_loans_are_ordinary_buffers() {
    for len in [0, 1, PAGE, (1 << 20) - 1] {
        let buffer = loan(len).expect("memory");
        assert_eq!(*buffer, vec![0; len]);
    }
    assert_eq!(testing::slots(), slots(0, 0));
}

#[test]
fn without_a_slot_to_give_the_host_leaves_an_ordinary_buffer() {
    testing::limit_slots(1);
    let first = filled(1);
    let mut dirty = Buffer::zeroed(LEN).expect("memory");
    dirty.fill(0xaa);
    drop(dirty);
    let second = loan(LEN).expect("memory");
    assert!(second.iter().all(|byte| *byte == 0));
    assert_eq!(testing::slots(), slots(1, 0));
    drop((first, second));
    assert_eq!(testing::slots(), slots(0, 1));
}

#[test]
fn what_the_host_does_not_keep_goes_back_to_the_allocator() {
    let (first, second) = (filled(1), filled(2));
    testing::limit_slots(1);
    drop(first);
    assert_eq!(testing::slots(), slots(1, 0));
    drop(second);
    assert_eq!(testing::slots(), slots(0, 1));
}

#[test]
fn more_than_there_is_cannot_be_loaned() {
    for len in [
        usize::MAX,
        usize::MAX - PAGE,
        isize::MAX as usize,
        (isize::MAX as usize) - PAGE,
    ] {
        assert_eq!(loan(len).err().map(|error| error.bytes), Some(len));
    }
    assert_eq!(testing::slots(), slots(0, 0));
}

#[test]
fn a_loaned_buffer_that_outgrows_its_slot_moves_out_of_it() {
    let mut buffer = filled(7);
    let capacity = buffer.capacity();
    buffer
        .extend_from_slice(&vec![8; capacity])
        .expect("memory");
    assert_eq!(testing::slots(), slots(0, 1));
    assert!(buffer[..LEN].iter().all(|byte| *byte == 7));
    assert!(buffer[LEN..].iter().all(|byte| *byte == 8));
}

#[test]
fn a_reply_in_a_slot_is_the_hosts_until_it_frees_it() {
    let address = allocate(1, 1);
    // SAFETY: no byte is claimed to be written.
    let outcome = unsafe { handle(address, 0, |_| filled(9)) };
    let Outcome::Reply { address, len } = outcome else {
        panic!("no reply: {outcome:?}");
    };
    assert_eq!(len, LEN);
    assert_eq!(testing::slots(), slots(1, 0));
    free(address);
    assert_eq!(testing::slots(), slots(0, 1));
    assert_eq!(filled(1).as_ptr() as usize, address);
}

#[test]
fn a_block_that_the_host_kept_may_bring_the_next_payload() {
    let kept = filled(4).as_ptr() as usize;
    assert_eq!(testing::slots(), slots(0, 1));
    let look = |payload: Buffer| {
        assert_eq!(payload.as_ptr() as usize, kept);
        assert!(payload.len() == LEN && payload.iter().all(|byte| *byte == 4));
        payload
    };
    // SAFETY: `filled` wrote them.
    let outcome = unsafe { handle(kept, LEN, look) };
    assert_eq!(
        outcome,
        Outcome::Reply {
            address: kept,
            len: LEN
        }
    );
    free(kept);
    assert_eq!(testing::slots(), slots(0, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Loan(usize),
    Ordinary(usize),
    Send(prop::sample::Index),
    Drop(prop::sample::Index),
    /// Through the handler and back.
    Reply(prop::sample::Index),
    Limit(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = || (0..3_usize, 0..2 * PAGE).prop_map(|(mib, more)| (mib << 20) + more);
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => len().prop_map(Step::Loan),
        1 => len().prop_map(Step::Ordinary),
        2 => index().prop_map(Step::Send),
        2 => index().prop_map(Step::Drop),
        1 => index().prop_map(Step::Reply),
        1 => (0..4_usize).prop_map(Step::Limit),
    ];
    prop::collection::vec(step, 1..30)
}

fn range(buffer: &Buffer) -> Range<usize> {
    let start = buffer.as_ptr() as usize;
    start..start + buffer.capacity().max(1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]

    /// Whatever the order, live buffers lie apart and keep their bytes, and none is still loaned at the end.
    #[test]
    fn buffers_stay_apart_through_any_history(steps in steps()) {
        let mut live: Vec<(u8, Buffer)> = Vec::new();
        for (mark, step) in steps.into_iter().enumerate() {
            let mark = mark as u8;
            match step {
                Step::Loan(len) | Step::Ordinary(len) => {
                    let mut buffer = match step {
                        Step::Loan(_) => loan(len),
                        _ => Buffer::zeroed(len),
                    }.expect("memory");
                    prop_assert_eq!(buffer.len(), len);
                    let new = range(&buffer);
                    for (_, other) in &live {
                        let other = range(other);
                        prop_assert!(new.end <= other.start || other.end <= new.start, "{:?} {:?}", new, other);
                    }
                    buffer.fill(mark);
                    live.push((mark, buffer));
                }
                Step::Send(index) | Step::Drop(index) | Step::Reply(index) if !live.is_empty() => {
                    let (mark, buffer) = live.swap_remove(index.index(live.len()));
                    prop_assert!(buffer.iter().all(|byte| *byte == mark));
                    match step {
                        Step::Send(_) => send("next", buffer).expect("it is accepted"),
                        Step::Reply(_) => {
                            let payload = allocate(8, 1);
                            prop_assert_ne!(payload, 0);
                            // SAFETY: no byte is claimed to be written.
                            let outcome = unsafe { handle(payload, 0, |_| buffer) };
                            let Outcome::Reply { address, .. } = outcome else {
                                return Err(TestCaseError::fail(format!("no reply: {outcome:?}")));
                            };
                            free(address);
                        }
                        _ => drop(buffer),
                    }
                }
                Step::Limit(count) => testing::limit_slots(count),
                Step::Send(_) | Step::Drop(_) | Step::Reply(_) => {}
            }
        }
        for (mark, buffer) in live {
            prop_assert!(buffer.iter().all(|byte| *byte == mark));
        }
        prop_assert_eq!(testing::slots().loaned, 0);
        testing::limit_slots(usize::MAX);
    }
}
