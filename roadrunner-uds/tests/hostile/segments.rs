//! Descriptors that are no segments, and frames that lie about them.

use super::{by_hand, descriptors, memfd, pass, sealed, LIMIT, PAGE};
use nix::fcntl::SealFlag;
use nix::libc;
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::pipe;
use roadrunner_core::frame::{Header, Kind};
use roadrunner_core::testing::{data_frame, pattern, skipped, soon, CountingSink};
use roadrunner_core::{Deadline, Method, Transfer, TransferError};
use roadrunner_mem::{PageBuffer, Segment, Slots};
use roadrunner_uds::{Address, Listener, Options};
use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Instant;

/// A frame about a segment, as far as its bytes go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) method: Method,
    pub(super) sequence: u64,
    pub(super) len: u64,
    pub(super) number: u32,
    pub(super) passed: u32,
    pub(super) segment: u64,
}

/// One that is right.
pub(super) const GOOD: Frame = Frame {
    method: Method::Map,
    sequence: 0,
    len: 5000,
    number: 0,
    passed: 1,
    segment: 2 * PAGE,
};

impl Frame {
    pub(super) fn bytes(self) -> Vec<u8> {
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

pub(super) fn everything() {
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
    sockets_that_linger();
}

/// The kernel cuts the message.
fn without_room_for_a_descriptor(good: &OwnedFd) {
    // One that is needed, and one that would be refused if it had come.
    for bytes in [GOOD.bytes(), data_frame(0, b"no segment")] {
        let (mut link, stream) = by_hand();
        pass(&stream, &bytes, &[good.as_raw_fd()]);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("lower");
        let received = link.recv(&mut CountingSink::default(), soon());
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as it was");
        let error = received.expect_err("no descriptor came");
        assert!(matches!(error, TransferError::Protocol(_)), "{error}");
        assert!(!link.is_open());
        let _ = Segment::new(1).expect("descriptors again").as_fd();
    }
}

/// Seconds that a socket lingers.
const LONG: libc::c_int = 20;

/// Whoever closes the last descriptor of one waits, for as long as the peer wants, until what was written to it is read: by
/// nobody here. The other end is the second one.
fn lingers() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut socket = TcpStream::connect(address).expect("it listens");
    socket.set_nonblocking(true).expect("a socket");
    while socket.write(&[0; 1 << 16]).is_ok() {}
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: LONG,
    };
    setsockopt(&socket, sockopt::Linger, &linger).expect("a socket");
    (socket, listener.accept().expect("connected").0)
}

fn sockets_that_linger() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let began = Instant::now();
    for bytes in [GOOD.bytes(), data_frame(0, b"no segment")] {
        let (mut link, stream) = by_hand();
        let (one, _one) = lingers();
        pass(&stream, &bytes, &[one.as_raw_fd()]);
        drop(one);
        let refused = link.recv(&mut CountingSink::default(), soon());
        refused.expect_err("it is no segment");
        // One that nobody has asked for goes with the link.
        let (mut link, stream) = by_hand();
        let (two, _two) = lingers();
        pass(&stream, &bytes[..1], &[two.as_raw_fd()]);
        drop(two);
        let begun = link.recv(&mut CountingSink::default(), Deadline::now());
        begun.expect_err("there is no more of it");
        drop((link, stream));
        // One behind others that are more than anybody needs.
        let (mut link, stream) = by_hand();
        let (three, _three) = lingers();
        let listening = listener.as_raw_fd();
        let mut many = vec![listening; 252];
        many.push(three.as_raw_fd());
        pass(&stream, &bytes, &many);
        drop(three);
        let refused = link.recv(&mut CountingSink::default(), soon());
        refused.expect_err("it is no segment");
        // Some that nobody has read.
        let (link, stream) = by_hand();
        let (four, _four) = lingers();
        pass(&stream, &bytes, &[four.as_raw_fd()]);
        pass(&stream, &bytes, &[listening, four.as_raw_fd()]);
        drop(four);
        drop((link, stream));
    }
    // Of strangers who are let in no further, or who are not even at the door yet.
    for is_in in [true, false] {
        let name = format!("roadrunner-hostile-{}-{is_in}", std::process::id());
        let address = Address::abstract_name(name.clone()).expect("short");
        let mut door = Listener::bind(address, Options::default()).expect("bound");
        let address = SocketAddr::from_abstract_name(name).expect("short");
        let stream = UnixStream::connect_addr(&address).expect("it listens");
        let (five, _five) = lingers();
        pass(&stream, &[0xFF; 100], &[]);
        pass(&stream, b"?", &[five.as_raw_fd()]);
        drop(five);
        if is_in {
            door.try_accept().expect_err("it says no hello");
        }
        drop((door, stream));
    }
    let waited = began.elapsed();
    assert!(waited.as_secs() < LONG as u64 / 2, "it waited {waited:?}");
}

/// What is passed has something in it that nobody here can look at, and that goes with it. From then on nobody waits until
/// what is passed is closed: nothing that counts descriptors comes after this.
pub(super) fn sockets_that_linger_in_others() {
    let before = descriptors();
    let began = Instant::now();
    let mut others = Vec::new();
    for is_read in [true, false] {
        let (mut link, stream) = by_hand();
        let (outer, within) = UnixStream::pair().expect("sockets");
        let (inner, other) = lingers();
        pass(&within, b"?", &[inner.as_raw_fd()]);
        pass(&stream, &GOOD.bytes(), &[outer.as_raw_fd()]);
        drop((inner, outer, within));
        if is_read {
            let refused = link.recv(&mut CountingSink::default(), soon());
            let refused = refused.expect_err("it is no segment");
            assert!(matches!(refused, TransferError::Refused(_)), "{refused}");
        }
        drop((link, stream));
        others.push(other);
    }
    let waited = began.elapsed();
    assert!(waited.as_secs() < LONG as u64 / 2, "it waited {waited:?}");
    // What comes behind those does not pile up.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (link, stream) = by_hand();
    for _ in 0..3 {
        pass(&stream, b"?", &[listener.as_raw_fd(); 253]);
    }
    drop((link, stream, listener));
    let held = descriptors() - before;
    assert!(held < 2 * 253 + 20, "{held} descriptors");
    // Nobody has to read any more.
    drop(others);
    let end = soon();
    while descriptors() > before {
        assert!(!end.has_passed(), "they are not closed");
        std::thread::yield_now();
    }
}
