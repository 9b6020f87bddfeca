//! Sessions whose connections are cut by a proxy in between, or changed on their way.

use super::{listener, number, options, through};
use crate::proxy::Proxy;
use proptest::prelude::*;
use roadrunner_core::testing::{fill, pattern, receive, send, soon};
use roadrunner_core::{Deadline, HostMemory, Method, Payload, Region, Transfer, TransferError};
use roadrunner_splice::Session;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// More than is kept, cut in its middle, and cut again.
#[test]
fn a_payload_that_is_cut_in_its_middle_arrives_whole_and_once() {
    for len in [9 << 20, 100_000] {
        let options = options().keep(1 << 20);
        let listener = listener(&options);
        let proxy = Proxy::start(
            listener.address(),
            move |connection, back: bool, at: usize, bytes: &mut [u8]| match (connection, back) {
                (0 | 1, false) => bytes.len().min((len as usize / 2).saturating_sub(at)),
                _ => bytes.len(),
            },
        );
        let (mut a, mut b) = through(&proxy, &listener, &options);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let receipt = send(&mut a, &pattern(len, 5), soon()).expect("sent");
                assert_eq!(receipt.method(), Method::Write);
                assert_eq!(receipt.copies(), if len > 1 << 20 { 1 } else { 2 });
                send(&mut a, b"and another", soon()).expect("sent");
                a.close(soon()).expect("closed");
            });
            let (bytes, _) = receive(&mut b).expect("received");
            assert!(bytes == pattern(len, 5));
            assert_eq!(receive(&mut b).expect("received").0, b"and another");
            assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
            sender.join().expect("no panic");
        });
        drop((a, b));
    }
}

/// The receiver has it, and the word of that is cut.
#[test]
fn a_payload_whose_acknowledgement_is_lost_is_not_delivered_again() {
    let listener = listener(&options());
    let seen = Arc::new(AtomicUsize::new(0));
    let seeing = seen.clone();
    let proxy = Proxy::start(
        listener.address(),
        move |connection, back: bool, at: usize, bytes: &mut [u8]| {
            if connection == 0 && back {
                // The greeting and both hellos come before; acknowledgements have 24 bytes.
                seeing.fetch_max(at + bytes.len(), Ordering::SeqCst);
                if at > 0 && bytes.len() == 24 && at + bytes.len() > 170 {
                    return 0;
                }
            }
            bytes.len()
        },
    );
    let (mut a, mut b) = through(&proxy, &listener, &options());
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for round in 0..5 {
                send(&mut a, &pattern(1000, round), soon()).expect("sent");
            }
            a.close(soon()).expect("closed");
        });
        for round in 0..5 {
            assert!(number(&receive(&mut b).expect("received").0, round));
        }
        assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
        sender.join().expect("no panic");
    });
    assert!(seen.load(Ordering::SeqCst) > 170, "the cut was reached");
    drop((a, b));
}

#[test]
fn a_payload_that_is_changed_on_its_way_is_sent_again() {
    let options = options().checksum(true);
    let listener = listener(&options);
    let proxy = Proxy::start(
        listener.address(),
        |connection, back: bool, at: usize, bytes: &mut [u8]| {
            if let (0, false, Some(byte)) = (
                connection,
                back,
                100_000_usize
                    .checked_sub(at)
                    .and_then(|at| bytes.get_mut(at)),
            ) {
                *byte ^= 4;
            }
            bytes.len()
        },
    );
    let (mut a, mut b) = through(&proxy, &listener, &options);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            send(&mut a, &pattern(200_000, 5), soon()).expect("sent");
            a.close(soon()).expect("closed");
        });
        assert!(number(&receive(&mut b).expect("received").0, 5));
        assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
        sender.join().expect("no panic");
    });
    drop((a, b));
}

#[test]
fn the_source_may_be_overwritten_when_send_has_returned() {
    let options = options().keep(100_000);
    let listener = listener(&options);
    // Every connection but the last carries half of what it should.
    let proxy = Proxy::start(
        listener.address(),
        |connection: usize, back: bool, at: usize, bytes: &mut [u8]| match back {
            false if connection < 6 => bytes
                .len()
                .min((60_000_usize << connection).saturating_sub(at)),
            _ => bytes.len(),
        },
    );
    let (mut a, mut b) = through(&proxy, &listener, &options);
    let lengths = [1, 50_000, 99_999, 100_001, 1 << 20, 3 << 20];
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for (round, len) in lengths.into_iter().enumerate() {
                let mut memory = HostMemory::from(pattern(len, round as u64));
                let payload = Payload::given(&mut memory, Region::new(0, len)).expect("inside");
                a.send(payload, soon()).expect("sent");
                fill(&mut memory, 0, &vec![0xEE; len as usize]);
            }
            a.close(soon()).expect("closed");
        });
        for (round, len) in lengths.into_iter().enumerate() {
            // Slowly.
            thread::sleep(Duration::from_millis(5));
            let (bytes, _) = receive(&mut b).expect("received");
            assert!(bytes == pattern(len, round as u64), "{len}");
        }
        assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
        sender.join().expect("no panic");
    });
    drop((a, b));
}

/// What the sender sends, and how often each of it is to be received.
const SMALL: [&[u8]; 3] = [b"", b"one", &[7; 100]];

/// The whole life of a session whose first connection is cut behind `at` bytes in one direction. Whether it was cut.
fn cut_once(at: usize, back_is_cut: bool) -> bool {
    let options = options().checksum(true);
    let listener = listener(&options);
    let cut = Arc::new(AtomicUsize::new(0));
    let cutting = cut.clone();
    let proxy = Proxy::start(
        listener.address(),
        move |connection: usize, back: bool, so_far: usize, bytes: &mut [u8]| {
            if connection > 0 || back != back_is_cut || so_far + bytes.len() <= at {
                return bytes.len();
            }
            cutting.store(1, Ordering::SeqCst);
            at - so_far
        },
    );
    let address = proxy.address.to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let mut a = loop {
                match Session::connect(&address, "test", &options, soon()) {
                    // It was cut in the exchange of proofs.
                    Err(TransferError::Refused(_) | TransferError::PeerClosed) => {}
                    session => break session.expect("connected"),
                }
            };
            for bytes in SMALL {
                send(&mut a, bytes, soon()).expect("sent");
            }
            assert_eq!(receive(&mut a).expect("answered").0, b"an answer");
            // The listener says so, if the other end could not.
            assert!(matches!(receive(&mut a), Err(TransferError::Closed)));
            a.close(soon()).expect("closed");
            assert_eq!(a.unacknowledged(), 0);
        });
        let mut sessions = Vec::new();
        let mut received = Vec::new();
        while !connecting.is_finished() {
            match listener.accept(Deadline::after(Duration::from_millis(1))) {
                Ok(session) => sessions.push(session),
                Err(TransferError::Timeout | TransferError::Refused(_)) => {}
                Err(TransferError::PeerClosed | TransferError::Truncated { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            sessions.retain_mut(|one| {
                let mut memory = HostMemory::new();
                match one.recv(&mut memory, Deadline::after(Duration::from_millis(5))) {
                    Ok(_) => {
                        received.push(memory.as_slice().to_vec());
                        if received.len() == SMALL.len() {
                            send(one, b"an answer", soon()).expect("answered");
                            one.close(soon()).expect("closed");
                        }
                        received.len() < SMALL.len()
                    }
                    Err(TransferError::Timeout) => true,
                    Err(error) => panic!("{error}"),
                }
            });
        }
        connecting.join().expect("no panic");
        assert_eq!(received, SMALL);
    });
    cut.load(Ordering::SeqCst) == 1
}

#[test]
fn a_session_survives_a_cut_behind_every_byte() {
    let cuts = AtomicUsize::new(0);
    for back in [false, true] {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| loop {
                    if !cut_once(next.fetch_add(1, Ordering::SeqCst), back) {
                        break;
                    }
                    cuts.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
    }
    // Proofs, hellos, greetings, payloads and their acknowledgements.
    assert!(cuts.into_inner() > 600);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What comes out is what went in, in order and once, wherever connections are cut, in both directions.
    #[test]
    fn a_session_is_a_queue_whatever_is_cut(
        lengths in proptest::collection::vec(prop_oneof![0..200_u64, 0..150_000_u64], 1..12),
        cuts in proptest::collection::vec((prop_oneof![0..600_usize, 0..300_000_usize], prop_oneof![0..600_usize, 0..100_000_usize]), 0..6),
        keep in prop_oneof![Just(0_u64), Just(50_000), Just(16 << 20)],
        checksum in any::<bool>(),
        answers in any::<bool>(),
    ) {
        let options = options().keep(keep).checksum(checksum);
        let listener = listener(&options);
        let proxy = Proxy::start(
            listener.address(),
            move |connection: usize, back: bool, at: usize, bytes: &mut [u8]| match cuts.get(connection) {
                Some((there, here)) => {
                    let place = if back { *here } else { *there };
                    bytes.len().min(place.saturating_sub(at))
                }
                None => bytes.len(),
            },
        );
        let address = proxy.address.to_string();
        let received = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut a = Session::connect(&address, "test", &options, soon());
                // A connection that is cut in the first exchange of secrets looks like a wrong one.
                while matches!(a, Err(TransferError::Refused(_) | TransferError::PeerClosed)) {
                    a = Session::connect(&address, "test", &options, soon());
                }
                let mut a = a.expect("connected");
                for (n, len) in lengths.iter().enumerate() {
                    send(&mut a, &pattern(*len, n as u64), soon()).expect("sent");
                    if answers {
                        let answer = receive(&mut a).expect("answered").0;
                        assert!(number(&answer, 1000 + n as u64) && answer.len() as u64 == *len);
                    }
                }
                a.close(soon()).expect("closed");
            });
            let mut received = Vec::new();
            // Attempts that were cut leave sessions that nobody goes on with: the one is that which something comes from.
            let mut sessions = Vec::new();
            while received.len() < lengths.len() {
                match listener.accept(Deadline::now()) {
                    Ok(session) => sessions.push(session),
                    // Of connections that were cut.
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
                for one in &mut sessions {
                    let mut memory = HostMemory::new();
                    match one.recv(&mut memory, Deadline::after(Duration::from_millis(20))) {
                        Ok(_) => {
                            let bytes = memory.as_slice().to_vec();
                            if answers {
                                let answer = pattern(bytes.len() as u64, 1000 + received.len() as u64);
                                send(one, &answer, soon()).expect("answered");
                            }
                            received.push(bytes);
                        }
                        Err(TransferError::Timeout) => assert!(!sender.is_finished(), "it has given up"),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            // Until it has said that nothing follows; what it does not know then it hears from the listener.
            while !sender.is_finished() {
                sessions.retain_mut(|one| {
                    match one.recv(&mut HostMemory::new(), Deadline::after(Duration::from_millis(20))) {
                        Ok(_) => panic!("one too many"),
                        Err(TransferError::Closed) => false,
                        Err(TransferError::Timeout) => true,
                        Err(error) => panic!("{error}"),
                    }
                });
                thread::sleep(Duration::from_millis(1));
            }
            sender.join().expect("no panic");
            received
        });
        for (n, (bytes, len)) in received.iter().zip(&lengths).enumerate() {
            prop_assert_eq!(bytes.len() as u64, *len);
            prop_assert!(number(bytes, n as u64), "{}", n);
        }
    }
}
