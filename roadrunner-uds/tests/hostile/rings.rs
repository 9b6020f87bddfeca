//! Rings that are none, and garbage in those that are.

use super::segments::{Frame, GOOD};
use super::{descriptors, memfd, pass, LIMIT, PAGE, SEALS};
use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::MFdFlags;
use roadrunner_core::frame::Hello;
use roadrunner_core::testing::{data_frame, soon, CountingSink};
use roadrunner_core::{Deadline, Transfer, TransferError};
use roadrunner_uds::{Link, Options, UnixWire};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Bits of a hello: a ring is passed, with lanes of 4 KiB.
const RING: u64 = 1 | 12 << 8;
/// Bytes of its memory.
const RING_LEN: u64 = 3 * PAGE;
/// Its first word.
const MAGIC: &[u8; 8] = b"RRring\0\x01";
/// Where the words of the lane to the other end are: its tail, the wakes through its socket, its head and its state.
const TAIL: u64 = 64;
const WAKES: u64 = 72;
const HEAD_BACK: u64 = 320 + 64;

fn ring(len: u64, first: &[u8], seals: SealFlag) -> OwnedFd {
    let descriptor = memfd(len, MFdFlags::MFD_ALLOW_SEALING, None);
    let file = File::from(descriptor);
    if len > 0 {
        file.write_all_at(first, 0).expect("room");
    }
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("sealed");
    file.into()
}

fn hello(offers: u64) -> Vec<u8> {
    let hello = Hello::new(LIMIT, "by hand").expect("short");
    hello.with_offers(offers).encode()
}

/// Accepts a peer that says this, with these descriptors.
fn met(offers: u64, descriptors: &[RawFd]) -> (Result<Link, TransferError>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    pass(&theirs, &hello(offers), descriptors);
    let wire = UnixWire::new(ours, &Options::default().limit(LIMIT)).expect("our own uid");
    (Link::accept(wire, LIMIT, soon()), theirs)
}

pub(super) fn at_the_opening() {
    let before = descriptors();
    let good = ring(RING_LEN, MAGIC, SEALS);
    let (link, theirs) = met(RING, &[good.as_raw_fd()]);
    link.expect("a good ring");
    drop(theirs);
    // What it does not know it does not take up.
    let (link, theirs) = met(0xFFFF_0000_0000_0000, &[]);
    link.expect("no ring");
    drop(theirs);

    let file = tempfile::tempfile().expect("a file");
    file.set_len(RING_LEN).expect("room");
    let unwritable = SEALS | SealFlag::F_SEAL_FUTURE_WRITE;
    let cases: Vec<(&str, u64, OwnedFd)> = vec![
        ("a file", RING, file.into()),
        (
            "a device",
            RING,
            File::open("/dev/null").expect("there").into(),
        ),
        (
            "one that may shrink",
            RING,
            ring(RING_LEN, MAGIC, SealFlag::F_SEAL_GROW),
        ),
        (
            "one that may grow",
            RING,
            ring(RING_LEN, MAGIC, SealFlag::F_SEAL_SHRINK),
        ),
        (
            "one without seals",
            RING,
            ring(RING_LEN, MAGIC, SealFlag::empty()),
        ),
        ("an empty one", RING, ring(0, MAGIC, SEALS)),
        ("a short one", RING, ring(RING_LEN - PAGE, MAGIC, SEALS)),
        ("a long one", RING, ring(RING_LEN + PAGE, MAGIC, SEALS)),
        (
            "one of another size than is said",
            1 | 13 << 8,
            ring(RING_LEN, MAGIC, SEALS),
        ),
        (
            "one of lanes without a page",
            1 | 11 << 8,
            ring(2 * PAGE, MAGIC, SEALS),
        ),
        (
            "one without end",
            1 | 0xFF << 8,
            ring(RING_LEN, MAGIC, SEALS),
        ),
        ("zeros", RING, ring(RING_LEN, &[0; 8], SEALS)),
        (
            "another version",
            RING,
            ring(RING_LEN, b"RRring\0\x02", SEALS),
        ),
        (
            "one that nobody can write to",
            RING,
            ring(RING_LEN, MAGIC, unwritable),
        ),
        ("one that is not announced", 0, ring(RING_LEN, MAGIC, SEALS)),
    ];
    for (name, offers, descriptor) in cases {
        let (link, theirs) = met(offers, &[descriptor.as_raw_fd()]);
        let error = link.expect_err(name);
        assert!(
            matches!(
                error,
                TransferError::Protocol(_) | TransferError::Refused(_)
            ),
            "{name}: {error}"
        );
        drop(theirs);
    }
    let fd = good.as_raw_fd();
    for (name, fds) in [
        ("none", vec![]),
        ("two", vec![fd; 2]),
        ("five", vec![fd; 5]),
    ] {
        let (link, _theirs) = met(RING, &fds);
        let error = link.expect_err(name);
        assert!(
            matches!(error, TransferError::Protocol(_)),
            "{name}: {error}"
        );
    }

    // Who answers has nothing to pass, and nothing to say about another ring than the one it got.
    for (name, offers, fds) in [
        ("a ring back", RING, vec![fd]),
        ("another size", 1 | 13 << 8, vec![]),
        ("a descriptor for no ring", 0, vec![fd]),
    ] {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        let options = Options::default().ring(4096);
        let wire = UnixWire::new(ours, &options).expect("our own uid");
        pass(&theirs, &hello(offers), &fds);
        let error = Link::connect(wire, "ours", LIMIT, soon()).expect_err(name);
        assert!(
            matches!(error, TransferError::Protocol(_)),
            "{name}: {error}"
        );
        let mut first = [0; 4];
        theirs.read_exact(&mut first).expect("a hello");
    }
    drop(good);
    assert_eq!(descriptors(), before, "descriptors stay");
}

/// An end with a ring whose other end is a file.
fn with_ring() -> (Link, UnixStream, File) {
    let ring = ring(RING_LEN, MAGIC, SEALS);
    let (link, stream) = met(RING, &[ring.as_raw_fd()]);
    (link.expect("a good ring"), stream, ring.into())
}

fn entry(start: u64, len: u32, wakes: u32, bytes: &[u8]) -> Vec<u8> {
    let mut entry = start.to_ne_bytes().to_vec();
    entry.extend(len.to_ne_bytes());
    entry.extend(wakes.to_ne_bytes());
    entry.extend(bytes);
    entry
}

pub(super) fn garbage() {
    let before = descriptors();
    // Behind the hello.
    let start = hello(RING).len() as u64;
    let frame = data_frame(0, b"through the ring");
    let len = frame.len() as u32;
    let good = entry(start, len, 0, &frame);

    // What is right arrives.
    let (mut link, stream, ring) = with_ring();
    ring.write_all_at(&good, PAGE).expect("room");
    ring.write_all_at(&128_u64.to_ne_bytes(), TAIL)
        .expect("room");
    let mut memory = roadrunner_core::HostMemory::new();
    let delivery = link.recv(&mut memory, soon()).expect("a good frame");
    assert_eq!(
        memory.bytes(delivery.region()),
        Some(&b"through the ring"[..])
    );
    for len in [0, PAGE, 4 * PAGE] {
        assert!(ring.set_len(len).is_err(), "it can be cut to {len}");
    }
    drop((link, stream, ring));

    type Words<'a> = &'a [(u64, u64)];
    let cases: [(&str, Vec<u8>, Words<'_>); 11] = [
        ("a tail beyond the lane", good.clone(), &[(TAIL, 4096 + 64)]),
        ("a tail without end", good.clone(), &[(TAIL, u64::MAX)]),
        ("a tail in mid-line", good.clone(), &[(TAIL, 65)]),
        (
            "an entry longer than what is there",
            entry(start, 4096, 0, &frame),
            &[(TAIL, 128)],
        ),
        (
            "an entry longer than the lane",
            entry(start, u32::MAX, 0, &frame),
            &[(TAIL, 4096)],
        ),
        (
            "an entry of nothing",
            entry(start, 0, 0, &[]),
            &[(TAIL, 64)],
        ),
        (
            "an entry of what has been",
            entry(start - 1, len, 0, &frame),
            &[(TAIL, 128)],
        ),
        (
            "wakes that did not come",
            entry(start + 1, len, 1 << 20, &frame),
            &[(TAIL, 128)],
        ),
        ("wakes without end", vec![], &[(WAKES, u64::MAX)]),
        (
            "a frame that is none",
            entry(start, 100, 0, &[0xEE; 100]),
            &[(TAIL, 128)],
        ),
        (
            "a frame with a segment that was not passed",
            {
                let frame = Frame { passed: 0, ..GOOD }.bytes();
                entry(start, frame.len() as u32, 0, &frame)
            },
            &[(TAIL, 64)],
        ),
    ];
    for (name, bytes, words) in cases {
        let (mut link, stream, ring) = with_ring();
        ring.write_all_at(&bytes, PAGE).expect("room");
        for (at, value) in words {
            ring.write_all_at(&value.to_ne_bytes(), *at).expect("room");
        }
        let mut sink = CountingSink::default();
        let error = link.recv(&mut sink, soon()).expect_err(name);
        assert!(
            matches!(
                error,
                TransferError::Protocol(_) | TransferError::Refused(_)
            ),
            "{name}: {error}"
        );
        assert!(!link.is_open(), "{name}");
        assert_eq!(sink.reserved, sink.released, "{name}");
        drop((link, stream, ring));
    }

    // A head that was never there, said to a sender.
    let (mut link, stream, ring) = with_ring();
    ring.write_all_at(&1_u64.to_ne_bytes(), HEAD_BACK + 64)
        .expect("room");
    let mut error = None;
    for round in 0..200 {
        if round == 20 {
            ring.write_all_at(&u64::MAX.to_ne_bytes(), HEAD_BACK)
                .expect("room");
        }
        if let Err(other) = roadrunner_core::testing::send(&mut link, &[1; 500], soon()) {
            error = Some(other);
            break;
        }
    }
    let error = error.expect("it believes that it has room without end");
    assert!(matches!(error, TransferError::Protocol(_)), "{error}");
    drop((link, stream, ring));

    while_running();
    assert_eq!(descriptors(), before, "descriptors stay");
}

/// Words and bytes change while this end reads and writes.
fn while_running() {
    for seed in 0..20_u64 {
        let (mut link, stream, ring) = with_ring();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                while !stop.load(Ordering::Relaxed) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    // Mostly words of the lanes, mostly small.
                    let at = if random % 4 > 0 {
                        64 + random % 64 * 8
                    } else {
                        random % (RING_LEN - 8)
                    };
                    let value = match random % 3 {
                        0 => random,
                        1 => random >> 8 & 0xFC0,
                        _ => random >> 8 & 0xFFF,
                    };
                    ring.write_all_at(&value.to_ne_bytes(), at).expect("room");
                }
            });
            let began = Instant::now();
            while link.is_open() && began.elapsed() < Duration::from_millis(50) {
                let before = Instant::now();
                let deadline = Deadline::after(Duration::from_millis(5));
                let _ = link.recv(&mut CountingSink::default(), deadline);
                let deadline = Deadline::after(Duration::from_millis(5));
                let _ = roadrunner_core::testing::send(&mut link, &[1; 500], deadline);
                assert!(before.elapsed() < Duration::from_secs(5), "it hangs");
            }
            stop.store(true, Ordering::Relaxed);
        });
        drop((link, stream, ring));
    }
}
