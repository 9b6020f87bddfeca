//! Plays the host against the exports' bodies: what a host does with addresses and lengths, through the same functions
//! that `function!` exports on wasm32.
#![allow(unsafe_code)] // The host reads and writes the function's memory by address.

use proptest::prelude::*;
use roadrunner_guest::abi::{allocate, free, handle, Outcome};
use roadrunner_guest::{testing, Buffer, IntoReply};

const MIB: u32 = 1 << 20;

fn write(address: usize, bytes: &[u8]) {
    let target = address as *mut u8;
    // SAFETY: every test passes an address from `allocate` with at most the length that was asked for, before it is freed
    // or passed on, so the block is live and nobody else uses it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
}

fn read(address: usize, len: usize) -> Vec<u8> {
    let source = address as *const u8;
    // SAFETY: every test passes the address of a block that the host holds, of whose bytes `len` have been written.
    unsafe { std::slice::from_raw_parts(source, len).to_vec() }
}

fn call<R: IntoReply>(payload: &[u8], handler: impl FnOnce(Buffer) -> R) -> Outcome {
    let address = allocate(payload.len() as u32, 1);
    assert_ne!(address, 0);
    write(address, payload);
    // SAFETY: the payload has just been written there.
    unsafe { handle(address, payload.len(), handler) }
}

/// The bytes of the reply, which is freed.
fn reply(outcome: Outcome) -> Vec<u8> {
    let Outcome::Reply { address, len } = outcome else {
        panic!("no reply: {outcome:?}, {:?}", testing::take_failure());
    };
    let bytes = read(address, len);
    free(address);
    bytes
}

#[test]
fn a_payload_changed_in_place_comes_back_at_its_own_address() {
    for len in [1, 100, MIB as usize] {
        let address = allocate(len as u32, 1);
        write(address, &vec![7; len]);
        let double = |mut payload: Buffer| {
            payload.iter_mut().for_each(|byte| *byte *= 2);
            payload
        };
        // SAFETY: `len` bytes have been written.
        let outcome = unsafe { handle(address, len, double) };
        assert_eq!(outcome, Outcome::Reply { address, len });
        assert_eq!(reply(outcome), vec![14; len]);
    }
}

#[test]
fn every_kind_of_reply() {
    assert_eq!(reply(call(b"in", |_| b"out".to_vec())), b"out");
    assert_eq!(reply(call(b"in", |_| "text".to_string())), b"text");
    assert_eq!(reply(call(b"in", Some)), b"in");
    assert_eq!(reply(call(b"in", Ok::<_, String>)), b"in");
    assert_eq!(reply(call(b"", |payload| payload)), b"");
    assert_eq!(reply(call(b"in", |_| Vec::new())), b"");
    assert_eq!(call(b"in", |_| ()), Outcome::Done);
    assert_eq!(call(b"in", |_| None::<Buffer>), Outcome::Done);
    assert_eq!(
        call(b"in", |_| Ok::<_, String>(None::<Vec<u8>>)),
        Outcome::Done
    );
    assert_eq!(testing::take_failure(), None);
}

#[test]
fn a_reply_of_a_truncated_payload_is_as_long_as_what_is_left() {
    let outcome = call(b"roadrunner", |mut payload| {
        payload.truncate(4);
        payload
    });
    assert_eq!(reply(outcome), b"road");
}

#[test]
fn an_error_reaches_the_host_as_the_reason() {
    assert_eq!(
        call(b"in", |_| Err::<Buffer, _>("no picture")),
        Outcome::Failed
    );
    assert_eq!(testing::take_failure().as_deref(), Some("no picture"));
}

#[test]
fn empty_buffers_have_addresses_of_their_own() {
    let first = allocate(0, 1);
    let second = allocate(0, 2 * MIB);
    let outcomes = [call(b"", |_| Vec::new()), call(b"", |_| Vec::new())];
    let [Outcome::Reply { address: third, .. }, Outcome::Reply {
        address: fourth, ..
    }] = outcomes
    else {
        panic!("no replies: {outcomes:?}");
    };
    let mut addresses = vec![first, second, third, fourth];
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 4);
    assert_ne!(addresses[0], 0);
    addresses.into_iter().for_each(free);
}

#[test]
fn what_cannot_be_allocated_is_0() {
    for align in [0, 3, 24, 4 * MIB, 1 << 31, u32::MAX] {
        assert_eq!(allocate(16, align), 0, "alignment {align}");
    }
}

#[test]
fn the_host_cannot_pass_a_buffer_that_it_does_not_hold() {
    let address = allocate(16, 1);
    free(address);
    for address in [0, 1, address] {
        // SAFETY: the host holds no buffer there.
        let outcome = unsafe { handle(address, 1, |payload| payload) };
        assert_eq!(outcome, Outcome::Failed);
        let reason = testing::take_failure().expect("a reason");
        assert!(reason.contains("no buffer that it holds"), "{reason}");
    }
}

#[test]
fn the_host_cannot_pass_more_than_it_allocated() {
    let address = allocate(16, 1);
    // SAFETY: the host holds no buffer of 17 bytes there.
    let outcome = unsafe { handle(address, 17, |payload| payload) };
    assert_eq!(outcome, Outcome::Failed);
    let reason = testing::take_failure().expect("a reason");
    assert!(reason.contains("17 bytes in a buffer of 16"), "{reason}");
}

#[test]
#[should_panic(expected = "which is no buffer that it holds")]
fn freeing_twice_is_noticed() {
    let address = allocate(16, 1);
    free(address);
    free(address);
}

#[test]
#[should_panic(expected = "which is no buffer that it holds")]
fn a_payload_that_was_passed_on_is_no_longer_the_hosts() {
    let address = allocate(16, 1);
    // SAFETY: no byte is claimed to be written.
    let outcome = unsafe { handle(address, 0, drop) };
    assert_eq!(outcome, Outcome::Done);
    free(address);
}

#[test]
fn outcomes_are_packed_as_the_abi_says() {
    assert_eq!(Outcome::Done.pack(), 0);
    assert_eq!(Outcome::Failed.pack() as i64, -1);
    assert_eq!(
        Outcome::Reply {
            address: 0x1234,
            len: 0x56
        }
        .pack(),
        0x1234_0000_0056
    );
    let high = Outcome::Reply {
        address: 0xffff_fff0,
        len: 0x8000_0000,
    };
    assert_eq!(high.pack(), 0xffff_fff0_8000_0000);
}

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        len: u32,
        align: u32,
    },
    /// Frees a buffer that the host holds.
    Free(prop::sample::Index),
    /// Passes one to the handler and holds the reply instead.
    Handle(prop::sample::Index, Reply),
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Same,
    Truncated,
    Vector,
    Nothing,
    Failure,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![4 => 0..200_u32, 2 => 4000..70_000_u32, 1 => MIB - 2..MIB + 2];
    let align = (0..=21_u32).prop_map(|power| 1 << power);
    let reply = prop_oneof![
        Just(Reply::Same),
        Just(Reply::Truncated),
        Just(Reply::Vector),
        Just(Reply::Nothing),
        Just(Reply::Failure)
    ];
    let step = prop_oneof![
        3 => (len, align).prop_map(|(len, align)| Step::Allocate { len, align }),
        1 => any::<prop::sample::Index>().prop_map(Step::Free),
        2 => (any::<prop::sample::Index>(), reply).prop_map(|(index, reply)| Step::Handle(index, reply)),
    ];
    prop::collection::vec(step, 1..60)
}

/// A buffer that the host holds, filled with its mark.
#[derive(Debug)]
struct Held {
    address: usize,
    len: usize,
    mark: u8,
}

impl Held {
    fn check(&self) {
        assert!(
            read(self.address, self.len)
                .iter()
                .all(|byte| *byte == self.mark),
            "{self:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 128 }))]

    /// Whatever the order, each buffer keeps its bytes, is aligned, overlaps no other and can be freed exactly once.
    #[test]
    fn buffers_stay_apart_through_any_history(steps in steps()) {
        let mut held: Vec<Held> = Vec::new();
        for (mark, step) in steps.into_iter().enumerate() {
            let mark = mark as u8;
            match step {
                Step::Allocate { len, align } => {
                    let address = allocate(len, align);
                    prop_assert_ne!(address, 0);
                    let least = if len >= MIB { 2 * MIB } else { 16 };
                    prop_assert_eq!(address % align.max(least) as usize, 0);
                    let len = len as usize;
                    for other in &held {
                        let apart = address + len.max(1) <= other.address
                            || other.address + other.len.max(1) <= address;
                        prop_assert!(apart, "{:#x}+{} and {:?}", address, len, other);
                    }
                    write(address, &vec![mark; len]);
                    held.push(Held { address, len, mark });
                }
                Step::Free(index) if !held.is_empty() => {
                    let gone = held.swap_remove(index.index(held.len()));
                    gone.check();
                    free(gone.address);
                }
                Step::Handle(index, reply) if !held.is_empty() => {
                    let passed = held.swap_remove(index.index(held.len()));
                    passed.check();
                    // SAFETY: the host wrote `len` marks there.
                    let outcome = unsafe {
                        handle(passed.address, passed.len, |mut payload| {
                            assert!(payload.iter().all(|byte| *byte == passed.mark));
                            match reply {
                                Reply::Same => Ok(Some(payload)),
                                Reply::Truncated => {
                                    payload.truncate(passed.len / 2);
                                    Ok(Some(payload))
                                }
                                Reply::Vector => Ok(Some(payload.to_vec().into())),
                                Reply::Nothing => Ok(None),
                                Reply::Failure => Err("as wished"),
                            }
                        })
                    };
                    let len = match reply {
                        Reply::Same | Reply::Vector => passed.len,
                        Reply::Truncated => passed.len / 2,
                        Reply::Nothing => {
                            prop_assert_eq!(outcome, Outcome::Done);
                            continue;
                        }
                        Reply::Failure => {
                            prop_assert_eq!(outcome, Outcome::Failed);
                            continue;
                        }
                    };
                    let Outcome::Reply { address, len: told } = outcome else {
                        return Err(TestCaseError::fail(format!("no reply: {outcome:?}")));
                    };
                    prop_assert_eq!(told, len);
                    held.push(Held { address, len, mark: passed.mark });
                }
                Step::Free(_) | Step::Handle(..) => {}
            }
        }
        for left in held {
            left.check();
            free(left.address);
        }
    }
}
