//! Whatever system call fails, wherever a transfer is cut short and whenever a peer dies: the contract holds.

#[path = "../common/mod.rs"]
mod common;
mod meeting;
#[cfg(feature = "tls")]
mod tls;

use common::{both, page_memory};
use roadrunner_core::testing::host_memory;
use roadrunner_core::Method;
use roadrunner_faults::{is_long, Call, Hop};
use roadrunner_splice::{Link, Options, Preference};

fn splicing() -> (Link, Link) {
    let options = Options::default().prefer(Preference::Splice);
    both(&options.splice_from(0).chunk(8192))
}

fn writing() -> (Link, Link) {
    both(&Options::default().prefer(Preference::Write))
}

/// Small enough to fail at every byte.
const INLINE: Hop<'static, Link> = Hop {
    name: "tcp, inline",
    open: &writing,
    memory: &host_memory,
    len: 40,
    offset: 13,
    given: false,
    method: Method::Inline,
    calls: &[Call::Sendmsg, Call::Recv],
};

const WRITE: Hop<'static, Link> = Hop {
    name: "tcp, write",
    len: 20_000,
    method: Method::Write,
    ..INLINE
};

/// Less than a page, a page, less than a page.
const SPLICE: Hop<'static, Link> = Hop {
    name: "tcp, splice",
    open: &splicing,
    memory: &page_memory,
    len: 4096 + 30,
    offset: 4096 - 10,
    given: true,
    method: Method::Splice,
    calls: &[
        Call::Sendmsg,
        Call::Recv,
        Call::Splice,
        Call::Vmsplice,
        Call::Remap,
        Call::Pipe,
    ],
};

fn writing_checked() -> (Link, Link) {
    both(&Options::default().prefer(Preference::Write).checksum(true))
}

fn splicing_checked() -> (Link, Link) {
    let options = Options::default().prefer(Preference::Splice).checksum(true);
    both(&options.splice_from(0).chunk(8192))
}

const WRITE_CHECKED: Hop<'static, Link> = Hop {
    name: "tcp, write with a checksum",
    open: &writing_checked,
    ..WRITE
};

const SPLICE_CHECKED: Hop<'static, Link> = Hop {
    name: "tcp, splice with a checksum",
    open: &splicing_checked,
    ..SPLICE
};

fn zero_copy(io_uring: bool) -> Options {
    let options = Options::default().prefer(Preference::ZeroCopySend);
    options.splice_from(0).io_uring(io_uring)
}

fn without_a_copy() -> (Link, Link) {
    both(&zero_copy(false))
}

fn without_a_copy_checked() -> (Link, Link) {
    both(&zero_copy(false).checksum(true))
}

fn by_io_uring() -> (Link, Link) {
    both(&zero_copy(true))
}

fn by_io_uring_checked() -> (Link, Link) {
    both(&zero_copy(true).checksum(true))
}

const ZERO_COPY: Hop<'static, Link> = Hop {
    name: "tcp, zero-copy send",
    open: &without_a_copy,
    len: 2_000,
    method: Method::ZeroCopySend,
    calls: &[Call::Sendmsg, Call::Recv, Call::Recvmsg],
    ..WRITE
};

const ZERO_COPY_CHECKED: Hop<'static, Link> = Hop {
    name: "tcp, zero-copy send with a checksum",
    open: &without_a_copy_checked,
    ..ZERO_COPY
};

/// Where there is no io_uring, the system's refusal is one more fault.
const RING: Hop<'static, Link> = Hop {
    name: "tcp, zero-copy send by io_uring",
    open: &by_io_uring,
    calls: &[Call::Sendmsg, Call::Recv],
    ..ZERO_COPY
};

const RING_CHECKED: Hop<'static, Link> = Hop {
    name: "tcp, zero-copy send by io_uring with a checksum",
    open: &by_io_uring_checked,
    ..RING
};

#[test]
fn every_call_fails_while_sending_by_io_uring() {
    RING.sweep();
    if is_long() {
        RING_CHECKED.sweep();
    }
}

#[test]
fn the_peer_dies_while_it_is_sent_to_by_io_uring() {
    let step = if is_long() { 1 } else { 211 };
    RING.deaths(step);
    RING_CHECKED.deaths(step);
}

#[test]
fn calls_fail_at_random_while_sending_by_io_uring() {
    let len = (1 << 20) + 77;
    Hop { len, ..RING }.at_random();
    Hop {
        len,
        ..RING_CHECKED
    }
    .at_random();
}

#[test]
fn every_call_fails_while_sending_without_a_copy() {
    ZERO_COPY.sweep();
    ZERO_COPY_CHECKED.sweep();
}

#[test]
fn the_peer_dies_while_it_is_sent_to_without_a_copy() {
    let step = if is_long() { 1 } else { 211 };
    ZERO_COPY.deaths(step);
    ZERO_COPY_CHECKED.deaths(step);
}

#[test]
fn calls_fail_at_random_while_sending_without_a_copy() {
    let len = (1 << 20) + 77;
    Hop { len, ..ZERO_COPY }.at_random();
    Hop {
        len,
        ..ZERO_COPY_CHECKED
    }
    .at_random();
}

fn in_streams() -> (Link, Link) {
    both(&Options::default().streams(2))
}

fn in_streams_checked() -> (Link, Link) {
    both(&Options::default().streams(2).checksum(true))
}

/// Over two connections.
const STREAMS: Hop<'static, Link> = Hop {
    name: "tcp, two streams",
    open: &in_streams,
    len: (1 << 20) + 77,
    ..WRITE
};

const STREAMS_CHECKED: Hop<'static, Link> = Hop {
    name: "tcp, two streams with checksums",
    open: &in_streams_checked,
    ..STREAMS
};

#[test]
fn calls_fail_at_random_on_one_of_two_streams() {
    STREAMS.at_random();
    STREAMS_CHECKED.at_random();
}

#[test]
fn one_of_two_streams_dies() {
    let step = if is_long() { 4_099 } else { 65_537 };
    STREAMS.deaths(step);
    STREAMS_CHECKED.deaths(step);
}

#[test]
fn every_call_fails_with_checksums() {
    WRITE_CHECKED.sweep();
    SPLICE_CHECKED.sweep();
}

#[test]
fn the_peer_dies_with_checksums() {
    let step = if is_long() { 1 } else { 211 };
    WRITE_CHECKED.deaths(step);
    SPLICE_CHECKED.deaths(step);
}

#[test]
fn calls_fail_at_random_with_checksums() {
    let len = (1 << 20) + 77;
    Hop {
        len,
        ..WRITE_CHECKED
    }
    .at_random();
    Hop {
        len,
        ..SPLICE_CHECKED
    }
    .at_random();
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
