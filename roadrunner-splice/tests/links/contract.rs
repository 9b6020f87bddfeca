//! The rules of a transfer, over real TCP connections.

use crate::by_hand::by_hand;
use crate::common::both;
use proptest::prelude::*;
use roadrunner_core::testing::{
    death_at_every_byte, host_memory, hostile_frames, receive, reuse_with_full_buffers, send, soon,
    Conformance, LENGTHS,
};
use roadrunner_core::{Deadline, Method, Transfer, TransferError};
use roadrunner_splice::Options;
use std::time::{Duration, Instant};

#[test]
fn the_contract_holds_where_payloads_are_written() {
    for (give, offset) in [(false, 0), (true, 4096), (true, 13)] {
        let receipts = Conformance {
            open: &|| both(&Options::default()),
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
    let (mut a, mut b) = both(&Options::default());
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
    let (mut link, stream) = by_hand(&Options::default().buffer(64 << 10));
    let before = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(100));
    let error = send(&mut link, &vec![0; 32 << 20], deadline).expect_err("nobody reads");
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert!(before.elapsed() >= Duration::from_millis(100));
    assert!(!link.is_open(), "half a payload is out");
    drop(stream);
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    let (mut link, stream) = by_hand(&Options::default());
    drop(stream);
    let mut sent = 0;
    // The first ones may still go into the buffer of a connection that is being reset.
    let error = loop {
        match send(&mut link, &[0; 1 << 10], soon()) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 100_000, "nobody is there");
    };
    assert!(matches!(error, TransferError::PeerClosed), "{error}");
}

#[test]
fn bbr_gives_way_on_loopback_and_a_wish_that_cannot_be_granted_is_no_error() {
    let (a, _b) = both(&Options::default());
    assert_ne!(a.wire().congestion().as_deref(), Some("bbr"));
    let (a, _b) = both(&Options::default().congestion("reno"));
    // Part of every kernel (tcp(7)).
    assert_eq!(a.wire().congestion().as_deref(), Some("reno"));
    let (a, _b) = both(&Options::default().congestion("no such thing"));
    assert!(a.wire().congestion().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn boundaries_are_kept_whatever_the_lengths_and_the_buffers_are(
        lengths in proptest::collection::vec(prop_oneof![0..100_u64, 0..70_000_u64, 0..1_500_000_u64], 0..8),
        buffer in prop_oneof![Just(2048_usize), 2048..1_000_000_usize],
    ) {
        let open = || both(&Options::default().buffer(buffer));
        let receipts = Conformance { open: &open, memory: &host_memory, give: false, offset: 1 }
            .one_send_one_receive(&lengths);
        prop_assert_eq!(receipts.len(), lengths.len());
    }
}
