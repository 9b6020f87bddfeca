//! A peer that speaks the frames by hand, as well or as badly as a test wants.

use super::payloads::{fill, pattern, soon, CountingSink, NewMemory};
use crate::frame::{Header, Hello, Kind, HEADER_LEN};
use crate::{Payload, Receipt, Region, Transfer, TransferError};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

/// Says hello over a stream by hand, and reads the other side's.
///
/// # Errors
/// What the stream returned.
pub fn say_hello(stream: &mut (impl Read + Write), name: &str) -> io::Result<()> {
    let hello = Hello::new(crate::DEFAULT_LIMIT, name).map_err(io::Error::other)?;
    stream.write_all(&hello.encode())?;
    let header = read_header(stream)?;
    let len = Hello::body_len(&header).map_err(io::Error::other)?;
    stream.read_exact(&mut vec![0; len])
}

/// Reads a header by hand.
///
/// # Errors
/// What the stream returned, or that it is no header.
pub fn read_header(stream: &mut impl Read) -> io::Result<Header> {
    let mut bytes = [0; HEADER_LEN];
    stream.read_exact(&mut bytes)?;
    Header::decode(&bytes).map_err(io::Error::other)
}

/// A frame of data, whole.
#[must_use]
pub fn data_frame(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        kind: Kind::Data {
            method: crate::Method::Write,
            copies: 1,
            acknowledge: false,
        },
        sequence,
        length: payload.len() as u64,
    };
    [&header.encode()[..], payload].concat()
}

/// Rule 2 at its hardest, over a stream: the receiver reads as little as lets `send` return, and the rest only after the
/// source has been overwritten. Gives the sender's receipt.
///
/// `stream` is the other end of `link`, past its hello.
pub fn reuse_with_full_buffers(
    link: &mut (dyn Transfer + Send),
    stream: &mut (impl Read + Write),
    memory: NewMemory<'_>,
    give: bool,
    len: u64,
) -> Receipt {
    const STEP: usize = 4096;
    let expected = pattern(len, 3);
    let returned = AtomicBool::new(false);
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut memory = memory(len);
            fill(&mut *memory, 0, &pattern(len, 3));
            let region = Region::new(0, len);
            let payload = if give {
                Payload::given(&mut *memory, region)
            } else {
                Payload::kept(&mut *memory, region)
            };
            let receipt = link.send(payload.expect("inside"), soon());
            returned.store(true, Ordering::SeqCst);
            fill(&mut *memory, 0, &vec![0xEE; len as usize]);
            tell.send(()).expect("the receiver waits");
            receipt.expect("sent")
        });
        let header = read_header(stream).expect("a header");
        assert_eq!(header.length, len);
        let mut bytes = vec![0; len as usize];
        let mut filled = 0;
        while filled < bytes.len() && !returned.load(Ordering::SeqCst) {
            let end = bytes.len().min(filled + STEP);
            filled += stream.read(&mut bytes[filled..end]).expect("bytes");
        }
        told.recv().expect("the sender has overwritten its source");
        stream.read_exact(&mut bytes[filled..]).expect("the rest");
        assert!(bytes == expected, "{len} bytes arrived changed");
        if matches!(
            header.kind,
            Kind::Data {
                acknowledge: true,
                ..
            }
        ) {
            let acknowledgement = Header {
                kind: Kind::Acknowledgement,
                sequence: header.sequence,
                length: 0,
            };
            stream
                .write_all(&acknowledgement.encode())
                .expect("the sender is there");
        }
        sender.join().expect("the sender does not panic")
    })
}

/// Rules 3 and 8 over a stream: the peer dies after each byte of a small payload's frame. `open` gives an end and the
/// stream to it, past its hello.
pub fn death_at_every_byte<L: Transfer, S: Write>(open: &mut dyn FnMut() -> (L, S)) {
    let frame = data_frame(0, b"all or nothing");
    for life in 0..frame.len() {
        let (mut link, mut stream) = open();
        stream
            .write_all(&frame[..life])
            .expect("the other end is there");
        drop(stream);
        let mut sink = CountingSink::default();
        match link.recv(&mut sink, soon()).expect_err("it died") {
            TransferError::PeerClosed => assert_eq!(life, 0),
            TransferError::Truncated { got, .. } => assert_eq!(got, life as u64),
            other => panic!("died after {life}: {other}"),
        }
        assert_eq!(sink.released, sink.reserved, "died after {life}");
        assert!(!link.is_open());
    }
}

/// Rule 7 over a stream: frames that lie, after a good hello. `open` gives an end and the stream to it, past its hello.
pub fn hostile_frames<L: Transfer, S: Write>(open: &mut dyn FnMut() -> (L, S)) {
    let good = data_frame(0, b"");
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    for (what, bytes) in [
        (
            "garbage",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ),
        ("another version", with(2, &[9])),
        ("an unknown kind", with(3, &[77])),
        ("an unknown method", with(4, &[0])),
        ("a payload out of order", with(8, &[5])),
        (
            "a length beyond the limit",
            with(16, &u64::MAX.to_le_bytes()),
        ),
        (
            "a second hello",
            Hello::new(1, "again").expect("short").encode(),
        ),
    ] {
        let (mut link, mut stream) = open();
        stream.write_all(&bytes).expect("the other end is there");
        let mut sink = CountingSink::default();
        let error = link.recv(&mut sink, soon()).expect_err(what);
        assert!(
            matches!(
                error,
                TransferError::Protocol(_) | TransferError::TooLarge { .. }
            ),
            "{what}: {error}"
        );
        assert_eq!(sink.reserved, 0, "{what}: nothing may be reserved");
        assert!(!link.is_open(), "{what}");
    }
}
