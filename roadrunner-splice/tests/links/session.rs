//! Sessions: links that outlive their connections. A proxy in between cuts them.

use crate::common::secret;
use crate::proxy::Proxy;
use proptest::prelude::*;
use roadrunner_core::testing::{fill, pattern, receive, send, soon};
use roadrunner_core::{Deadline, HostMemory, Method, Payload, Region, Transfer, TransferError};
use roadrunner_splice::{connect, Options, Session, SessionListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

fn options() -> Options {
    Options::default().secret(secret())
}

fn listener(options: &Options) -> SessionListener {
    SessionListener::bind("127.0.0.1:0", options.clone()).expect("a free port")
}

/// A session through a proxy, and both of its ends.
fn through(proxy: &Proxy, listener: &SessionListener, options: &Options) -> (Session, Session) {
    let address = proxy.address.to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| Session::connect(&address, "test", options, soon()));
        let accepted = loop {
            match listener.accept(soon()) {
                Ok(session) => break session,
                // A connection that was cut before it had said all.
                Err(TransferError::Timeout) => panic!("nobody comes"),
                Err(_) => {}
            }
        };
        (
            connecting.join().expect("no panic").expect("connected"),
            accepted,
        )
    })
}

/// Both ends of a session with nobody in between.
fn directly(listener: &SessionListener, options: &Options) -> (Session, Session) {
    let address = listener.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| Session::connect(&address, "test", options, soon()));
        let accepted = listener.accept(soon()).expect("accepted");
        let connected = connecting.join().expect("no panic").expect("connected");
        (connected, accepted)
    })
}

/// Passes everything.
fn all(_: usize, _: bool, _: usize, bytes: &mut [u8]) -> usize {
    bytes.len()
}

fn number(bytes: &[u8], seed: u64) -> bool {
    *bytes == pattern(bytes.len() as u64, seed)
}

#[test]
fn a_session_carries_payloads_both_ways_and_keeps_nothing() {
    let listener = listener(&options());
    let proxy = Proxy::start(listener.address(), all);
    let (mut a, mut b) = through(&proxy, &listener, &options());
    assert_eq!((a.name(), b.name()), ("test", "test"));
    assert_eq!(a.peer(), proxy.address);
    assert!(b.peer().ip().is_loopback() && b.peer().port() != listener.address().port());
    for (round, len) in [0, 1, 70_000, 3 << 20].into_iter().enumerate() {
        let bytes = pattern(len, round as u64);
        let sent = send(&mut a, &bytes, soon()).expect("sent");
        assert_eq!((sent.bytes(), sent.copies()), (len, 2 * u8::from(len > 0)));
        assert!(receive(&mut b).expect("received").0 == bytes);
        send(&mut b, &bytes, soon()).expect("sent");
        assert!(receive(&mut a).expect("received").0 == bytes);
    }
    thread::scope(|scope| {
        let closing = scope.spawn(|| a.close(soon()));
        assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
        closing.join().expect("no panic").expect("closed");
    });
    thread::scope(|scope| {
        let closing = scope.spawn(|| b.close(soon()));
        assert!(matches!(receive(&mut a), Err(TransferError::Closed)));
        closing.join().expect("no panic").expect("closed");
    });
    assert_eq!((a.unacknowledged(), a.kept(), b.kept()), (0, 0, 0));
    drop((a, b));
}

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
fn what_is_kept_has_a_limit_while_nobody_receives() {
    let options = options().keep(1 << 20).buffer(4096);
    let listener = listener(&options);
    let proxy = Proxy::start(listener.address(), all);
    let (mut a, b) = through(&proxy, &listener, &options);
    for len in [0, 100_000] {
        let mut sent = 0;
        let error = loop {
            let deadline = Deadline::after(Duration::from_millis(20));
            match send(&mut a, &pattern(len, 1), deadline) {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 1000);
        };
        assert!(matches!(error, TransferError::Timeout), "{error}");
        assert!(a.is_open());
        assert!(a.kept() <= 1 << 20, "{}", a.kept());
    }
    drop((a, b));
}

#[test]
fn whoever_waits_for_several_sessions_hears_when_one_has_something() {
    let listener = listener(&options());
    // The first connection is cut in the midst of the second payload.
    let proxy = Proxy::start(
        listener.address(),
        |connection: usize, back: bool, at: usize, bytes: &mut [u8]| match (connection, back) {
            (0, false) => bytes.len().min(20_000_usize.saturating_sub(at)),
            _ => bytes.len(),
        },
    );
    let (mut a, mut b) = through(&proxy, &listener, &options());
    assert!(!b.is_ready().expect("nothing is wrong"));
    let payloads = [pattern(1000, 1), pattern(100_000, 2)];
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for bytes in &payloads {
                send(&mut a, bytes, soon()).expect("sent");
            }
            a.close(soon()).expect("closed");
        });
        for bytes in &payloads {
            ask_until_ready(&mut b);
            assert!(receive(&mut b).expect("received").0 == *bytes);
        }
        ask_until_ready(&mut b);
        assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
        assert!(b.is_ready().expect("it has ended"));
        sender.join().expect("no panic");
    });
    drop((a, b));
}

/// Waits for it as one does who waits for others, too: it is never in an operation that waits.
fn ask_until_ready(session: &mut Session) {
    let late = soon();
    while !session.is_ready().expect("no error") {
        assert!(!late.has_passed(), "nothing comes");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_side_that_connected_does_so_again_while_it_is_only_asked() {
    // One attempt is enough, however slow this machine is.
    let options = options().handshake(Duration::from_secs(60));
    let listener = listener(&options);
    let (is_cut, newest) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (cutting, coming) = (is_cut.clone(), newest.clone());
    let proxy = Proxy::start(
        listener.address(),
        move |connection: usize, back: bool, _: usize, bytes: &mut [u8]| {
            coming.fetch_max(connection, Ordering::SeqCst);
            let is_cut = connection == 0 && back && cutting.load(Ordering::SeqCst);
            bytes.len() * usize::from(!is_cut)
        },
    );
    let (mut a, mut b) = through(&proxy, &listener, &options);
    send(&mut b, b"before", soon()).expect("sent");
    ask_until_ready(&mut a);
    assert_eq!(receive(&mut a).expect("received").0, b"before");
    is_cut.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            send(&mut b, b"after", soon()).expect("sent");
            b.close(soon()).expect("closed");
        });
        ask_until_ready(&mut a);
        assert_eq!(newest.load(Ordering::SeqCst), 1, "it asked and gave up");
        assert_eq!(receive(&mut a).expect("received").0, b"after");
        ask_until_ready(&mut a);
        assert!(matches!(receive(&mut a), Err(TransferError::Closed)));
        sender.join().expect("no panic");
    });
    drop((a, b));
}

#[test]
fn what_is_longer_than_the_buffers_goes_on_while_a_session_is_only_asked() {
    let options = options().buffer(64 << 10);
    let listener = listener(&options);
    let (mut a, mut b) = directly(&listener, &options);
    let bytes = pattern(4 << 20, 3);
    send(&mut b, &bytes, Deadline::after(Duration::from_millis(20))).expect("kept");
    assert!(!b.is_connected(), "nobody has received it");
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&mut a).expect("received").0);
        while !receiver.is_finished() {
            assert!(!b.is_ready().expect("nothing is wrong"), "nothing comes");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(receiver.join().expect("no panic") == bytes);
    });
    drop((a, b));
}

/// Neither takes anything before it has received what the other one sends.
#[test]
fn two_who_have_long_payloads_on_their_way_and_both_receive_do_not_wait_for_each_other() {
    // None of them can be acknowledged while the long one is half out.
    const SHORT: u64 = 40;
    for options in [options(), options().streams(3)] {
        let options = options.buffer(64 << 10);
        let listener = listener(&options);
        let (mut a, mut b) = directly(&listener, &options);
        for n in 0..SHORT {
            send(&mut a, &pattern(100, n), soon()).expect("sent");
            send(&mut b, &pattern(100, n), soon()).expect("sent");
        }
        let payloads = [pattern(4 << 20, 1), pattern(5 << 20, 2)];
        for (session, bytes) in [&mut a, &mut b].into_iter().zip(&payloads) {
            let briefly = Deadline::after(Duration::from_millis(20));
            send(session, bytes, briefly).expect("kept");
            assert_eq!(session.unacknowledged(), SHORT + 1, "nobody receives");
        }
        let received = AtomicUsize::new(0);
        let both_receive = |session: &mut Session, expected: &[u8]| {
            for n in 0..SHORT {
                assert!(receive(session).expect("received").0 == pattern(100, n));
            }
            assert!(receive(session).expect("received").0 == expected);
            received.fetch_add(1, Ordering::SeqCst);
            // What is left of its own.
            while received.load(Ordering::SeqCst) < 2 {
                assert!(!session.is_ready().expect("open"), "nothing comes");
                thread::sleep(Duration::from_millis(1));
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| both_receive(&mut b, &payloads[0]));
            both_receive(&mut a, &payloads[1]);
        });
        drop((a, b));
    }
}

#[test]
fn a_session_that_is_gone_at_one_end_is_refused_at_the_other() {
    let listener = listener(&options());
    let proxy = Proxy::start(listener.address(), all);
    let (mut a, b) = through(&proxy, &listener, &options());
    drop(b);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let error = loop {
                match send(&mut a, b"?", soon()) {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, TransferError::Refused(_)), "{error}");
            assert!(!a.is_open());
        });
        sender.join().expect("no panic");
    });
    drop(a);
}

#[test]
fn a_plain_link_is_no_session() {
    let listener = listener(&options());
    let address = listener.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let mut link = connect(&address, "plain", &options(), soon()).expect("connected");
            send(&mut link, b"a payload", soon()).expect("sent");
            assert!(link.recv(&mut HostMemory::new(), soon()).is_err());
        });
        let error = listener.accept(soon()).expect_err("no session");
        assert!(matches!(error, TransferError::Protocol(_)), "{error}");
        connecting.join().expect("no panic");
    });
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
