//! Payloads that the network card would take from where they lie.

mod common;

use common::{both, by_hand};
use nix::errno::Errno;
use roadrunner_core::testing::{
    fill, host_memory, pattern, receive, reuse_with_full_buffers, send, soon, Conformance, LENGTHS,
};
use roadrunner_core::{Deadline, HostMemory, Method, Payload, Region, Transfer, TransferError};
use roadrunner_faults::{Call, Fault, Plan};
use roadrunner_splice::{Options, Preference};
use std::io::Read;
use std::thread;
use std::time::Duration;

fn options() -> Options {
    Options::default()
        .prefer(Preference::ZeroCopySend)
        .splice_from(20_000)
}

#[test]
fn the_contract_holds_and_a_receiver_on_this_host_costs_a_copy() {
    for (give, offset, checksum) in [(false, 0, false), (true, 13, true)] {
        let receipts = Conformance {
            open: &|| both(&options().checksum(checksum)),
            memory: &host_memory,
            give,
            offset,
        }
        .all();
        for receipt in receipts {
            let method = match receipt.bytes() {
                0..=16_384 => Method::Inline,
                16_385..20_000 => Method::Write,
                _ => Method::ZeroCopySend,
            };
            assert_eq!(receipt.method(), method);
            assert_eq!(receipt.copies(), u8::from(receipt.bytes() > 0));
        }
    }
}

/// What lies in the sender's queue lies in the sender's pages.
#[test]
fn the_source_may_be_overwritten_when_send_has_returned() {
    for len in LENGTHS {
        for buffer in [4096, 1 << 20] {
            let (mut link, mut stream) = by_hand(&options().splice_from(0).buffer(buffer));
            let receipt = reuse_with_full_buffers(&mut link, &mut stream, &host_memory, false, len);
            let method = if len == 0 {
                Method::Inline
            } else {
                Method::ZeroCopySend
            };
            assert_eq!(receipt.method(), method, "{len}");
        }
    }
}

/// The deadline passes with all of it in the sender's queue: what the peer gets then is nothing that was written later.
#[test]
fn nothing_follows_from_pages_whose_payload_has_failed() {
    let len = 1 << 20;
    let (mut link, mut stream) = by_hand(&options().buffer(16 << 20));
    let mut memory = HostMemory::from(vec![1; len]);
    let payload = Payload::kept(&mut memory, Region::new(0, len as u64)).expect("inside");
    let deadline = Deadline::after(Duration::from_millis(50));
    let error = link.send(payload, deadline).expect_err("nobody reads");
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert!(!link.is_open());
    fill(&mut memory, 0, &vec![0xEE; len]);
    let mut bytes = Vec::new();
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).expect("a time");
    // The connection has been reset.
    let _ = stream.read_to_end(&mut bytes);
    assert!(bytes.len() < len, "{}", bytes.len());
    assert!(!bytes.contains(&0xEE));
}

#[test]
fn where_the_system_has_no_room_for_it_the_payload_is_written_and_the_receipt_says_so() {
    for (checksum, nth) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
        let (mut a, mut b) = both(&options().checksum(checksum).buffer(64 << 10));
        thread::scope(|scope| {
            let sender = scope.spawn(move || {
                let plan = Plan::new().from_nth(Call::Sendmsg, nth, Fault::Errno(Errno::ENOBUFS));
                plan.during(|| send(&mut a, &pattern(300_000, 1), soon()))
            });
            let received = receive(&mut b);
            let sent = sender.join().expect("no panic");
            // Without room for anything else either.
            assert!(matches!(sent, Err(TransferError::Io { .. })), "{sent:?}");
            assert!(received.is_err());
        });
    }
    let (mut a, mut b) = both(&options());
    for (nth, method) in [(0, Method::Write), (1, Method::ZeroCopySend)] {
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let plan = Plan::new().nth(Call::Sendmsg, nth, Fault::Errno(Errno::ENOBUFS));
                plan.during(|| send(&mut a, &pattern(3_000_000, 1), soon()))
            });
            let (bytes, delivered) = receive(&mut b).expect("received");
            let sent = sender.join().expect("no panic").expect("sent");
            assert!(bytes == pattern(3_000_000, 1));
            assert_eq!((sent.method(), sent.copies()), (method, 1));
            assert_eq!((delivered.method(), delivered.copies()), (method, 2));
        });
    }
}
