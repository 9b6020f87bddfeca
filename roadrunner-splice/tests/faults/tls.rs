//! The same within TLS, where a payload is not out before its last record is.

use crate::common::both;
use crate::common::certificates::tls;
use roadrunner_faults::{is_long, Hop};
use roadrunner_splice::{Link, Options};

fn within_tls() -> (Link, Link) {
    both(&Options::default().tls(tls()))
}

const INLINE: Hop<'static, Link> = Hop {
    name: "tls, inline",
    open: &within_tls,
    ..crate::INLINE
};

/// More than one record.
const WRITE: Hop<'static, Link> = Hop {
    name: "tls, write",
    open: &within_tls,
    ..crate::WRITE
};

#[test]
fn every_call_fails_inline_within_tls() {
    INLINE.sweep();
}

#[test]
fn every_call_fails_while_writing_within_tls() {
    WRITE.sweep();
}

#[test]
fn the_peer_dies_at_every_byte_within_tls() {
    INLINE.deaths(1);
}

#[test]
fn the_peer_dies_while_writing_within_tls() {
    WRITE.deaths(if is_long() { 1 } else { 211 });
}

/// Several batches of records.
#[test]
fn calls_fail_at_random_within_tls() {
    let len = (1 << 20) + 77;
    Hop { len, ..WRITE }.at_random();
}
