//! A peer that keeps this end busy: with words it does not finish, and with a ring that is never empty.

use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::socket::{sendmsg, ControlMessage, MsgFlags};
use nix::unistd::ftruncate;
use roadrunner_core::frame::{Header, Hello, Kind};
use roadrunner_core::testing::{data_frame, pattern, soon, CountingSink};
use roadrunner_core::{Deadline, HostMemory, Method, Payload, Transfer, TransferError};
use roadrunner_uds::{Link, Options, UnixWire};
use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const PAGE: u64 = 4096;
const LIMIT: u64 = 64 << 20;
/// Where the words of the lane to the other end are.
const TAIL: u64 = 64;
const HEAD: u64 = 128;
/// Those of the lane from it.
const STATE_BACK: u64 = 320 + 128;

/// An end with a ring of lanes of 2^`log` bytes, whose other end is a socket and a file.
fn with_ring(log: u32) -> (Link, UnixStream, File) {
    let descriptor = memfd_create(c"ring", MFdFlags::MFD_ALLOW_SEALING).expect("a memfd");
    ftruncate(&descriptor, (PAGE + (2 << log)) as i64).expect("room");
    let ring = File::from(descriptor);
    ring.write_all_at(b"RRring\0\x01", 0).expect("room");
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&ring, FcntlArg::F_ADD_SEALS(seals)).expect("sealed");
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let descriptors = [ring.as_raw_fd()];
    let sent = sendmsg::<()>(
        theirs.as_raw_fd(),
        &[IoSlice::new(&hello(log))],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    );
    assert_eq!(sent, Ok(hello(log).len()));
    let wire = UnixWire::new(ours, &Options::default().limit(LIMIT)).expect("our own uid");
    let link = Link::accept(wire, LIMIT, soon()).expect("a good ring");
    (link, theirs, ring)
}

fn hello(log: u32) -> Vec<u8> {
    let hello = Hello::new(LIMIT, "by hand").expect("short");
    hello.with_offers(1 | u64::from(log) << 8).encode()
}

fn put(ring: &File, word: u64, value: u64) {
    ring.write_all_at(&value.to_ne_bytes(), word).expect("room");
}

fn word(ring: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    ring.read_exact_at(&mut bytes, at).expect("a word");
    u64::from_ne_bytes(bytes)
}

fn entry(start: u64, bytes: &[u8]) -> Vec<u8> {
    let mut entry = start.to_ne_bytes().to_vec();
    entry.extend((bytes.len() as u32).to_ne_bytes());
    entry.extend(0_u32.to_ne_bytes());
    entry.extend(bytes);
    entry.resize(entry.len().next_multiple_of(64), 0);
    entry
}

/// An event loop asks this before it waits, and does not wait if it is so.
#[test]
fn nothing_is_pending_until_the_rest_has_come() {
    // A gap in the ring, which the socket has to fill.
    let (mut link, mut stream, ring) = with_ring(12);
    let start = hello(12).len() as u64;
    let frames = [data_frame(0, b"one"), data_frame(1, b"other")];
    let other = entry(start + frames[0].len() as u64, &frames[1]);
    ring.write_all_at(&other, PAGE).expect("room");
    put(&ring, TAIL, other.len() as u64);
    let mut memory = HostMemory::new();
    assert!(matches!(link.try_recv(&mut memory), Ok(None)));
    assert!(!link.has_pending(), "an event loop would never sleep");
    stream.write_all(&frames[0]).expect("room");
    for expected in [&b"one"[..], b"other"] {
        let delivery = link.recv(&mut memory, soon()).expect("whole");
        assert_eq!(memory.bytes(delivery.region()), Some(expected));
    }

    // The header of a payload in a segment, and half of what says in which.
    let (mut link, mut stream, _ring) = with_ring(12);
    let header = Header {
        kind: Kind::Data {
            method: Method::Slot,
            copies: 0,
            acknowledge: false,
        },
        sequence: 0,
        length: 5,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend([0; 7]);
    stream.write_all(&bytes).expect("room");
    assert!(matches!(link.try_recv(&mut memory), Ok(None)));
    assert!(!link.has_pending(), "an event loop would never sleep");
    assert!(matches!(link.try_recv(&mut memory), Ok(None)));
    stream.write_all(&[0; 9]).expect("room");
    let error = link.recv(&mut memory, soon()).expect_err("no segment");
    assert!(
        matches!(
            error,
            TransferError::Refused(_) | TransferError::Protocol(_)
        ),
        "{error}"
    );
}

/// Each read finds a byte, and no more than that.
#[test]
fn a_ring_that_is_never_empty_does_not_put_the_deadline_off() {
    const LEN: u64 = 8 << 20;
    const LOG: u32 = 24;
    const STEP: usize = 1024;
    let (mut link, _stream, ring) = with_ring(LOG);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let frame = data_frame(0, &pattern(LEN, 1));
            let mut position = hello(LOG).len() as u64;
            let mut step = entry(0, &[0]).repeat(STEP);
            let mut tail = 0;
            for bytes in frame.chunks(STEP) {
                for (byte, entry) in bytes.iter().zip(step.chunks_exact_mut(64)) {
                    entry[..8].copy_from_slice(&position.to_ne_bytes());
                    entry[16] = *byte;
                    position += 1;
                }
                while tail + step.len() as u64 > word(&ring, HEAD) + (1 << LOG) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
                ring.write_all_at(&step, PAGE + tail % (1 << LOG))
                    .expect("room");
                tail += 64 * bytes.len() as u64;
                put(&ring, TAIL, tail);
            }
        });
        while word(&ring, TAIL) < 1 << LOG {
            thread::yield_now();
        }
        let deadline = Deadline::after(Duration::from_millis(20));
        let received = link.recv(&mut CountingSink::default(), deadline);
        stop.store(true, Ordering::Relaxed);
        assert!(
            matches!(received, Err(TransferError::Timeout)),
            "{received:?}"
        );
    });
}

/// Half a frame that only the ring can take the rest of would be waited for at the socket, which has room all the while.
#[test]
fn a_small_frame_goes_through_the_ring_whole_or_not_at_all() {
    let (mut link, _stream, ring) = with_ring(12);
    // Awake, and never takes anything out. The second one fits if it is one entry.
    put(&ring, STATE_BACK, 1);
    for len in [4, 4096 - 64 - 16 - 24] {
        let mut memory = HostMemory::from(pattern(len, 1));
        let region = memory.region();
        let payload = Payload::kept(&mut memory, region).expect("inside");
        let sent = link.try_send(payload).expect("room");
        assert!(sent.is_some(), "it is partly in the ring");
    }
}
