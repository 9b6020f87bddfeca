//! Listeners, addresses, secrets, and who may come in.

mod common;

use common::{open, raw, secret};
use roadrunner_core::testing::{data_frame, receive, say_hello, send, soon};
use roadrunner_core::{Deadline, Transfer, TransferError};
use roadrunner_splice::{connect, Listener, Options, Secret};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

const GREETING: usize = 40;
const TAG: usize = 32;

fn listener(options: Options) -> Listener {
    Listener::bind("127.0.0.1:0", options).expect("a free port")
}

fn with_secret() -> Options {
    Options::default().secret(secret())
}

fn kind(error: &TransferError) -> Option<io::ErrorKind> {
    match error {
        TransferError::Io { source, .. } => Some(source.kind()),
        _ => None,
    }
}

fn is_refused(error: &TransferError) -> bool {
    matches!(error, TransferError::Refused(_))
}

#[test]
fn many_links_share_a_listener_and_keep_their_names() {
    for options in [Options::default(), with_secret()] {
        let mut listener = listener(options.clone());
        let mut links: Vec<_> = (0..10)
            .map(|n| open(&mut listener, &format!("link {n}"), &options))
            .collect();
        for (n, (a, b)) in links.iter_mut().enumerate() {
            assert_eq!(b.name(), format!("link {n}"));
            send(a, &[n as u8; 50], soon()).expect("sent");
            send(b, &[n as u8 + 1; 50], soon()).expect("sent");
        }
        for (n, (a, b)) in links.iter_mut().enumerate() {
            assert_eq!(receive(b).expect("received").0, [n as u8; 50]);
            assert_eq!(receive(a).expect("received").0, [n as u8 + 1; 50]);
        }
    }
}

#[test]
fn names_and_both_families_are_loopback() {
    for address in ["localhost:0", "127.0.0.1:0", "[::1]:0"] {
        let mut listener = match Listener::bind(address, Options::default()) {
            // A host without IPv6.
            Err(TransferError::Io { source, .. })
                if address == "[::1]:0" && source.kind() == io::ErrorKind::AddrNotAvailable =>
            {
                eprintln!("skipped: no IPv6 here");
                continue;
            }
            bound => bound.expect("a free port"),
        };
        open(&mut listener, "either", &Options::default());
    }
}

#[test]
fn without_a_secret_nothing_leaves_the_host() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7"] {
        let error = Listener::bind(address, Options::default()).expect_err("not loopback");
        assert!(
            is_refused(&error) && error.to_string().contains("secret"),
            "{error}"
        );
        let error = connect(address, "out", &Options::default(), soon()).expect_err("not loopback");
        assert!(
            is_refused(&error) && error.to_string().contains("secret"),
            "{error}"
        );
    }
    Listener::bind("0.0.0.0:0", with_secret()).expect("with a secret it may");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let first = listener(Options::default());
    let address = first.address().to_string();
    let error = Listener::bind(&address, Options::default()).expect_err("taken");
    assert_eq!(kind(&error), Some(io::ErrorKind::AddrInUse));
    assert!(error.to_string().contains(&address), "{error}");
    let error = Listener::bind("no port", Options::default()).expect_err("no address");
    assert!(error.to_string().contains("no port"), "{error}");
}

#[test]
fn connect_waits_for_a_listener_that_starts_late_and_gives_up_in_time() {
    let free = {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
        probe.local_addr().expect("bound").to_string()
    };
    let deadline = Deadline::after(Duration::from_millis(50));
    let error = connect(&free, "nobody", &Options::default(), deadline).expect_err("nobody");
    assert_eq!(kind(&error), Some(io::ErrorKind::TimedOut));
    assert!(error.to_string().contains(&free), "{error}");
    assert!(deadline.has_passed());
    let error = connect("no port", "nobody", &Options::default(), soon()).expect_err("no address");
    assert!(error.to_string().contains("no port"), "{error}");

    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&free, "early", &Options::default(), soon()));
        thread::sleep(Duration::from_millis(20));
        let mut listener = Listener::bind(&free, Options::default()).expect("still free");
        listener.accept(soon()).expect("accepted");
        connecting.join().expect("no panic").expect("connected");
    });
}

/// Connects with `theirs` to a listener with `ours`, and gives both sides' errors.
fn turned_away(ours: Options, theirs: Options) -> (TransferError, TransferError) {
    let mut listener = listener(ours);
    let address = listener.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "stranger", &theirs, soon()));
        let accepted = listener.accept(soon()).expect_err("a stranger");
        let connected = connecting
            .join()
            .expect("no panic")
            .expect_err("a stranger");
        (accepted, connected)
    })
}

#[test]
fn a_wrong_or_missing_secret_is_turned_away() {
    let other = Options::default().secret(Secret::from_bytes([1; 32]).expect("long enough"));
    let (accepting, connecting) = turned_away(with_secret(), other);
    assert!(is_refused(&accepting), "{accepting}");
    assert!(is_refused(&connecting), "{connecting}");

    let (accepting, connecting) = turned_away(with_secret(), Options::default());
    assert!(is_refused(&accepting), "{accepting}");
    assert!(is_refused(&connecting), "{connecting}");
    assert!(connecting.to_string().contains("secret"), "{connecting}");

    let (accepting, connecting) = turned_away(Options::default(), with_secret());
    assert!(
        matches!(accepting, TransferError::Protocol(_)),
        "{accepting}"
    );
    assert!(is_refused(&connecting), "{connecting}");
    assert!(connecting.to_string().contains("secret"), "{connecting}");
}

fn read<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).expect("bytes");
    bytes
}

/// A listener that knows no secret and sends back whatever it gets.
#[test]
fn a_reflected_proof_is_refused() {
    let mirror = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = mirror.local_addr().expect("bound").to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "vain", &with_secret(), soon()));
        let (mut stream, _) = mirror.accept().expect("it connects");
        let greeting: [u8; GREETING] = read(&mut stream);
        stream.write_all(&greeting).expect("room");
        let tag: [u8; TAG] = read(&mut stream);
        stream.write_all(&tag).expect("room");
        let error = connecting
            .join()
            .expect("no panic")
            .expect_err("its own words");
        assert!(is_refused(&error), "{error}");
    });
}

/// What a rightful peer said once, said again.
#[test]
fn a_replayed_proof_is_refused() {
    let mut listener = listener(with_secret());
    let between = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = between.local_addr().expect("bound").to_string();
    let recorded = thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "rightful", &with_secret(), soon()));
        let (mut client, _) = between.accept().expect("it connects");
        let mut server = raw(&listener);
        let recording = scope.spawn(move || {
            let greeting: [u8; GREETING] = read(&mut client);
            server.write_all(&greeting).expect("room");
            client
                .write_all(&read::<GREETING>(&mut server))
                .expect("room");
            let tag: [u8; TAG] = read(&mut client);
            server.write_all(&tag).expect("room");
            client.write_all(&read::<TAG>(&mut server)).expect("room");
            // The hellos.
            let mut hello = [0; 24 + 9 + 8];
            client.read_exact(&mut hello).expect("a hello");
            server.write_all(&hello).expect("room");
            server.read_exact(&mut hello).expect("a hello");
            client.write_all(&hello).expect("room");
            (greeting, tag)
        });
        listener
            .accept(soon())
            .expect("what is relayed as it is, is accepted");
        connecting
            .join()
            .expect("no panic")
            .expect("and so is the answer");
        recording.join().expect("no panic")
    });
    let mut stream = raw(&listener);
    stream.write_all(&recorded.0).expect("room");
    stream.write_all(&recorded.1).expect("room");
    let error = listener.accept(soon()).expect_err("a replay");
    assert!(is_refused(&error), "{error}");
    let _: [u8; GREETING] = read(&mut stream);
    // No proof of the listener's own, to one that gave none.
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(count) if count > 0));
}

#[test]
fn a_payload_before_the_proof_is_refused() {
    let mut listener = listener(with_secret());
    let mut stream = raw(&listener);
    stream.write_all(&data_frame(0, &[0; 100])).expect("room");
    let error = listener.accept(soon()).expect_err("no proof");
    assert!(is_refused(&error), "{error}");
}

#[test]
fn silent_and_slow_peers_hold_nobody_up() {
    for base in [Options::default(), with_secret()] {
        let options = base.handshake(Duration::from_millis(100));
        let mut listener = listener(options.clone());
        let mut held: Vec<_> = (0..6).map(|_| raw(&listener)).collect();
        // Half of them begin and go no further.
        for stream in &mut held[..3] {
            stream.write_all(b"RR").expect("room");
        }
        let (mut a, mut b) = open(&mut listener, "talks", &options);
        send(&mut a, b"x", soon()).expect("sent");
        assert_eq!(receive(&mut b).expect("received").0, b"x");
        for _ in &held {
            let error = listener.accept(soon()).expect_err("silent");
            assert!(is_refused(&error), "{error}");
        }
        let nobody = listener.accept(Deadline::after(Duration::from_millis(1)));
        assert!(matches!(nobody, Err(TransferError::Timeout)));
        open(&mut listener, "the listener goes on", &options);
    }
}

#[test]
fn a_peer_that_waits_is_not_lost_when_accept_times_out() {
    let mut listener = listener(Options::default());
    let mut stream = raw(&listener);
    let early = listener.accept(Deadline::after(Duration::from_millis(5)));
    assert!(matches!(early, Err(TransferError::Timeout)));
    thread::scope(|scope| {
        let hello = scope.spawn(|| say_hello(&mut stream, "late"));
        assert_eq!(listener.accept(soon()).expect("accepted").name(), "late");
        hello.join().expect("no panic").expect("answered");
    });
}

#[test]
fn a_bad_hello_is_an_error_and_a_glance_is_none() {
    let mut listener = listener(Options::default());
    let mut version = data_frame(0, b"");
    version[2] = 2;
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(),
        version,
        data_frame(0, b"no hello at all"),
    ] {
        raw(&listener).write_all(&bytes).expect("room");
        let error = listener.accept(soon()).expect_err("bad");
        assert!(matches!(error, TransferError::Protocol(_)), "{error}");
    }
    drop(raw(&listener));
    let (a, _b) = open(&mut listener, "good", &Options::default());
    assert!(a.is_open());
}

/// The connecting side's own deadline, against a peer that accepts and never says a word.
#[test]
fn a_listener_that_never_answers_ends_in_a_timeout() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = mute.local_addr().expect("bound").to_string();
    for options in [Options::default(), with_secret()] {
        let deadline = Deadline::after(Duration::from_millis(50));
        let error = connect(&address, "hello?", &options, deadline).expect_err("mute");
        assert!(matches!(error, TransferError::Timeout), "{error}");
    }
}
