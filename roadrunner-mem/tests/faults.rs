//! Whatever system call fails: the contract holds.

use roadrunner_core::testing::host_memory;
use roadrunner_core::{LinearMemory, Method};
use roadrunner_faults::{Call, Hop};
use roadrunner_mem::testing::{slot_options, By, SlotEnd};
use roadrunner_mem::{link, Link, PageBuffer, PagePool, Policy, Slots};
use std::sync::OnceLock;

const PAGE: u64 = 4096;
/// More than one page table covers.
const LARGE: u64 = (2 << 20) + 3 * PAGE + 77;

fn pages(len: u64) -> Box<dyn LinearMemory + Send> {
    Box::new(PageBuffer::new(len as usize).expect("memory"))
}

fn policy(force: Option<Method>, trusted: bool) -> Policy {
    let mut policy = Policy::default();
    policy.force = force;
    policy.trusted = trusted;
    policy
}

fn plain() -> (Link, Link) {
    link(Policy::default())
}

fn exchanging() -> (Link, Link) {
    link(policy(Some(Method::Exchange), false))
}

fn exchanging_trusted() -> (Link, Link) {
    link(policy(Some(Method::Exchange), true))
}

/// With pages that earlier links used.
fn exchanging_pooled() -> (Link, Link) {
    static POOL: OnceLock<PagePool> = OnceLock::new();
    let mut policy = policy(Some(Method::Exchange), false);
    policy.pool = POOL.get_or_init(PagePool::default).clone();
    link(policy)
}

fn loaning() -> (SlotEnd<Link>, SlotEnd<Link>) {
    slot_link(policy(None, false), By::Loan)
}

fn loaning_trusted() -> (SlotEnd<Link>, SlotEnd<Link>) {
    slot_link(policy(None, true), By::Loan)
}

fn sharing() -> (SlotEnd<Link>, SlotEnd<Link>) {
    slot_link(policy(None, false), By::Share)
}

const COPY: Hop<'static, Link> = Hop {
    name: "mem, copy",
    open: &plain,
    memory: &host_memory,
    len: 20_000,
    offset: 13,
    given: false,
    method: Method::Copy,
    calls: &[],
};

/// Less than a page, pages, less than a page.
const EXCHANGE: Hop<'static, Link> = Hop {
    name: "mem, exchange",
    open: &exchanging,
    memory: &pages,
    len: 3 * PAGE + 30,
    offset: PAGE - 10,
    given: true,
    method: Method::Exchange,
    calls: &[Call::Remap],
};

const SLOT: Hop<'static, SlotEnd<Link>> = Hop {
    name: "mem, slot",
    open: &loaning,
    memory: &pages,
    len: 3 * PAGE + 30,
    offset: 0,
    given: true,
    method: Method::Slot,
    calls: &[
        Call::Memfd,
        Call::Truncate,
        Call::Fcntl,
        Call::Map,
        Call::MapFixed,
        Call::Remap,
        Call::Advise,
    ],
};

const SHARE: Hop<'static, SlotEnd<Link>> = Hop {
    name: "mem, map",
    open: &sharing,
    method: Method::Map,
    calls: &[Call::Memfd, Call::Map, Call::MapFixed, Call::Remap],
    ..SLOT
};

#[test]
fn every_call_fails_while_copying() {
    COPY.sweep();
}

#[test]
fn every_call_fails_while_exchanging() {
    EXCHANGE.sweep();
    Hop {
        name: "mem, exchange, trusted",
        open: &exchanging_trusted,
        ..EXCHANGE
    }
    .sweep();
}

#[test]
fn every_call_fails_while_exchanging_with_a_pool() {
    const POOLED: Hop<'static, Link> = Hop {
        name: "mem, exchange, pooled",
        open: &exchanging_pooled,
        ..EXCHANGE
    };
    POOLED.sweep();
    let large = Hop {
        name: "mem, exchange of 2 MiB, pooled",
        len: LARGE,
        ..POOLED
    };
    large.sweep();
    large.at_random();
}

#[test]
fn every_call_fails_while_exchanging_page_tables() {
    Hop {
        name: "mem, exchange of 2 MiB",
        len: LARGE,
        calls: &[Call::Remap, Call::Map, Call::Unmap],
        ..EXCHANGE
    }
    .sweep();
}

#[test]
fn every_call_fails_while_a_slot_is_handed_over() {
    SLOT.sweep();
    Hop {
        name: "mem, slot, trusted",
        open: &loaning_trusted,
        ..SLOT
    }
    .sweep();
}

#[test]
fn every_call_fails_while_a_segment_is_shared() {
    SHARE.sweep();
}

#[test]
fn calls_fail_at_random() {
    EXCHANGE.at_random();
    let len = LARGE;
    Hop { len, ..EXCHANGE }.at_random();
    SLOT.at_random();
    Hop { len, ..SLOT }.at_random();
    SHARE.at_random();
}

fn slot_link(policy: Policy, by: By) -> (SlotEnd<Link>, SlotEnd<Link>) {
    let (here, there) = link(policy);
    let end = |link| SlotEnd::new(link, by, Slots::new(slot_options()));
    (end(here), end(there))
}
