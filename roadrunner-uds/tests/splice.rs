//! Payloads that are carried by reference.

use nix::sys::signal::{pthread_sigmask, SigSet, SigmaskHow, Signal};
use roadrunner_core::testing::{
    fill, host_memory, pattern, read_header, receive, reuse_with_full_buffers, say_hello, soon,
    LENGTHS,
};
use roadrunner_core::{
    Deadline, HostMemory, LinearMemory, Method, Payload, Receipt, Region, Transfer, TransferError,
};
use roadrunner_mem::PageBuffer;
use roadrunner_uds::{pair, Link, Options, Preference, UnixWire};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn pages(len: u64) -> PageBuffer {
    PageBuffer::new(len as usize).expect("memory")
}

fn spliced() -> Options {
    Options::default().prefer(Preference::Splice)
}

/// An end whose peer is a plain socket.
fn by_hand(options: &Options) -> (Link, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let wire = UnixWire::new(ours, options).expect("our own uid");
    let link = thread::scope(|scope| {
        let hand = scope.spawn(|| say_hello(&mut theirs, "by hand").expect("hello"));
        let link = Link::accept(wire, 1 << 30, soon()).expect("hello");
        hand.join().expect("no panic");
        link
    });
    (link, theirs)
}

/// Sends from a thread, because a payload may be more than the socket holds; gives both receipts and the bytes.
fn hop(
    (a, b): &mut (Link, Link),
    memory: &mut (dyn LinearMemory + Send),
    given: bool,
) -> (Receipt, Receipt, Vec<u8>) {
    let whole = Region::new(0, memory.len() as u64);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let payload = if given {
                Payload::given(memory, whole)
            } else {
                Payload::kept(memory, whole)
            };
            a.send(payload.expect("inside"), soon()).expect("sent")
        });
        let (bytes, delivered) = receive(b).expect("received");
        (sender.join().expect("no panic"), delivered, bytes)
    })
}

#[test]
fn large_given_pages_are_spliced_unless_told_otherwise() {
    let mut memory = pages(4 * MIB);
    let mut opaque = host_memory(4 * MIB);
    let mut small = pages(MIB - 4096);
    for (preference, spliced) in [(Preference::Splice, true), (Preference::Write, false)] {
        let mut ends = pair("test", &Options::default().prefer(preference)).expect("a pair");
        fill(&mut memory, 0, &pattern(4 * MIB, 1));
        let (sent, delivered, bytes) = hop(&mut ends, &mut memory, true);
        let (method, copies) = if spliced {
            (Method::Splice, 0)
        } else {
            (Method::Write, 1)
        };
        assert_eq!((sent.method(), sent.copies()), (method, copies));
        assert_eq!(
            (delivered.method(), delivered.copies()),
            (method, copies + 1)
        );
        assert!(bytes == pattern(4 * MIB, 1));
        for (memory, given) in [
            (&mut memory as &mut (dyn LinearMemory + Send), false),
            (&mut *opaque, true),
            (&mut small, true),
        ] {
            assert_eq!(hop(&mut ends, memory, given).0.method(), Method::Write);
        }
    }
}

#[test]
fn the_source_may_be_overwritten_while_the_socket_refers_to_the_pages() {
    for len in LENGTHS {
        for buffer in [4096, 4 << 20] {
            // Everything that has a whole page is spliced.
            let options = spliced().buffer(buffer).splice_from(0);
            let (mut link, mut stream) = by_hand(&options);
            let memory = |len: u64| Box::new(pages(len.max(1))) as Box<dyn LinearMemory + Send>;
            let receipt = reuse_with_full_buffers(&mut link, &mut stream, &memory, true, len);
            let spliced = receipt.method() == Method::Splice;
            assert_eq!(spliced, len >= 4096, "{len}: {receipt:?}");
        }
    }
}

#[test]
fn what_was_on_its_way_when_the_deadline_passed_never_changes() {
    let len = 32 * MIB;
    let (mut link, mut stream) = by_hand(&spliced());
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
fn one_thread_splices_and_receives_in_turns() {
    let (mut a, mut b) = pair("test", &spliced()).expect("a pair");
    let mut memory = pages(8 * MIB);
    for round in 0..3 {
        // Neither starts at a page, nor ends at one.
        let region = Region::new(77, 7 * MIB + 99);
        fill(&mut memory, region.offset(), &pattern(region.len(), round));
        let (mut sink, mut sent, mut turns) = (HostMemory::new(), None, 0);
        let delivery = loop {
            if sent.is_none() {
                let payload = Payload::given(&mut memory, region).expect("inside");
                sent = a.try_send(payload).expect("open");
            }
            if let Some(delivery) = b.try_recv(&mut sink).expect("open") {
                break delivery;
            }
            turns += 1;
            assert!(turns < 100_000, "it stands still");
        };
        let sent = sent.expect("it has arrived");
        assert_eq!((sent.method(), sent.copies()), (Method::Splice, 0));
        assert!(turns > 1, "more than the socket holds");
        let bytes = sink.bytes(delivery.region()).expect("inside");
        assert!(bytes == pattern(region.len(), round));
    }
}

#[test]
fn pages_come_back_to_the_memory_that_they_were_taken_from_only() {
    // On a strict link they come back to none.
    let mut ends = pair("test", &spliced().trusted(true)).expect("a pair");
    let (mut one, mut other) = (pages(2 * MIB), pages(2 * MIB));
    fill(&mut one, 0, &vec![0xA1; 2 << 20]);
    fill(&mut other, 0, &vec![0xB2; 2 << 20]);
    hop(&mut ends, &mut one, true);
    // What was taken from `one` has been acknowledged by the time this is sent.
    hop(&mut ends, &mut other, true);
    assert!(!other.as_slice().contains(&0xA1));
}

/// `splice(2)` raises SIGPIPE, which kills programs that are not written in Rust.
#[test]
fn a_peer_that_is_gone_is_an_error_and_leaves_no_signal() {
    // A blocked signal that was raised stays pending, where it can be seen.
    let mut sigpipe = SigSet::empty();
    sigpipe.add(Signal::SIGPIPE);
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&sigpipe), None).expect("a mask");
    for options in [
        Options::default(),
        Options::default().prefer(Preference::Write),
    ] {
        let (mut link, stream) = by_hand(&options);
        let mut memory = pages(8 * MIB);
        let payload = Payload::given(&mut memory, Region::new(0, 8 * MIB)).expect("inside");
        let error = thread::scope(|scope| {
            // It goes away in the middle of the payload.
            scope.spawn(move || (&stream).read_exact(&mut vec![0; 1 << 20]));
            link.send(payload, soon()).expect_err("nobody is there")
        });
        assert!(matches!(error, TransferError::PeerClosed), "{error}");
    }
    let pending = std::fs::read_to_string("/proc/thread-self/status").expect("proc is mounted");
    let mask = pending
        .lines()
        .find_map(|line| line.strip_prefix("SigPnd:"))
        .expect("signal(7)");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("a mask");
    assert_eq!(mask & (1 << (Signal::SIGPIPE as u32 - 1)), 0, "pending");
}
