//! Whatever system call fails, wherever a transfer is cut short and whenever a peer dies: the contract holds.

use roadrunner_core::testing::host_memory;
use roadrunner_core::{Deadline, LinearMemory, Method};
use roadrunner_faults::{is_long, Call, Hop, Meeting};
use roadrunner_mem::PageBuffer;
use roadrunner_uds::{connect, pair, Address, Link, Listener, Options, Preference};
use std::sync::Mutex;
use std::time::Duration;

fn pages(len: u64) -> Box<dyn LinearMemory + Send> {
    Box::new(PageBuffer::new(len as usize).expect("memory"))
}

fn splicing() -> (Link, Link) {
    let options = Options::default()
        .prefer(Preference::Splice)
        .splice_from(0)
        .chunk(8192)
        .ring(0);
    pair("faults", &options).expect("a pair")
}

/// Whose every byte goes through the socket.
fn writing() -> (Link, Link) {
    let options = Options::default().prefer(Preference::Write).ring(0);
    pair("faults", &options).expect("a pair")
}

fn passing() -> (Link, Link) {
    let options = Options::default()
        .prefer(Preference::Segment)
        .segment_from(0)
        .ring(0);
    pair("faults", &options).expect("a pair")
}

/// Whose ends have both waited once, so that they wait at the ring.
fn ringing() -> (Link, Link) {
    let options = Options::default()
        .prefer(Preference::Ring)
        .ring_from(0)
        .ring(4096);
    let (mut a, mut b) = pair("faults", &options).expect("a pair");
    for end in [&mut a, &mut b] {
        let heard = end.listen(Deadline::after(Duration::from_millis(1)));
        assert!(matches!(heard, Ok(false)), "{heard:?}");
    }
    (a, b)
}

/// Small enough to fail at every byte.
const INLINE: Hop<'static, Link> = Hop {
    name: "uds, inline",
    open: &writing,
    memory: &host_memory,
    len: 40,
    offset: 13,
    given: false,
    method: Method::Inline,
    calls: &[Call::Sendmsg, Call::Recvmsg],
};

const WRITE: Hop<'static, Link> = Hop {
    name: "uds, write",
    len: 20_000,
    method: Method::Write,
    ..INLINE
};

/// Less than a page, a page, less than a page.
const SPLICE: Hop<'static, Link> = Hop {
    name: "uds, splice",
    open: &splicing,
    memory: &pages,
    len: 4096 + 30,
    offset: 4096 - 10,
    given: true,
    method: Method::Splice,
    calls: &[
        Call::Sendmsg,
        Call::Recvmsg,
        Call::Splice,
        Call::Vmsplice,
        Call::Remap,
        Call::Pipe,
    ],
};

/// Copied into a segment, passed, and copied out.
const SEGMENT: Hop<'static, Link> = Hop {
    name: "uds, segment",
    open: &passing,
    len: 5000,
    method: Method::Copy,
    calls: &[
        Call::Sendmsg,
        Call::Recvmsg,
        Call::Memfd,
        Call::Truncate,
        Call::Fcntl,
        Call::Map,
        Call::MapFixed,
    ],
    ..INLINE
};

/// Through a ring that has to be filled several times.
const RING: Hop<'static, Link> = Hop {
    name: "uds, ring",
    open: &ringing,
    len: 20_000,
    method: Method::Copy,
    calls: &[],
    ..INLINE
};

#[test]
fn every_call_fails_while_copying_through_a_ring() {
    RING.sweep();
}

#[test]
fn calls_fail_at_random_while_copying_through_a_ring() {
    RING.at_random();
}

#[test]
fn every_call_fails_while_passing_a_segment() {
    SEGMENT.sweep();
}

#[test]
fn the_peer_dies_while_passing_a_segment() {
    SEGMENT.deaths(1);
}

#[test]
fn every_call_fails_inline() {
    INLINE.sweep();
}

#[test]
fn every_call_fails_while_writing() {
    WRITE.sweep();
}

#[test]
fn every_call_fails_while_splicing() {
    SPLICE.sweep();
}

#[test]
fn the_peer_dies_at_every_byte_inline() {
    INLINE.deaths(1);
}

#[test]
fn the_peer_dies_while_writing() {
    WRITE.deaths(if is_long() { 1 } else { 97 });
}

#[test]
fn the_peer_dies_while_splicing() {
    SPLICE.deaths(if is_long() { 1 } else { 13 });
}

#[test]
fn calls_fail_at_random_while_writing() {
    let len = (1 << 20) + 77;
    Hop { len, ..WRITE }.at_random();
}

#[test]
fn calls_fail_at_random_while_splicing() {
    let len = (3 << 20) + 77;
    Hop { len, ..SPLICE }.at_random();
}

/// A listener, and where it is.
type Place = (Mutex<Listener>, Address);

/// Two who open a link with each other.
fn meeting(test: impl Fn(&Meeting<'_, Place, Link>)) {
    let options = Options::default().ring(0);
    test(&Meeting {
        name: "uds, until it is open",
        listen: &|| {
            let name = format!("roadrunner-faults-{}", std::process::id());
            let address = Address::abstract_name(name).expect("short");
            let listener = Listener::bind(address.clone(), options.clone()).expect("bound");
            (Mutex::new(listener), address)
        },
        connect: &|(_, address): &Place, deadline| connect(address, "met", &options, deadline),
        accept: &|(listener, _): &Place, deadline| {
            let mut listener = listener.lock().expect("nobody panics with it");
            listener.accept(deadline)
        },
        calls: &[
            Call::Socket,
            Call::Connect,
            Call::Accept,
            Call::Setsockopt,
            Call::Getsockopt,
            Call::Sendmsg,
            Call::Recvmsg,
        ],
    });
}

#[test]
fn every_call_fails_until_a_link_is_open() {
    meeting(|meeting| meeting.sweep());
}

#[test]
fn either_side_dies_until_a_link_is_open() {
    meeting(|meeting| meeting.deaths(1));
}

#[test]
fn calls_fail_at_random_until_a_link_is_open() {
    meeting(|meeting| meeting.at_random());
}
