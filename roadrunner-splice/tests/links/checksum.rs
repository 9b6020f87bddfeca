//! Checksums: what they find, when there are any, and that payloads with them keep the contract.

use crate::by_hand::raw;
use crate::common::{both, open, page_memory, pages};
use crate::proxy::Proxy;
use roadrunner_core::frame::{Checksums, Hello, CHECKSUM_LEN, HEADER_LEN};
use roadrunner_core::testing::{
    data_frame, fill, host_memory, pattern, read_header, receive, reuse_with_full_buffers, soon,
    Conformance, CountingSink, NewMemory, LENGTHS,
};
use roadrunner_core::{
    Deadline, HostMemory, Method, Payload, Receipt, Region, Transfer, TransferError,
};
use roadrunner_splice::{connect, Link, Listener, Options, Preference};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

const HELLO: usize = HEADER_LEN + 9 + "test".len();

fn writing() -> Options {
    Options::default().checksum(true).prefer(Preference::Write)
}

fn splicing() -> Options {
    let options = Options::default().checksum(true).prefer(Preference::Splice);
    options.splice_from(0).chunk(8192)
}

/// An end whose peer is a plain socket that says this about checksums.
fn by_hand(options: &Options, says: Checksums) -> (Result<Link, TransferError>, TcpStream) {
    let mut listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a free port");
    let mut stream = raw(&listener);
    let hello = Hello::new(1 << 30, "test").expect("short");
    let hello = hello.with_checksums(says).encode();
    stream.write_all(&hello).expect("room");
    let link = listener.accept(soon());
    let header = read_header(&mut stream).expect("a hello");
    let mut body = vec![0; Hello::body_len(&header).expect("a hello")];
    stream.read_exact(&mut body).expect("a hello");
    (link, stream)
}

/// CRC-32, bit by bit.
fn slowly(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn the_contract_holds_with_checksums() {
    let ways: [(&Options, NewMemory<'_>, bool); 2] = [
        (&writing(), &host_memory, false),
        (&splicing(), &page_memory, true),
    ];
    for (options, memory, splices) in ways {
        for (give, offset) in [(false, 0), (true, 0), (true, 4096), (true, 13)] {
            let receipts = Conformance {
                open: &|| both(options),
                memory,
                give,
                offset,
            }
            .all();
            let spliced = |receipt: &Receipt| receipt.method() == Method::Splice;
            assert_eq!(receipts.iter().any(spliced), give && splices);
        }
    }
}

#[test]
fn one_side_that_wants_them_is_enough() {
    for (one, other, has) in [
        (true, true, true),
        (true, false, true),
        (false, true, true),
        (false, false, false),
    ] {
        let mut listener =
            Listener::bind("127.0.0.1:0", Options::default().checksum(one)).expect("a free port");
        let (a, b) = open(&mut listener, "test", &Options::default().checksum(other));
        assert_eq!(a.wire().has_checksums(), has, "{one} {other}");
        assert_eq!(b.wire().has_checksums(), has, "{one} {other}");
    }
    let (a, _b) = both(&Options::default());
    assert!(!a.wire().has_checksums(), "loopback");
}

#[test]
fn a_peer_without_checksums_is_refused_where_they_are_wanted() {
    let (link, _stream) = by_hand(&writing(), Checksums::Unable);
    let error = link.expect_err("it has none");
    assert!(error.to_string().contains("checksums"), "{error}");
}

#[test]
fn what_crosses_is_the_checksum_of_the_payload_little_endian() {
    for (options, given) in [(writing(), false), (splicing(), true)] {
        for (len, offset) in [(0, 0), (1, 0), (20_000, 7), (300_001, 4090), (1 << 20, 0)] {
            let (link, mut stream) = by_hand(&options, Checksums::Able);
            let mut link = link.expect("able");
            let content = pattern(len, 3);
            let sender = thread::spawn({
                let content = content.clone();
                move || {
                    let mut memory = pages(offset + len + 1);
                    fill(&mut memory, offset, &content);
                    let region = Region::new(offset, len);
                    let payload = if given {
                        Payload::given(&mut memory, region)
                    } else {
                        Payload::kept(&mut memory, region)
                    };
                    link.send(payload.expect("inside"), soon()).expect("sent");
                    link
                }
            });
            assert_eq!(read_header(&mut stream).expect("a header").length, len);
            let mut body = vec![0; len as usize];
            stream.read_exact(&mut body).expect("a payload");
            let mut checksum = [0; CHECKSUM_LEN];
            stream.read_exact(&mut checksum).expect("its checksum");
            assert!(body == content);
            assert_eq!(u32::from_le_bytes(checksum), slowly(&content), "{len}");
            drop(sender.join().expect("no panic"));
        }
    }
}

#[test]
fn a_changed_bit_anywhere_is_an_error_and_the_destination_is_released() {
    let (len, offset) = (1_300_000_usize, 4000);
    let body = HELLO + HEADER_LEN;
    let places = [
        body,
        body + 1,
        body + 96,
        body + (1 << 20) - 1,
        body + (1 << 20),
        body + len - 1,
        body + len,
        body + len + CHECKSUM_LEN - 1,
    ];
    for (options, method) in [(writing(), Method::Write), (splicing(), Method::Splice)] {
        for (bit, place) in places.into_iter().enumerate() {
            let mut listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a free port");
            let proxy = flipping(&listener, place, 1 << (bit % 8));
            thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    let address = proxy.address.to_string();
                    let mut link = connect(&address, "test", &options, soon()).expect("connected");
                    let mut memory = pages(2 << 20);
                    fill(&mut memory, offset, &pattern(len as u64, 8));
                    let region = Region::new(offset, len as u64);
                    let payload = Payload::given(&mut memory, region).expect("inside");
                    let receipt = link.send(payload, soon()).expect("sent");
                    // Until the receiver is gone.
                    let _ = link.recv(&mut HostMemory::new(), soon());
                    receipt
                });
                let mut link = listener.accept(soon()).expect("accepted");
                let mut sink = CountingSink::default();
                let error = link.recv(&mut sink, soon()).expect_err("changed");
                assert!(
                    matches!(error, TransferError::Corrupted { got, expected } if got != expected),
                    "{place}: {error}"
                );
                assert_eq!((sink.reserved, sink.released), (1, 1), "{place}");
                assert!(!link.is_open(), "{place}");
                let error = link.recv(&mut sink, soon()).expect_err("broken");
                assert!(matches!(error, TransferError::Broken), "{error}");
                drop(link);
                assert_eq!(sender.join().expect("no panic").method(), method);
            });
        }
    }
}

/// A way to the listener on which the bits of one byte are turned round.
fn flipping(listener: &Listener, place: usize, bits: u8) -> Proxy {
    Proxy::start(
        listener.address(),
        move |_, back: bool, at: usize, bytes: &mut [u8]| {
            if let (false, Some(byte)) =
                (back, place.checked_sub(at).and_then(|at| bytes.get_mut(at)))
            {
                *byte ^= bits;
            }
            bytes.len()
        },
    )
}

/// What the test before would show without checksums.
#[test]
fn a_changed_bit_passes_where_there_are_none() {
    let options = Options::default().checksum(false);
    let mut listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a free port");
    let place = HELLO + HEADER_LEN + 500;
    let proxy = flipping(&listener, place, 1);
    let address = proxy.address.to_string();
    let (mut a, mut b) = thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "test", &options, soon()));
        let accepted = listener.accept(soon()).expect("accepted");
        (
            connecting.join().expect("no panic").expect("connected"),
            accepted,
        )
    });
    roadrunner_core::testing::send(&mut a, &pattern(1000, 1), soon()).expect("sent");
    let mut expected = pattern(1000, 1);
    expected[500] ^= 1;
    assert!(receive(&mut b).expect("received").0 == expected);
}

#[test]
fn a_peer_that_dies_within_the_checksum_shows_nothing() {
    let frame = [
        data_frame(0, b"payload"),
        slowly(b"payload").to_le_bytes().to_vec(),
    ]
    .concat();
    for len in HEADER_LEN + 7..=frame.len() {
        let (link, mut stream) = by_hand(&writing(), Checksums::Wanted);
        let mut link = link.expect("able");
        stream.write_all(&frame[..len]).expect("room");
        drop(stream);
        let mut sink = CountingSink::default();
        match link.recv(&mut sink, soon()) {
            Ok(_) => assert_eq!(len, frame.len()),
            Err(TransferError::Truncated { got, expected }) => {
                assert_eq!((got, expected), (len as u64, frame.len() as u64));
                assert_eq!(sink.released, 1);
            }
            Err(error) => panic!("{len}: {error}"),
        }
    }
}

#[test]
fn the_source_may_be_overwritten_while_the_buffers_are_full() {
    for len in LENGTHS {
        for buffer in [4096, 1 << 20] {
            for (options, memory) in [
                (writing(), &host_memory as NewMemory<'_>),
                (splicing(), &page_memory),
            ] {
                let (link, mut stream) = by_hand(&options.buffer(buffer), Checksums::Able);
                let mut link = link.expect("able");
                reuse_with_full_buffers(&mut link, &mut stream, memory, true, len);
            }
        }
    }
}

/// The two ends take turns in one thread, so that either stops at many places of a frame.
#[test]
fn checksums_survive_operations_that_stop_half_way() {
    for options in [writing(), splicing()] {
        let (mut a, mut b) = both(&options.buffer(4096));
        for (round, len) in [0, 5, 300_000, 1 << 20, 1_777_777].into_iter().enumerate() {
            let content = pattern(len, round as u64);
            let mut memory = pages(len + 9);
            fill(&mut memory, 9, &content);
            let mut sink = HostMemory::new();
            let (mut sent, mut received) = (None, None);
            let deadline = soon();
            while sent.is_none() || received.is_none() {
                assert!(!deadline.has_passed(), "{len}");
                if sent.is_none() {
                    let payload = Payload::given(&mut memory, Region::new(9, len));
                    sent = a.try_send(payload.expect("inside")).expect("sent");
                }
                if received.is_none() {
                    received = b.try_recv(&mut sink).expect("received");
                }
            }
            let region = received.expect("received").region();
            assert!(sink.bytes(region) == Some(&content[..]), "{len}");
        }
    }
}

#[test]
fn a_checksum_that_does_not_come_ends_in_a_timeout() {
    let (link, mut stream) = by_hand(&writing(), Checksums::Able);
    let mut link = link.expect("able");
    stream.write_all(&data_frame(0, b"payload")).expect("room");
    let mut sink = CountingSink::default();
    let deadline = Deadline::after(Duration::from_millis(30));
    let error = link.recv(&mut sink, deadline).expect_err("it is missing");
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert_eq!((sink.reserved, sink.released), (1, 1));
    assert!(!link.is_open());
}
