//! Two threads that never agree on when to look: every wait ends, and what arrives is what was sent, in order.

use proptest::prelude::*;
use roadrunner_core::{
    Deadline, HostMemory, LinearMemory, Payload, Region, Sink, Transfer, TransferError,
};
use roadrunner_mem::{link, Doorbell, Link, PageBuffer, Policy};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn policy(spin: Duration, messages: usize, bytes: u64) -> Policy {
    let mut policy = Policy::default();
    policy.spin = spin;
    policy.messages = messages;
    policy.bytes = bytes;
    policy
}

fn send(link: &mut Link, bytes: Vec<u8>, deadline: Deadline) -> Result<(), TransferError> {
    let mut memory = HostMemory::from(bytes);
    let region = memory.region();
    link.send(Payload::kept(&mut memory, region)?, deadline)
        .map(drop)
}

fn number(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; len.max(8)];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Its number, if all of it is as it was sent.
fn read(memory: &HostMemory, region: Region) -> u64 {
    let bytes = memory.bytes(region).expect("inside");
    let (first, rest) = bytes.split_at(8);
    let number = u64::from_le_bytes(first.try_into().expect("8 bytes"));
    assert!(rest.iter().all(|byte| *byte == number as u8), "torn");
    number
}

fn next(link: &mut Link, deadline: Deadline) -> Result<u64, TransferError> {
    let mut memory = HostMemory::new();
    let delivery = link.recv(&mut memory, deadline)?;
    Ok(read(&memory, delivery.region()))
}

/// Both sleep as soon as they can, so that each wake-up that is lost is a hang.
#[test]
fn no_wake_up_is_lost() {
    for spin in [Duration::ZERO, Duration::from_micros(20)] {
        for messages in [1, 2, 7] {
            let (mut here, mut there) = link(policy(spin, messages, u64::MAX));
            let rounds = 3000;
            let answers = thread::spawn(move || {
                for round in 0..rounds {
                    assert_eq!(next(&mut there, soon()).expect("sent"), round);
                    // Streams in one direction, and every few messages an answer.
                    if round % 5 == 0 {
                        send(&mut there, number(round, 8), soon()).expect("room");
                    }
                }
                assert!(matches!(
                    next(&mut there, soon()),
                    Err(TransferError::Closed)
                ));
            });
            for round in 0..rounds {
                // In the queue itself, beside it, and in the sender's memory.
                let len = [8, 64, 120, 121, 3000, 20_000][round as usize % 6];
                send(&mut here, number(round, len), soon()).expect("room");
                if round % 5 == 0 {
                    assert_eq!(next(&mut here, soon()).expect("answered"), round);
                }
            }
            here.close(soon()).expect("open");
            answers.join().expect("no panic");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Senders that give up, receivers that give up, either of which goes away at any time: what was sent arrives in order,
    /// what was not does not, and the other hears of the end.
    #[test]
    fn whoever_gives_up_or_goes_leaves_no_gap(
        lens in proptest::collection::vec(
            (prop_oneof![8_usize..200, Just(4000), Just(30_000)], 0_u64..80), 1..200),
        messages in 1_usize..5,
        bytes in prop_oneof![Just(100_u64), Just(10_000), Just(u64::MAX)],
        takes in 0_usize..300,
        close: bool,
    ) {
        let (mut here, mut there) = link(policy(Duration::ZERO, messages, bytes));
        let receiver = thread::spawn(move || {
            let mut got = Vec::new();
            while got.len() < takes {
                match next(&mut there, Deadline::after(Duration::from_micros(got.len() as u64 % 50))) {
                    Ok(number) => got.push(number),
                    Err(TransferError::Timeout) => {}
                    Err(end) => return (got, Some(end)),
                }
            }
            (got, None)
        });
        let mut sent = Vec::new();
        let mut gone = false;
        for (at, (len, patience)) in lens.iter().enumerate() {
            let deadline = Deadline::after(Duration::from_micros(*patience));
            match send(&mut here, number(at as u64, *len), deadline) {
                Ok(()) => sent.push(at as u64),
                Err(TransferError::Timeout) => {}
                Err(TransferError::PeerClosed) => {
                    gone = true;
                    break;
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
        if close && !gone {
            here.close(soon()).expect("open");
        }
        drop(here);
        let (got, end) = receiver.join().expect("no panic");
        prop_assert!(sent.starts_with(&got), "{:?} of {:?}", got, sent);
        match end {
            Some(TransferError::Closed) => prop_assert!(close && got == sent),
            Some(TransferError::PeerClosed) => prop_assert!(!close && got == sent),
            None => prop_assert_eq!(got.len(), takes),
            Some(other) => prop_assert!(false, "{}", other),
        }
    }
}

/// A bell that is hung while messages come, and a receiver that sleeps on it alone.
#[test]
fn no_ring_is_lost() {
    for _ in 0..50 {
        let (mut here, mut there) = link(policy(Duration::ZERO, 3, u64::MAX));
        let sender = thread::spawn(move || {
            for round in 0..40 {
                let len = [8, 500, 20_000][round as usize % 3];
                send(&mut here, number(round, len), soon()).expect("room");
            }
            here.close(soon()).expect("open");
        });
        let bell = Doorbell::new();
        there.hang(&bell);
        let mut expected = 0;
        'all: loop {
            assert!(bell.wait(soon()), "it never rang");
            while there.is_ready() {
                match next(&mut there, Deadline::now()) {
                    Ok(number) => assert_eq!(number, expected),
                    Err(TransferError::Closed) => break 'all,
                    Err(other) => panic!("{other}"),
                }
                expected += 1;
            }
        }
        assert_eq!(expected, 40);
        sender.join().expect("no panic");
    }
}

/// What was on its way to a receiver that is gone is gone as well, pages and all.
#[test]
fn a_receiver_that_goes_takes_what_was_on_its_way_along() {
    let (mut here, there) = link(Policy::default());
    let mut memory = PageBuffer::new(4 << 20).expect("memory");
    let all = Region::new(0, memory.len() as u64);
    memory.span().copy_from_slice(&vec![7; 4 << 20]);
    let payload = Payload::given(&mut memory, all).expect("inside");
    here.send(payload, soon()).expect("room");
    send(&mut here, number(1, 64), soon()).expect("room");
    drop(there);
    for len in [64, 2000, 20_000] {
        let lost = send(&mut here, number(2, len), soon());
        assert!(
            matches!(lost, Err(TransferError::PeerClosed | TransferError::Broken)),
            "{lost:?}"
        );
    }
    assert!(!here.is_open());
    memory.reserve(1, 1).expect("still whole");
}

/// A receiver that goes as soon as it has got something: the sender must not hear that it was lost.
#[test]
fn what_was_received_was_sent() {
    for round in 0..6000 {
        // One that looks sees the payload while the sender has yet to see that somebody sleeps.
        let (mut here, mut there) = link(policy(Duration::from_millis(2), 4, u64::MAX));
        let both = Arc::new(Barrier::new(2));
        let there_too = both.clone();
        let receiver = thread::spawn(move || {
            there_too.wait();
            next(&mut there, soon()).is_ok()
        });
        both.wait();
        for _ in 0..round % 200 * 10 {
            std::hint::spin_loop();
        }
        let sent = send(&mut here, number(round, 64), soon());
        assert!(receiver.join().expect("no panic"), "round {round}");
        assert!(sent.is_ok(), "round {round}: {sent:?}");
    }
}
