//! Sessions: links that outlive their connections.

mod cuts;

use crate::common::secret;
use crate::proxy::Proxy;
use roadrunner_core::testing::{pattern, receive, send, soon};
use roadrunner_core::{Deadline, HostMemory, Transfer, TransferError};
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
