//! Several connections at work.

use super::*;
use crate::{connect, Link, Listener, Options};
use nix::sys::socket::{shutdown, Shutdown};
use roadrunner_core::frame::{Header, Kind};
use roadrunner_core::{HostMemory, Method, Payload};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

#[test]
fn a_connection_that_always_gets_on_takes_no_more_than_a_step_at_a_time() {
    let mut bytes = vec![7; 8 * STEP];
    let part = Span::from_slice(&mut bytes);
    for with_checksums in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let near = TcpStream::connect(address).expect("it listens");
        let mut far = listener.accept().expect("connected").0;
        near.set_nonblocking(true).expect("a socket");
        let mut socket = Socket::new(near, None);
        let mut checksums = with_checksums.then(Checksums::default);
        thread::scope(|scope| {
            scope.spawn(move || io::copy(&mut far, &mut io::sink()));
            let (mut sent, mut went) = (0, Went::OneStep);
            while !matches!(went, Went::Through) {
                let before = sent;
                let sums = checksums.as_mut();
                went = write(&mut socket, sums, &[0; HEADER_LEN], part, &mut sent).expect("room");
                assert!(sent - before <= (STEP + HEADER_LEN) as u64 + 4, "{sent}");
            }
            drop(socket);
        });
    }
}

fn long() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// The two ends of a link over three connections.
fn pair(options: &Options) -> (Link, Link) {
    let mut listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a free port");
    let address = listener.address().to_string();
    let ends = thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "three", options, long()));
        let accepted = listener.accept(long()).expect("accepted");
        let connected = connecting.join().expect("no panic").expect("connected");
        (connected, accepted)
    });
    assert_eq!(ends.0.wire().streams(), 3);
    ends
}

fn wait_until_ready(link: &Link) {
    let late = long();
    link.wire().wait(link.wants(), late).expect("sockets");
    assert!(!late.has_passed(), "nobody tells that it may go on");
}

/// Whether a wait ends with its deadline, and not before.
fn waits_in_vain(link: &Link) -> bool {
    let briefly = Deadline::after(Duration::from_millis(50));
    link.wire().wait(link.wants(), briefly).expect("sockets");
    briefly.has_passed()
}

/// Nobody has to look again after a while, and nobody is kept busy.
#[test]
fn a_wait_is_for_the_connections_that_lack_something() {
    const LEN: usize = 32 << 20;
    let (mut a, mut b) = pair(&Options::default().streams(3).buffer(64 << 10));
    let mut memory = HostMemory::from(vec![7; LEN]);
    let region = memory.region();
    let mut try_send = |link: &mut Link| {
        let payload = Payload::kept(&mut memory, region).expect("inside");
        link.try_send(payload).expect("open").is_some()
    };
    let is_full = (0..200).any(|_| !try_send(&mut a) && waits_in_vain(&a));
    assert!(is_full, "it wakes where there is no room");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !try_send(&mut a) {
                wait_until_ready(&a);
            }
        });
        let mut sink = HostMemory::new();
        while b.try_recv(&mut sink).expect("open").is_none() {
            wait_until_ready(&b);
        }
    });
    assert!(b.try_recv(&mut HostMemory::new()).expect("open").is_none());
    assert!(waits_in_vain(&b), "nothing comes");
}

/// The first connection lacks nothing, so that nobody reads from it any more.
#[test]
fn a_first_connection_that_is_shut_down_is_noticed_without_waiting() {
    let (mut a, mut b) = pair(&Options::default().streams(3));
    let kind = Kind::Data {
        method: Method::Write,
        copies: 1,
        acknowledge: false,
    };
    let header = Header {
        kind,
        sequence: 0,
        length: STRIPED_FROM,
    };
    let mut bytes = vec![7; STRIPED_FROM as usize];
    let part = parts(Span::from_slice(&mut bytes), 3)[0];
    let (socket, mut sent) = (a.wire_mut().parts().0, 0);
    write_all(socket, &header.encode(), part, &mut sent, long()).expect("room");
    let mut sink = HostMemory::new();
    assert!(b.try_recv(&mut sink).expect("open").is_none());
    while b.wire().streams.got < part.len() as u64 {
        wait_until_ready(&b);
        assert!(b.try_recv(&mut sink).expect("open").is_none());
    }
    let first = b.wire().as_fd().as_raw_fd();
    shutdown(first, Shutdown::Both).expect("connected");
    let error = b.try_recv(&mut sink).expect_err("it is over");
    assert!(matches!(error, TransferError::Truncated { .. }), "{error}");
}
