//! A peer that sends every malformed frame and descriptor that it can think of. The only test of this file, because it
//! counts the process's descriptors.

use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::socket::{sendmsg, ControlMessage, MsgFlags};
use nix::unistd::{ftruncate, pipe};
use roadrunner_core::frame::{Header, Hello, Kind};
use roadrunner_core::testing::{data_frame, pattern, say_hello, skipped, soon, CountingSink};
use roadrunner_core::{Deadline, Method, Transfer, TransferError};
use roadrunner_mem::{PageBuffer, Segment, Slots};
use roadrunner_uds::{Link, Options, UnixWire};
use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;
const LIMIT: u64 = 1 << 20;
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// An end whose peer is a plain socket.
fn by_hand() -> (Link, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let wire = UnixWire::new(ours, &Options::default().limit(LIMIT)).expect("our own uid");
    let link = thread::scope(|scope| {
        let hand = scope.spawn(|| say_hello(&mut theirs, "by hand").expect("hello"));
        let link = Link::accept(wire, LIMIT, soon()).expect("hello");
        hand.join().expect("no panic");
        link
    });
    (link, theirs)
}

/// A frame about a segment, as far as its bytes go.
#[derive(Debug, Clone, Copy)]
struct Frame {
    method: Method,
    sequence: u64,
    len: u64,
    number: u32,
    passed: u32,
    segment: u64,
}

/// One that is right.
const GOOD: Frame = Frame {
    method: Method::Map,
    sequence: 0,
    len: 5000,
    number: 0,
    passed: 1,
    segment: 2 * PAGE,
};

impl Frame {
    fn bytes(self) -> Vec<u8> {
        let header = Header {
            kind: Kind::Data {
                method: self.method,
                copies: 1,
                acknowledge: false,
            },
            sequence: self.sequence,
            length: self.len,
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.passed.to_le_bytes());
        bytes.extend(self.segment.to_le_bytes());
        bytes
    }
}

fn word(kind: Kind, sequence: u64) -> Vec<u8> {
    let header = Header {
        kind,
        sequence,
        length: 0,
    };
    header.encode().to_vec()
}

/// Sends bytes, and descriptors with the first of them.
fn pass(stream: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let with: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(bytes)],
        with,
        MsgFlags::empty(),
        None,
    );
    assert_eq!(sent, Ok(bytes.len()));
}

fn memfd(len: u64, flags: MFdFlags, seals: Option<SealFlag>) -> OwnedFd {
    let descriptor = memfd_create(c"hostile", flags).expect("a memfd");
    ftruncate(&descriptor, len as i64).expect("room");
    if let Some(seals) = seals {
        fcntl(&descriptor, FcntlArg::F_ADD_SEALS(seals)).expect("sealed");
    }
    descriptor
}

fn sealed(len: u64) -> OwnedFd {
    memfd(len, MFdFlags::MFD_ALLOW_SEALING, Some(SEALS))
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// Receives once, with slots and without, from a peer that does `what`; gives the error.
fn refused(name: &str, what: &dyn Fn(&mut UnixStream)) -> TransferError {
    let mut errors = Vec::new();
    for with_slots in [false, true] {
        let before = descriptors();
        let (mut link, mut stream) = by_hand();
        what(&mut stream);
        let (mut sink, mut received) = (CountingSink::default(), 0);
        let error = if with_slots {
            let mut memory = PageBuffer::new(4 << 20).expect("memory");
            let mut slots = Slots::default();
            // The first one may be good.
            loop {
                match link.recv_with(&mut slots, &mut memory, soon()) {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            }
        } else {
            loop {
                match link.recv(&mut sink, soon()) {
                    Ok(_) => received += 1,
                    Err(error) => break error,
                }
            }
        };
        assert!(!link.is_open(), "{name}: the link goes on");
        assert_eq!(sink.reserved, received + sink.released, "{name}");
        drop((link, stream));
        assert_eq!(descriptors(), before, "{name}: descriptors stay");
        errors.push(error);
    }
    errors.remove(0)
}

#[test]
fn whatever_a_peer_passes_is_looked_at_first() {
    let good = sealed(GOOD.segment);
    File::from(good.try_clone().expect("a descriptor"))
        .write_all(&pattern(GOOD.segment, 1))
        .expect("room");

    // What is right arrives, so that what follows is refused for what is wrong with it.
    let (mut link, stream) = by_hand();
    let again = Frame {
        sequence: 1,
        passed: 0,
        ..GOOD
    };
    pass(&stream, &GOOD.bytes(), &[good.as_raw_fd()]);
    pass(&stream, &again.bytes(), &[]);
    for _ in 0..2 {
        let mut memory = roadrunner_core::HostMemory::new();
        let delivery = link.recv(&mut memory, soon()).expect("a good frame");
        let bytes = memory.bytes(delivery.region()).expect("inside");
        assert!(bytes == &pattern(GOOD.segment, 1)[..5000]);
    }
    drop((link, stream));

    let directory = tempfile::tempdir().expect("a directory");
    let file = tempfile::tempfile().expect("a file");
    file.set_len(GOOD.segment).expect("room");
    let (reading, _writing) = pipe().expect("a pipe");
    let (socket, _other) = UnixStream::pair().expect("sockets");
    let unsealed = memfd(GOOD.segment, MFdFlags::MFD_ALLOW_SEALING, None);
    let unsealable = memfd(GOOD.segment, MFdFlags::empty(), None);
    let half = memfd(
        GOOD.segment,
        MFdFlags::MFD_ALLOW_SEALING,
        Some(SealFlag::F_SEAL_GROW),
    );
    let other_half = memfd(
        GOOD.segment,
        MFdFlags::MFD_ALLOW_SEALING,
        Some(SealFlag::F_SEAL_SHRINK),
    );
    let mut wrong: Vec<(&str, OwnedFd)> = vec![
        ("a device", File::open("/dev/null").expect("there").into()),
        (
            "a directory",
            File::open(directory.path()).expect("there").into(),
        ),
        ("a file", file.into()),
        ("the end of a pipe", reading),
        ("a socket", socket.into()),
        ("a memfd that may shrink and grow", unsealed),
        ("a memfd without seals", unsealable),
        ("a memfd that may shrink", half),
        ("a memfd that may grow", other_half),
        ("an empty memfd", sealed(0)),
        ("a short memfd", sealed(PAGE)),
        ("a long memfd", sealed(3 * PAGE)),
        ("a memfd of a page and a half", sealed(PAGE + PAGE / 2)),
    ];
    let large = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    match memfd_create(c"hostile", large) {
        Ok(descriptor) => wrong.push(("a memfd whose pages may be missing", descriptor)),
        Err(error) => skipped("map", &format!("a memfd of large pages: {error}")),
    }
    for (name, descriptor) in &wrong {
        let error = refused(name, &|stream| {
            pass(stream, &GOOD.bytes(), &[descriptor.as_raw_fd()]);
        });
        assert!(
            matches!(error, TransferError::Refused(_)),
            "{name}: {error}"
        );
    }

    let fd = good.as_raw_fd();
    let long = sealed(LIMIT + PAGE);
    let lies = [
        ("no descriptor", GOOD, vec![]),
        ("two descriptors", GOOD, vec![fd; 2]),
        ("five descriptors, which are cut", GOOD, vec![fd; 5]),
        ("as many descriptors as go at once", GOOD, vec![fd; 253]),
        (
            "a descriptor that is not announced",
            Frame { passed: 0, ..GOOD },
            vec![fd],
        ),
        (
            "a segment that was not passed",
            Frame { passed: 0, ..GOOD },
            vec![],
        ),
        ("an unknown flag", Frame { passed: 5, ..GOOD }, vec![fd]),
        (
            "a slot that stays mapped, on a strict link",
            Frame { passed: 3, ..GOOD },
            vec![fd],
        ),
        (
            "the same without a descriptor",
            Frame { passed: 2, ..GOOD },
            vec![],
        ),
        (
            "all flags",
            Frame {
                passed: u32::MAX,
                ..GOOD
            },
            vec![fd],
        ),
        ("a number too high", Frame { number: 64, ..GOOD }, vec![fd]),
        (
            "the highest number",
            Frame {
                number: u32::MAX,
                ..GOOD
            },
            vec![fd],
        ),
        (
            "a segment of no length",
            Frame { segment: 0, ..GOOD },
            vec![fd],
        ),
        (
            "a segment of part of a page",
            Frame {
                segment: 5000,
                ..GOOD
            },
            vec![fd],
        ),
        (
            "a segment without end",
            Frame {
                segment: u64::MAX,
                ..GOOD
            },
            vec![fd],
        ),
        (
            "a segment beyond the limit",
            Frame {
                segment: LIMIT + PAGE,
                ..GOOD
            },
            vec![fd],
        ),
        (
            "a segment that takes more of the receiver's memory than any payload may",
            Frame {
                segment: LIMIT + PAGE,
                ..GOOD
            },
            vec![long.as_raw_fd()],
        ),
        (
            "a payload longer than its segment",
            Frame {
                len: 2 * PAGE + 1,
                ..GOOD
            },
            vec![fd],
        ),
        (
            "a payload beyond the limit",
            Frame {
                len: LIMIT + 1,
                ..GOOD
            },
            vec![fd],
        ),
        (
            "a payload out of order",
            Frame {
                sequence: 1,
                ..GOOD
            },
            vec![fd],
        ),
        (
            "a descriptor with a payload that is written",
            Frame {
                method: Method::Write,
                ..GOOD
            },
            vec![fd],
        ),
    ];
    for (name, frame, descriptors) in lies {
        let error = refused(name, &|stream| pass(stream, &frame.bytes(), &descriptors));
        assert!(
            matches!(
                error,
                TransferError::Protocol(_)
                    | TransferError::Refused(_)
                    | TransferError::TooLarge { .. }
            ),
            "{name}: {error}"
        );
    }

    type Act<'a> = &'a dyn Fn(&mut UnixStream);
    let after_a_good_one: [(&str, Act<'_>); 8] = [
        ("another length for a segment", &|stream| {
            let frame = Frame {
                sequence: 1,
                passed: 0,
                len: 1,
                segment: PAGE,
                ..GOOD
            };
            pass(stream, &frame.bytes(), &[]);
        }),
        ("a retired segment", &|stream| {
            pass(stream, &word(Kind::Retirement, 0), &[]);
            let frame = Frame {
                sequence: 1,
                passed: 0,
                ..GOOD
            };
            pass(stream, &frame.bytes(), &[]);
        }),
        ("a retirement of what was not passed", &|stream| {
            pass(stream, &word(Kind::Retirement, 1), &[]);
        }),
        ("a retirement without sense", &|stream| {
            pass(stream, &word(Kind::Retirement, u64::MAX), &[]);
        }),
        ("two retirements", &|stream| {
            pass(stream, &word(Kind::Retirement, 0), &[]);
            pass(stream, &word(Kind::Retirement, 0), &[]);
        }),
        ("a release of what was not sent", &|stream| {
            pass(stream, &word(Kind::Release, 0), &[]);
        }),
        ("a descriptor with a word that needs none", &|stream| {
            pass(stream, &word(Kind::Retirement, 0), &[fd]);
            let frame = Frame {
                sequence: 1,
                ..GOOD
            };
            pass(stream, &frame.bytes(), &[fd]);
        }),
        ("descriptors in the middle of a payload", &|stream| {
            let frame = data_frame(1, &pattern(1000, 1));
            pass(stream, &frame[..500], &[]);
            pass(stream, &frame[500..800], &[fd]);
            pass(stream, &frame[800..], &[fd]);
        }),
    ];
    for (name, what) in after_a_good_one {
        let error = refused(name, &|stream| {
            pass(stream, &GOOD.bytes(), &[fd]);
            what(stream);
        });
        assert!(
            matches!(error, TransferError::Protocol(_)),
            "{name}: {error}"
        );
    }

    // It dies at any byte.
    let frame = GOOD.bytes();
    for life in 1..frame.len() {
        let error = refused("death", &|stream| {
            pass(stream, &frame[..life], &[fd]);
            stream.shutdown(std::net::Shutdown::Both).expect("open");
        });
        assert!(
            matches!(error, TransferError::Truncated { .. }),
            "died after {life} bytes: {error}"
        );
    }

    // What was sealed too late, or lies about what is in it, is no worse than a short payload would be.
    let (mut link, stream) = by_hand();
    let hole = sealed(GOOD.segment);
    pass(&stream, &GOOD.bytes(), &[hole.as_raw_fd()]);
    let mut sink = CountingSink::default();
    link.recv(&mut sink, soon()).expect("zeros");
    drop((link, stream));

    without_room_for_a_descriptor(&good);
    rings_at_the_opening();
    garbage_in_a_ring();
}

/// The kernel cuts the message.
fn without_room_for_a_descriptor(good: &OwnedFd) {
    let (mut link, stream) = by_hand();
    pass(&stream, &GOOD.bytes(), &[good.as_raw_fd()]);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("lower");
    let received = link.recv(&mut CountingSink::default(), soon());
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as it was");
    let error = received.expect_err("no descriptor came");
    assert!(matches!(error, TransferError::Protocol(_)), "{error}");
    assert!(!link.is_open());
    let _ = Segment::new(1).expect("descriptors again").as_fd();
}

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

fn rings_at_the_opening() {
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

fn garbage_in_a_ring() {
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
                    let value = if random % 3 > 0 {
                        random >> 8 & 0xFC0
                    } else {
                        random
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
