//! What every transport is tested with (feature `testing`). Everything here panics when a rule is broken.
//!
//! [`Conformance`] holds any pair of ends against the [contract](crate::Transfer). The rest is for transports over a
//! byte stream: a peer that speaks the frames by hand, as well or as badly as a test wants.

use crate::frame::{Header, Hello, Kind, HEADER_LEN};
use crate::stream::INLINE_LIMIT;
use crate::{
    Deadline, HostMemory, LinearMemory, Payload, Receipt, Region, Sink, Transfer, TransferError,
};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Lengths at which something changes, in bytes: nothing, the inline limit, a page, 1 MiB, and more than any socket's
/// buffer together with an odd rest.
pub const LENGTHS: [u64; 13] = [
    0,
    1,
    4095,
    4096,
    4097,
    INLINE_LIMIT - 1,
    INLINE_LIMIT,
    INLINE_LIMIT + 1,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    (2 << 20) + 4095,
    (5 << 20) + 3,
];

/// Longer than any of these tests takes; one that reaches it has failed.
#[must_use]
pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Bytes that differ from their neighbours, from the same place in other pages, and from those of another seed.
#[must_use]
pub fn pattern(len: u64, seed: u64) -> Vec<u8> {
    (0..len)
        .map(|at| ((at + (at >> 8) * 7 + (at >> 16) * 13) as u8).wrapping_add(seed as u8))
        .collect()
}

/// A linear memory for the sender, of at least so many bytes.
pub type NewMemory<'a> = &'a (dyn Fn(u64) -> Box<dyn LinearMemory + Send> + Sync);

/// A plain buffer as the sender's memory.
#[must_use]
pub fn host_memory(len: u64) -> Box<dyn LinearMemory + Send> {
    Box::new(HostMemory::from(vec![0; len as usize]))
}

/// Writes `bytes` into a region of a memory.
pub fn fill(memory: &mut dyn LinearMemory, offset: u64, bytes: &[u8]) {
    let span = Region::new(offset, bytes.len() as u64)
        .span(memory)
        .expect("the region lies within the memory");
    span.copy_from_slice(bytes);
}

/// Receives one payload and gives its bytes.
///
/// # Errors
/// What [`Transfer::recv`] returned.
pub fn receive(link: &mut dyn Transfer) -> Result<(Vec<u8>, Receipt), TransferError> {
    let mut memory = HostMemory::new();
    let delivery = link.recv(&mut memory, soon())?;
    let bytes = memory.bytes(delivery.region()).expect("within the memory");
    Ok((bytes.to_vec(), delivery.receipt()))
}

/// Sends `bytes` from a plain buffer.
///
/// # Errors
/// What [`Transfer::send`] returned.
pub fn send(
    link: &mut dyn Transfer,
    bytes: &[u8],
    deadline: Deadline,
) -> Result<Receipt, TransferError> {
    let mut memory = HostMemory::from(bytes);
    let region = memory.region();
    link.send(Payload::kept(&mut memory, region)?, deadline)
}

/// How a transport is opened and used, to be held against the contract.
pub struct Conformance<'a, L> {
    /// Opens a link and gives both ends.
    pub open: &'a (dyn Fn() -> (L, L) + Sync),
    /// Makes the sender's memory.
    pub memory: NewMemory<'a>,
    /// Whether payloads are given away.
    pub give: bool,
    /// Where payloads start in the sender's memory.
    pub offset: u64,
}

impl<L: Transfer + Send> Conformance<'_, L> {
    /// Everything below.
    #[must_use]
    pub fn all(&self) -> Vec<Receipt> {
        self.ends_and_limits();
        self.a_payload_outside_the_memory();
        self.one_send_one_receive(&LENGTHS)
    }

    /// Rules 1, 2, 4 and 9: payloads of these lengths arrive as they were sent, in order, although the source, and what
    /// lies around it, is overwritten as soon as `send` returns. Gives the senders' receipts.
    #[must_use]
    pub fn one_send_one_receive(&self, lengths: &[u64]) -> Vec<Receipt> {
        let (mut a, mut b) = (self.open)();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let room = self.offset + longest + 4096;
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(move || {
                let mut memory = (self.memory)(room);
                let mut receipts = Vec::new();
                for (seed, len) in lengths.iter().enumerate() {
                    fill(&mut *memory, self.offset, &pattern(*len, seed as u64));
                    receipts.push(self.send(&mut a, &mut *memory, *len).expect("sent"));
                    fill(&mut *memory, 0, &vec![0xEE; room as usize]);
                }
                a.close(soon()).expect("closed");
                assert!(a.is_open(), "closing is no failure");
                receipts
            });
            for (seed, len) in lengths.iter().enumerate() {
                let (bytes, receipt) = receive(&mut b).expect("received");
                assert!(
                    bytes == pattern(*len, seed as u64),
                    "payload {seed} of {len} bytes arrived changed"
                );
                assert_eq!(receipt.bytes(), *len);
            }
            assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
            assert!(b.is_open(), "the end is no failure");
            sender.join().expect("the sender does not panic")
        });
        for (receipt, len) in sent.iter().zip(lengths) {
            assert_eq!(receipt.bytes(), *len);
        }
        sent
    }

    fn send(
        &self,
        link: &mut L,
        memory: &mut (dyn LinearMemory + Send),
        len: u64,
    ) -> Result<Receipt, TransferError> {
        let region = Region::new(self.offset, len);
        let payload = if self.give {
            Payload::given(memory, region)
        } else {
            Payload::kept(memory, region)
        };
        link.send(payload?, soon())
    }

    /// Rules 5 and 8: waiting ends in time and leaves the link open; an end that was dropped is a peer that went away;
    /// an end that was closed sends no more.
    pub fn ends_and_limits(&self) {
        let (mut a, mut b) = (self.open)();
        let mut memory = HostMemory::new();
        assert!(matches!(
            b.recv(&mut memory, Deadline::now()),
            Err(TransferError::Timeout)
        ));
        assert!(b.is_open());
        send(&mut a, b"before", soon()).expect("sent");
        assert_eq!(receive(&mut b).expect("received").0, b"before");
        a.close(soon()).expect("closed");
        a.close(soon()).expect("closed twice");
        assert!(matches!(
            send(&mut a, b"after", soon()),
            Err(TransferError::Closed)
        ));
        assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
        drop(b);

        let (a, mut b) = (self.open)();
        drop(a);
        assert!(matches!(receive(&mut b), Err(TransferError::PeerClosed)));
        assert!(!b.is_open());
        assert!(matches!(receive(&mut b), Err(TransferError::Broken)));
    }

    /// Rule 7: a region that lies outside its memory never becomes a payload.
    pub fn a_payload_outside_the_memory(&self) {
        let mut memory = (self.memory)(4096);
        let len = memory.len() as u64;
        for region in [
            Region::new(len, 1),
            Region::new(0, len + 1),
            Region::new(u64::MAX, 2),
            Region::new(1, u64::MAX),
        ] {
            assert!(matches!(
                Payload::given(&mut *memory, region),
                Err(TransferError::OutOfBounds { .. })
            ));
        }
    }
}

impl<L> std::fmt::Debug for Conformance<'_, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conformance")
            .field("give", &self.give)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// A sink that holds one payload and counts what was reserved and released.
#[derive(Debug, Default)]
pub struct CountingSink {
    memory: HostMemory,
    /// Calls to `reserve`.
    pub reserved: usize,
    /// Calls to `release`.
    pub released: usize,
}

impl Sink for CountingSink {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        self.reserved += 1;
        self.memory.reserve(len, align)
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.memory
    }

    fn release(&mut self, region: Region) {
        self.released += 1;
        self.memory.release(region);
    }
}

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
