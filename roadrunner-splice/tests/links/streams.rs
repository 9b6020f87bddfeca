//! One link over several connections.

use crate::by_hand::raw;
use crate::common::{open, secret};
use crate::data_header;
use roadrunner_core::frame::{Hello, HEADER_LEN};
use roadrunner_core::testing::{pattern, read_header, receive, send, soon};
use roadrunner_core::{Deadline, HostMemory, Method, Transfer, TransferError};
use roadrunner_splice::{connect, Link, Listener, Options, Server, Service, SessionListener};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

const LARGE: u64 = 3_000_001;
/// In a hello: this connection is one more of a link.
const JOINS: u64 = 0xFF;

fn listener(options: &Options) -> Listener {
    Listener::bind("127.0.0.1:0", options.clone()).expect("a free port")
}

fn converse(a: &mut Link, b: &mut Link, len: u64) -> Method {
    let bytes = pattern(len, len);
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(a, &bytes, soon()).expect("sent"));
        let (received, receipt) = receive(b).expect("received");
        assert!(received == bytes, "{len} bytes arrived changed");
        let sent = sender.join().expect("no panic");
        assert_eq!(sent.method(), receipt.method());
        assert_eq!((sent.copies(), receipt.copies()), (1, 2));
        sent.method()
    })
}

#[test]
fn a_link_has_as_many_connections_as_the_side_that_wants_fewer() {
    for (here, there, count) in [(4, 2, 2), (2, 4, 2), (1, 4, 1), (4, 1, 1), (16, 16, 16)] {
        for checksum in [false, true] {
            let options = Options::default().secret(secret()).checksum(checksum);
            let mut listener = listener(&options.clone().streams(there));
            let (mut a, mut b) = open(&mut listener, "many", &options.streams(here));
            assert_eq!((a.wire().streams(), b.wire().streams()), (count, count));
            assert_eq!((a.name(), b.name()), ("many", "many"));
            assert_eq!(converse(&mut a, &mut b, 100), Method::Inline);
            for len in [LARGE, 100_000, 1 << 20, LARGE + 1] {
                assert_eq!(converse(&mut a, &mut b, len), Method::Write);
                assert_eq!(converse(&mut b, &mut a, len), Method::Write);
            }
            a.close(soon()).expect("closed");
            assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
        }
    }
}

#[test]
fn one_connection_each_is_what_a_server_takes() {
    struct Nothing;
    impl Service<Link> for Nothing {
        type Session = HostMemory;
        fn opened(&self, _: &Link) -> Option<HostMemory> {
            Some(HostMemory::new())
        }
        fn ready(&self, memory: &mut HostMemory, link: &mut Link) -> Result<(), TransferError> {
            link.try_recv(memory).map(drop)
        }
    }
    let options = Options::default().streams(4);
    let listener = listener(&options);
    let address = listener.address().to_string();
    let server = Server::start(listener, 1, Nothing).expect("threads");
    let link = connect(&address, "one", &options, soon()).expect("connected");
    assert_eq!(link.wire().streams(), 1);
    drop(server);
}

#[test]
fn each_connection_counts() {
    let options = Options::default().streams(3);
    let mut few = listener(&options.clone().connections(3));
    drop(open(&mut few, "three", &options));
    let (first, second) = open(&mut few, "three again", &options);
    let address = few.address().to_string();
    thread::scope(|scope| {
        let more = scope.spawn(|| connect(&address, "one too many", &options, soon()));
        let refused = few.accept(soon()).expect_err("there are three");
        assert!(matches!(refused, TransferError::Refused(_)), "{refused}");
        assert!(more.join().expect("no panic").is_err());
    });
    drop((first, second));
    drop(open(&mut few, "and again", &options));
}

/// A peer's connection, opened by hand, and what the listener's hello offered.
fn hello(listener: &mut Listener, name: &str, offers: u64) -> (TcpStream, u64) {
    let mut stream = raw(listener);
    let ours = Hello::new(1 << 30, name)
        .expect("short")
        .with_offers(offers);
    stream.write_all(&ours.encode()).expect("open");
    let patience = Duration::from_millis(20);
    stream.set_read_timeout(Some(patience)).expect("a time");
    let header = loop {
        let accepted = listener.try_accept();
        assert!(matches!(accepted, Ok(None)), "{accepted:?}");
        let mut bytes = [0; HEADER_LEN];
        if stream
            .peek(&mut bytes)
            .is_ok_and(|count| count == HEADER_LEN)
        {
            break read_header(&mut stream).expect("a hello");
        }
    };
    stream.set_read_timeout(None).expect("no time");
    let mut body = vec![0; Hello::body_len(&header).expect("a hello")];
    stream.read_exact(&mut body).expect("all of it");
    (stream, header.sequence)
}

/// The name of a connection that joins.
fn token(ours: u64, theirs: u64) -> String {
    format!("{ours:014x}{:014x}", theirs >> 8)
}

/// A second connection, with what was said on the first one: it completes the link.
fn second(listener: &mut Listener, name: &str) -> (TcpStream, Result<Link, TransferError>) {
    let mut stream = raw(listener);
    let ours = Hello::new(1 << 30, name).expect("short").with_offers(JOINS);
    stream.write_all(&ours.encode()).expect("open");
    let accepted = listener.accept(soon());
    // Who is refused is not to take its link to be complete.
    let answer = read_header(&mut stream);
    assert_eq!(answer.is_ok(), accepted.is_ok(), "{answer:?}");
    if let Ok(header) = answer {
        let mut body = vec![0; Hello::body_len(&header).expect("a hello")];
        stream.read_exact(&mut body).expect("all of it");
    }
    (stream, accepted)
}

#[test]
fn only_who_knows_the_token_joins_and_those_who_wait_keep_nobody_out() {
    let options = Options::default().streams(2);
    let mut listener = listener(&options);
    let (_stream, offers) = hello(&mut listener, "by hand", 2 | 5 << 8);
    assert_eq!(offers & 0xFF, 2);
    assert_ne!(offers >> 8, 0);
    for wrong in [
        token(5, offers ^ 1 << 8),
        token(4, offers),
        token(5, 0),
        token(0, 0),
    ] {
        let (_stream, refused) = second(&mut listener, &wrong);
        let refused = refused.expect_err("not the token");
        assert!(matches!(refused, TransferError::Refused(_)), "{refused}");
    }
    // No token at all.
    let mut stream = raw(&listener);
    let ours = Hello::new(1 << 30, "me").expect("short").with_offers(JOINS);
    stream.write_all(&ours.encode()).expect("open");
    let refused = listener.accept(soon()).expect_err("no token");
    assert!(matches!(refused, TransferError::Protocol(_)), "{refused}");
    // Others come in meanwhile.
    drop(open(&mut listener, "another", &options));
    let (_second, link) = second(&mut listener, &token(5, offers));
    assert_eq!(link.expect("complete").wire().streams(), 2);
    // It is complete.
    let (_third, refused) = second(&mut listener, &token(5, offers));
    assert!(
        matches!(refused, Err(TransferError::Refused(_))),
        "{refused:?}"
    );
}

#[test]
fn who_never_brings_the_others_loses_its_place() {
    let patience = Duration::from_millis(100);
    let options = Options::default().streams(2).handshake(patience);
    let mut listener = listener(&options.clone().connections(2));
    let (mut stream, _) = hello(&mut listener, "alone", 2 | 5 << 8);
    let deadline = Deadline::after(2 * patience);
    let nobody = listener.accept(deadline).expect_err("nobody is complete");
    assert!(matches!(nobody, TransferError::Timeout), "{nobody}");
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).expect("a time");
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    drop(open(&mut listener, "two", &options));
}

/// Nobody asks a listener of sessions, and nothing else happens there.
#[test]
fn who_never_brings_the_others_of_a_session_loses_its_place() {
    let patience = Duration::from_millis(100);
    let options = Options::default().streams(2).handshake(patience);
    let listener = SessionListener::bind("127.0.0.1:0", options).expect("a free port");
    let mut stream = TcpStream::connect(listener.address()).expect("it listens");
    let hello = Hello::new(1 << 30, "alone").expect("short");
    let hello = hello.with_offers(2 | 5 << 8);
    stream.write_all(&hello.encode()).expect("open");
    let long = Some(Duration::from_secs(10));
    stream.set_read_timeout(long).expect("a time");
    let answer = read_header(&mut stream).expect("a hello");
    let mut body = vec![0; Hello::body_len(&answer).expect("a hello")];
    stream.read_exact(&mut body).expect("all of it");
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
}

/// Both connections of a link by hand, and its other end.
fn two_by_hand() -> (TcpStream, TcpStream, Link) {
    let mut listener = listener(&Options::default().streams(2).checksum(false));
    let (first, offers) = hello(&mut listener, "by hand", 2 | 5 << 8);
    let (second, link) = second(&mut listener, &token(5, offers));
    (first, second, link.expect("complete"))
}

#[test]
fn a_payload_is_shown_when_all_its_parts_are_here_and_are_its_own() {
    let len: usize = 1 << 20;
    let bytes = pattern(len as u64, 1);
    let header = data_header(0, len as u64);
    let half = len / 2;
    // What comes on the second connection, and whether the payload is shown.
    for (other, part, is_shown) in [
        (header, half, true),
        (header, half - 1, false),
        (header, 0, false),
        (data_header(1, len as u64), half, false),
        (data_header(0, len as u64 + 1), half, false),
    ] {
        let (mut first, mut second, mut link) = two_by_hand();
        thread::scope(|scope| {
            scope.spawn(|| {
                // The link may break before all is written.
                let _ = second.write_all(&other);
                let _ = second.write_all(&bytes[half..half + part]);
                let _ = first.write_all(&header);
                let _ = first.write_all(&bytes[..half]);
                drop(second);
            });
            let mut memory = HostMemory::new();
            let received = link.recv(&mut memory, soon());
            if is_shown {
                let region = received.expect("whole").region();
                assert!(memory.bytes(region) == Some(&bytes[..]));
            } else {
                let error = received.expect_err("not whole");
                let expected = matches!(
                    error,
                    TransferError::Truncated { .. } | TransferError::Protocol(_)
                );
                assert!(expected, "{error}");
                assert!(!link.is_open());
            }
        });
    }
}

#[test]
fn who_shuts_the_first_connection_down_wakes_whoever_waits_for_another() {
    let len: usize = 1 << 20;
    let bytes = pattern(len as u64, 1);
    let (mut first, _second, mut link) = two_by_hand();
    let copy = link.as_fd().try_clone_to_owned().expect("a descriptor");
    let copy = TcpStream::from(copy);
    thread::scope(|scope| {
        scope.spawn(|| {
            first.write_all(&data_header(0, len as u64)).expect("open");
            first.write_all(&bytes[..len / 2]).expect("open");
            // Until its part has been received, as far as can be seen from here.
            while copy.peek(&mut [0]).is_ok_and(|count| count > 0) {
                thread::yield_now();
            }
            copy.shutdown(Shutdown::Both).expect("connected");
        });
        let deadline = Deadline::after(Duration::from_secs(5));
        let error = link
            .recv(&mut HostMemory::new(), deadline)
            .expect_err("a half");
        let expected = matches!(error, TransferError::Truncated { got, .. } if got == (len / 2 + HEADER_LEN) as u64);
        assert!(expected, "{error:?}");
    });
}
