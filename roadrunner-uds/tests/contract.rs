//! The rules of a transfer, over real sockets.

use nix::sys::signal::{SigSet, Signal};
use proptest::prelude::*;
use roadrunner_core::testing::{
    death_at_every_byte, host_memory, hostile_frames, receive, reuse_with_full_buffers, say_hello,
    send, soon, Conformance, LENGTHS,
};
use roadrunner_core::{Deadline, Method, Transfer, TransferError};
use roadrunner_uds::{pair, Link, Options, Preference, UnixWire};
use std::fs;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

fn both() -> (Link, Link) {
    pair("test", &Options::default().prefer(Preference::Write)).expect("a pair")
}

/// An end whose peer is a plain socket.
fn by_hand(options: &Options) -> (Link, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let wire = UnixWire::new(ours, options).expect("our own uid");
    let link = thread::scope(|scope| {
        let hand = scope.spawn(|| say_hello(&mut theirs, "by hand").expect("hello"));
        let link = Link::accept(wire, 1 << 30, soon()).expect("hello");
        hand.join().expect("no panic");
        link
    });
    (link, theirs)
}

#[test]
fn the_contract_holds() {
    for (give, offset) in [(false, 0), (true, 4096), (true, 13)] {
        let receipts = Conformance {
            open: &both,
            memory: &host_memory,
            give,
            offset,
        }
        .all();
        for receipt in receipts {
            let expected = match receipt.bytes() {
                0..=16384 => Method::Inline,
                _ => Method::Write,
            };
            assert_eq!(receipt.method(), expected);
            assert_eq!(receipt.copies(), u8::from(receipt.bytes() > 0));
        }
    }
}

#[test]
fn the_delivery_counts_the_copies_of_the_whole_hop() {
    let (mut a, mut b) = both();
    send(&mut a, &[1; 100], soon()).expect("sent");
    let (_, receipt) = receive(&mut b).expect("received");
    assert_eq!((receipt.method(), receipt.copies()), (Method::Inline, 2));
}

#[test]
fn the_source_may_be_overwritten_while_the_buffers_are_full() {
    for len in LENGTHS {
        for buffer in [4096, 1 << 20] {
            let (mut link, mut stream) = by_hand(&Options::default().buffer(buffer));
            reuse_with_full_buffers(&mut link, &mut stream, &host_memory, true, len);
        }
    }
}

#[test]
fn the_peers_death_at_any_byte_shows_nothing() {
    death_at_every_byte(&mut || by_hand(&Options::default()));
}

#[test]
fn frames_that_lie_are_errors() {
    hostile_frames(&mut || by_hand(&Options::default()));
}

#[test]
fn a_peer_that_does_not_read_ends_in_a_timeout() {
    let (mut link, stream) = by_hand(&Options::default());
    let before = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(100));
    let error = send(&mut link, &vec![0; 8 << 20], deadline).expect_err("nobody reads");
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert!(before.elapsed() >= Duration::from_millis(100));
    assert!(!link.is_open(), "half a payload is out");
    drop(stream);
}

#[test]
fn a_full_link_sends_nothing_and_stays_open() {
    let (mut link, _stream) = by_hand(&Options::default().buffer(4096));
    let mut sent = 0;
    // Bounded: small payloads into a buffer that nobody empties.
    let error = loop {
        match send(&mut link, &[7; 64], Deadline::now()) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 100_000, "the link holds without bound");
    };
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert!(sent > 0);
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    // While it is blocked it stays pending, whatever becomes of it otherwise.
    let sigpipe = SigSet::from(Signal::SIGPIPE);
    sigpipe.thread_block().expect("this thread's own");
    let (mut link, stream) = by_hand(&Options::default());
    drop(stream);
    let error = send(&mut link, b"anybody?", soon()).expect_err("gone");
    assert!(matches!(error, TransferError::PeerClosed), "{error}");
    let status = fs::read_to_string("/proc/thread-self/status").expect("proc");
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    assert_eq!(pending.map(str::trim), Some("0000000000000000"));
}

#[test]
fn a_payload_beyond_the_limit_is_refused_before_it_is_sent() {
    let (mut a, mut b) = pair("small", &Options::default().limit(10)).expect("a pair");
    let error = send(&mut a, &[0; 11], soon()).expect_err("too large");
    assert!(matches!(
        error,
        TransferError::TooLarge { len: 11, limit: 10 }
    ));
    send(&mut b, &[0; 10], soon()).expect("fits");
    assert_eq!(receive(&mut a).expect("received").0, [0; 10]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn boundaries_are_kept_whatever_the_lengths_and_the_buffers_are(
        lengths in proptest::collection::vec(prop_oneof![0..100_u64, 0..70_000_u64, 0..1_500_000_u64], 0..8),
        buffer in prop_oneof![Just(2048_usize), 2048..1_000_000_usize],
    ) {
        let open = || pair("any", &Options::default().buffer(buffer)).expect("a pair");
        let receipts = Conformance { open: &open, memory: &host_memory, give: false, offset: 1 }
            .one_send_one_receive(&lengths);
        prop_assert_eq!(receipts.len(), lengths.len());
    }
}
