//! Payloads that are carried by reference.

use crate::alone;
use crate::by_hand::by_hand;
use crate::common::{both, page_memory, pages};
use nix::errno::Errno;
use nix::sys::signal::{signal, SigHandler, Signal};
use roadrunner_core::testing::{
    fill, host_memory, pattern, read_header, receive, reuse_with_full_buffers, soon, Conformance,
    LENGTHS,
};
use roadrunner_core::{
    Deadline, LinearMemory, Method, Payload, Receipt, Region, Transfer, TransferError,
};
use roadrunner_faults::{Call, Fault, Plan};
use roadrunner_splice::{Link, Options, Preference};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn splicing() -> Options {
    Options::default().prefer(Preference::Splice)
}

fn give(
    link: &mut Link,
    memory: &mut dyn LinearMemory,
    region: Region,
) -> Result<Receipt, TransferError> {
    link.send(Payload::given(memory, region)?, soon())
}

fn content(memory: &mut dyn LinearMemory, region: Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len() as usize];
    region
        .span(memory)
        .expect("inside")
        .copy_to_slice(&mut bytes);
    bytes
}

/// Sends from a thread, because a payload may be more than the connection holds; gives both receipts and the bytes.
fn hop(
    (a, b): &mut (Link, Link),
    memory: &mut (dyn LinearMemory + Send),
    region: Region,
) -> (Receipt, Receipt, Vec<u8>) {
    thread::scope(|scope| {
        let sender = scope.spawn(|| give(a, memory, region).expect("sent"));
        let (bytes, delivered) = receive(b).expect("received");
        (sender.join().expect("no panic"), delivered, bytes)
    })
}

#[test]
fn the_contract_holds_where_payloads_are_spliced() {
    for (offset, chunk) in [(0, 256 << 10), (4096, 4096), (13, 64 << 10)] {
        let options = splicing().chunk(chunk);
        let receipts = Conformance {
            open: &|| both(&options),
            memory: &page_memory,
            give: true,
            offset,
        }
        .all();
        for receipt in receipts {
            let (method, copies) = match receipt.bytes() {
                0 => (Method::Inline, 0),
                1..=16384 => (Method::Inline, 1),
                len if len < MIB => (Method::Write, 1),
                _ => (Method::Splice, 0),
            };
            assert_eq!(
                (receipt.method(), receipt.copies()),
                (method, copies),
                "{receipt:?}"
            );
        }
    }
}

#[test]
fn the_source_may_be_overwritten_while_the_socket_refers_to_the_pages() {
    for len in LENGTHS {
        for buffer in [4096, 4 << 20] {
            // Everything that has a whole page is spliced.
            let options = splicing().buffer(buffer).splice_from(0);
            let (mut link, mut stream) = by_hand(&options);
            let receipt = reuse_with_full_buffers(&mut link, &mut stream, &page_memory, true, len);
            let spliced = len >= 4096;
            assert_eq!(
                receipt.method() == Method::Splice,
                spliced,
                "{len}: {receipt:?}"
            );
        }
    }
}

#[test]
fn a_link_that_measures_says_what_it_chose() {
    let len = 4 * MIB;
    let mut ends = both(&Options::default().prefer(Preference::Measured));
    let mut pages = pages(len);
    let mut send = |ends: &mut (Link, Link), len| {
        fill(&mut pages, 0, &pattern(len, 1));
        let (sent, delivered, bytes) = hop(ends, &mut pages, Region::new(0, len));
        assert!(bytes == pattern(len, 1));
        assert_eq!(sent.method(), delivered.method());
        sent.method()
    };
    for method in [Method::Write, Method::Splice].repeat(2) {
        assert_eq!(ends.0.wire().chosen(), None);
        assert_eq!(send(&mut ends, 2 * MIB), Method::Write, "too short to tell");
        assert_eq!(send(&mut ends, len), method);
    }
    let chosen = ends.0.wire().chosen().expect("enough were sent");
    assert!([Method::Write, Method::Splice].contains(&chosen));
    for _ in 0..3 {
        assert_eq!(send(&mut ends, len), chosen);
        assert_eq!(send(&mut ends, 2 * MIB), Method::Write);
    }
    assert_eq!(
        ends.1.wire().chosen(),
        None,
        "the other way nothing was sent"
    );
}

#[test]
fn only_given_pages_that_may_be_taken_are_spliced() {
    let whole = Region::new(0, 4 * MIB);
    let mut ends = both(&splicing());
    let mut pages = pages(4 * MIB);
    fill(&mut pages, 0, &pattern(4 * MIB, 1));

    let (sent, delivered, bytes) = hop(&mut ends, &mut pages, whole);
    assert_eq!((sent.method(), sent.copies()), (Method::Splice, 0));
    assert_eq!(
        (delivered.method(), delivered.copies()),
        (Method::Splice, 1)
    );
    assert!(bytes == pattern(4 * MIB, 1));

    fill(&mut pages, 0, &pattern(4 * MIB, 2));
    let kept = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let payload = Payload::kept(&mut pages, whole).expect("inside");
            ends.0.send(payload, soon()).expect("sent")
        });
        assert!(receive(&mut ends.1).expect("received").0 == pattern(4 * MIB, 2));
        sender.join().expect("no panic")
    });
    assert_eq!((kept.method(), kept.copies()), (Method::Write, 1));
    assert!(content(&mut pages, whole) == pattern(4 * MIB, 2), "kept");

    let mut opaque = host_memory(4 * MIB);
    let (sent, ..) = hop(&mut ends, &mut *opaque, whole);
    assert_eq!(sent.method(), Method::Write);

    for preference in [Preference::Write, Preference::Auto] {
        let mut local = both(&Options::default().prefer(preference));
        let (sent, ..) = hop(&mut local, &mut pages, whole);
        assert_eq!(sent.method(), Method::Write, "{preference:?}");
    }
}

#[test]
fn nothing_of_one_memory_comes_to_light_in_another() {
    let mut ends = both(&splicing());
    let region = Region::new(0, 2 * MIB);
    let (mut one, mut other) = (pages(2 * MIB), pages(2 * MIB));
    fill(&mut one, 0, &vec![0xA1; 2 << 20]);
    fill(&mut other, 0, &vec![0xB2; 2 << 20]);
    hop(&mut ends, &mut one, region);
    // What was taken from `one` has been acknowledged by the time this is sent.
    hop(&mut ends, &mut other, region);
    assert!(!content(&mut other, region).contains(&0xA1));
}

#[test]
fn pages_that_lie_in_several_mappings_arrive_as_well() {
    let mut ends = both(&splicing());
    let mut memory = pages(16 * MIB);
    for (round, (offset, len)) in [(0, 4), (2, 6), (1, 3), (0, 16), (5, 5), (3, 9)]
        .into_iter()
        .enumerate()
    {
        let region = Region::new(offset * MIB, len * MIB);
        fill(&mut memory, 0, &vec![0xCC; 16 << 20]);
        fill(
            &mut memory,
            region.offset(),
            &pattern(region.len(), round as u64),
        );
        let (sent, _, bytes) = hop(&mut ends, &mut memory, region);
        assert!(bytes == pattern(region.len(), round as u64), "{region}");
        let expected = u8::from(sent.method() == Method::Write);
        assert_eq!(sent.copies(), expected, "{sent:?}");
        // Around it nothing has changed.
        let before = content(&mut memory, Region::new(0, region.offset()));
        let end = region.end().expect("small");
        let after = content(&mut memory, Region::new(end, 16 * MIB - end));
        assert!(before.iter().chain(&after).all(|byte| *byte == 0xCC));
    }
}

#[test]
fn pages_that_are_not_exchanged_are_spliced_from_a_copy_and_the_receipt_says_so() {
    let (mut a, mut b) = both(&splicing());
    let mut memory = pages(2 * MIB);
    for round in 0..3 {
        let whole = Region::new(0, 2 * MIB);
        fill(&mut memory, 0, &pattern(2 * MIB, round));
        let (sent, delivered, bytes) = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let refuses = Fault::Errno(Errno::ENOMEM);
                let plan = Plan::new().from_nth(Call::Remap, 0, refuses);
                let sent = plan.during(|| give(&mut a, &mut memory, whole));
                assert!(plan.seen(Call::Remap) > 0, "nobody asked for an exchange");
                sent.expect("sent")
            });
            let (bytes, delivered) = receive(&mut b).expect("received");
            (sender.join().expect("no panic"), delivered, bytes)
        });
        assert_eq!((sent.method(), sent.copies()), (Method::Splice, 1));
        assert_eq!(
            (delivered.method(), delivered.copies()),
            (Method::Splice, 2)
        );
        assert!(bytes == pattern(2 * MIB, round));
    }
}

#[test]
fn a_payload_of_which_nothing_was_sent_is_where_it_was() {
    let whole = Region::new(0, 2 * MIB);
    // While a connection fills up the kernels may still find room for a header: then that one does not count.
    let untouched = (0..100).any(|_| {
        let (mut link, _stream) = by_hand(&splicing().buffer(4096));
        let socket = link.as_fd().try_clone_to_owned().expect("a descriptor");
        let mut socket = TcpStream::from(socket);
        while socket.write(&[0; 4096]).is_ok() {}
        let mut memory = pages(2 * MIB);
        fill(&mut memory, 0, &pattern(2 * MIB, 5));
        let payload = Payload::given(&mut memory, whole).expect("inside");
        let error = link.send(payload, Deadline::now()).expect_err("full");
        assert!(matches!(error, TransferError::Timeout), "{error}");
        if link.is_open() {
            assert!(content(&mut memory, whole) == pattern(2 * MIB, 5));
        }
        link.is_open()
    });
    assert!(untouched, "no connection was ever full");
}

#[test]
fn what_was_on_its_way_when_the_deadline_passed_never_changes() {
    let len = 32 * MIB;
    let (mut link, mut stream) = by_hand(&splicing());
    let mut memory = pages(len);
    fill(&mut memory, 0, &pattern(len, 6));
    let payload = Payload::given(&mut memory, Region::new(0, len)).expect("inside");
    let error = link
        .send(payload, Deadline::after(Duration::from_millis(50)))
        .expect_err("nobody reads");
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert!(!link.is_open());
    // The function goes on with its memory, and the link with its end.
    fill(&mut memory, 0, &vec![0xEE; len as usize]);
    drop(link);
    assert_eq!(read_header(&mut stream).expect("a header").length, len);
    let mut got = Vec::new();
    stream.read_to_end(&mut got).expect("what was sent");
    assert!(!got.is_empty() && (got.len() as u64) < len);
    assert!(got == pattern(len, 6)[..got.len()], "changed on its way");
}

#[test]
fn a_spliced_payload_is_acknowledged_before_the_next_one() {
    let (mut link, mut stream) = by_hand(&splicing());
    let mut memory = pages(MIB);
    let whole = Region::new(0, MIB);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let header = read_header(&mut stream).expect("a header");
            stream
                .read_exact(&mut vec![0; header.length as usize])
                .expect("a payload");
        });
        give(&mut link, &mut memory, whole).expect("sent");
        reader.join().expect("no panic");
    });
    // Received, and never acknowledged.
    let payload = Payload::given(&mut memory, whole).expect("inside");
    let error = link
        .send(payload, Deadline::after(Duration::from_millis(20)))
        .expect_err("not acknowledged");
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert!(link.is_open(), "nothing was sent");
}

/// Lets SIGPIPE kill this process, as it does a program that is not written in Rust.
#[allow(unsafe_code)]
fn let_sigpipe_kill() {
    // SAFETY: the default action runs no code of this process.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.expect("a signal that may be set");
}

/// Rust programs ignore SIGPIPE; those that load a library may not.
#[test]
fn a_peer_that_is_gone_is_an_error_even_where_sigpipe_kills() {
    let name = "splice::a_peer_that_is_gone_is_an_error_even_where_sigpipe_kills";
    alone(name, || {
        let_sigpipe_kill();
        for spliced in [true, false] {
            let options = splicing().splice_from(if spliced { 0 } else { u64::MAX });
            let (mut link, stream) = by_hand(&options);
            drop(stream);
            let mut memory = pages(8 * MIB);
            let error = (0..10)
                .find_map(|_| give(&mut link, &mut memory, Region::new(0, 8 * MIB)).err())
                .expect("nobody is there");
            assert!(matches!(error, TransferError::PeerClosed), "{error}");
        }
    });
}
