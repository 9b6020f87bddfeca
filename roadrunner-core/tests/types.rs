//! What the small types of the crate say of themselves.

use roadrunner_core::frame::{Checksums, FrameError, Header, Hello, Kind, HEADER_LEN, MAX_NAME};
use roadrunner_core::memory::preferred_alignment;
use roadrunner_core::{
    Backing, Deadline, HostMemory, LinearMemory, Method, Payload, Region, Sink, Span, TransferError,
};
use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

#[test]
fn a_deadline_passes_once() {
    assert!(!Deadline::after(Duration::from_secs(3600)).has_passed());
    assert!(Deadline::at(Instant::now()).has_passed());
}

#[test]
fn a_region_says_where_it_is() {
    let region = Region::new(0x10, 3);
    assert_eq!(
        (region.offset(), region.len(), region.end()),
        (16, 3, Some(19))
    );
    assert!(!region.is_empty());
    assert!(Region::new(7, 0).is_empty());
    assert_eq!(region.to_string(), "0x10 + 3 bytes");
    assert_eq!(Region::new(u64::MAX, 1).end(), None);
}

#[test]
fn a_span_is_empty_or_not() {
    assert!(Span::empty().is_empty() && Span::from_slice(&mut []).is_empty());
    let mut bytes = [0; 2];
    let span = Span::from_slice(&mut bytes);
    assert!(!span.is_empty());
    let (head, tail) = span.split_at(2);
    assert!(!head.is_empty() && tail.is_empty());
}

#[test]
fn a_payload_says_what_it_is() {
    let mut memory = HostMemory::from([1, 2, 3, 4]);
    let region = Region::new(1, 2);
    let kept = Payload::kept(&mut memory, region).expect("inside");
    assert!(!kept.is_given() && !kept.is_empty());
    assert_eq!((kept.region(), kept.len()), (region, 2));
    let shown = format!("{kept:?}");
    assert!(
        shown.contains("region") && shown.contains("given: false"),
        "{shown}"
    );
    assert!(Payload::given(&mut memory, region)
        .expect("inside")
        .is_given());
    assert!(Payload::kept(&mut memory, Region::new(4, 0))
        .expect("at the end")
        .is_empty());
}

#[test]
fn a_host_memory_holds_what_fits_its_limit() {
    let mut memory = HostMemory::with_limit(4);
    assert!(memory.is_empty());
    for (len, fits) in [(3, true), (4, true), (5, false), (u64::MAX, false)] {
        match memory.reserve(len, 1) {
            Ok(region) => assert!(fits && region == Region::new(0, len), "{len}"),
            Err(TransferError::NoRoom { len: told, .. }) => assert!(!fits && told == len),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(!memory.is_empty());
    memory.as_mut_slice().copy_from_slice(b"abcd");
    assert_eq!(memory.as_slice(), b"abcd");
    assert_eq!(memory.bytes(Region::new(1, 2)), Some(&b"bc"[..]));
    assert_eq!(memory.bytes(Region::new(3, 2)), None);
    assert_eq!(memory.region(), Region::new(0, 4));
    assert_eq!(memory.backing(), Backing::Opaque);
    assert_eq!(memory.backing_of(Region::new(0, 1)), Backing::Opaque);
}

#[test]
fn large_buffers_are_aligned_to_page_tables() {
    let expected = [
        (0, 16),
        ((1 << 20) - 1, 16),
        (1 << 20, 2 << 20),
        (u64::MAX, 2 << 20),
    ];
    for (len, align) in expected {
        assert_eq!(preferred_alignment(len), align, "{len}");
    }
}

#[test]
fn methods_have_names_of_their_own() {
    let names = [
        "inline",
        "copy",
        "exchange",
        "map",
        "slot",
        "splice",
        "write",
        "zero-copy-send",
    ];
    assert_eq!(Method::ALL.map(Method::name), names);
    assert_eq!(format!("[{:>6}]", Method::Copy), "[  copy]");
    for method in Method::ALL {
        assert_eq!(Method::from_code(method.code()), Some(method));
    }
    assert_eq!(Method::from_code(0), None);
    assert_eq!(Method::from_code(9), None);
}

#[test]
fn a_hello_names_the_link_and_is_never_longer_than_it_may_be() {
    let hello = Hello::new(77, "decode to resize").expect("short");
    assert_eq!((hello.limit(), hello.name()), (77, "decode to resize"));
    let longest = "n".repeat(MAX_NAME);
    let longest = Hello::new(1, &longest).expect("just short enough").encode();
    let header = |length| Header {
        kind: Kind::Hello,
        sequence: 0,
        length,
    };
    let most = (longest.len() - HEADER_LEN) as u64;
    assert_eq!(Hello::body_len(&header(most)), Ok(most as usize));
    for length in [0, 7, most + 1, u64::MAX] {
        assert_eq!(
            Hello::body_len(&header(length)),
            Err(FrameError::Field("length"))
        );
    }
    assert_eq!(
        Hello::new(1, &"n".repeat(MAX_NAME + 1)),
        Err(FrameError::Name)
    );
}

#[test]
fn frame_errors_say_what_is_wrong() {
    for (error, words) in [
        (FrameError::NotAFrame, "do not start a frame"),
        (FrameError::Version(9), "version 9"),
        (FrameError::Kind(200), "kind 200"),
        (FrameError::Field("length"), "bad length"),
        (FrameError::Name, "not UTF-8"),
        (FrameError::Unexpected("a second hello"), "a second hello"),
    ] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn transfer_errors_say_what_happened_and_to_what() {
    let source = || io::Error::other("the disk is made of cheese");
    let errors = [
        (TransferError::Timeout, "deadline"),
        (TransferError::Closed, "finished"),
        (TransferError::PeerClosed, "went away"),
        (
            TransferError::Truncated {
                got: 3,
                expected: 9,
            },
            "3 of 9",
        ),
        (TransferError::Broken, "open another"),
        (
            TransferError::TooLarge { len: 8, limit: 7 },
            "8 bytes is more than the 7",
        ),
        (
            TransferError::OutOfBounds {
                region: Region::new(1, 2),
                memory: 2,
            },
            "0x1 + 2 bytes lies outside its linear memory of 2",
        ),
        (
            TransferError::NoRoom {
                len: 5,
                reason: "full".to_owned(),
            },
            "5 bytes: full",
        ),
        (TransferError::Sink(Box::new(source())), "cheese"),
        (FrameError::Kind(77).into(), "kind 77"),
        (TransferError::Refused("not you".to_owned()), "not you"),
        (
            TransferError::Io {
                doing: "read from the link",
                source: source(),
            },
            "could not read from the link: the disk",
        ),
    ];
    for (error, words) in &errors {
        assert!(error.to_string().contains(words), "{error}");
    }
    let sources = errors.iter().filter_map(|(error, _)| error.source());
    let told: Vec<String> = sources.map(ToString::to_string).collect();
    let cheese = "the disk is made of cheese";
    assert_eq!(told, [cheese, &FrameError::Kind(77).to_string(), cheese]);
}

#[test]
fn io_errors_are_sorted() {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, OutOfMemory, TimedOut,
        WouldBlock,
    };
    let sort = |kind: io::ErrorKind| TransferError::from_io("test", kind.into());
    for kind in [TimedOut, WouldBlock] {
        assert!(matches!(sort(kind), TransferError::Timeout), "{kind}");
    }
    for kind in [BrokenPipe, ConnectionReset, ConnectionAborted, NotConnected] {
        assert!(matches!(sort(kind), TransferError::PeerClosed), "{kind}");
    }
    assert!(matches!(
        sort(OutOfMemory),
        TransferError::Io { doing: "test", .. }
    ));
}

#[test]
fn a_hello_says_what_it_was_given() {
    for checksums in [Checksums::Unable, Checksums::Able, Checksums::Wanted] {
        let hello = Hello::new(5, "name").expect("short");
        let hello = hello.with_checksums(checksums).with_offers(6);
        assert_eq!((hello.checksums(), hello.offers()), (checksums, 6));
        assert_eq!((hello.limit(), hello.name()), (5, "name"));
    }
}
