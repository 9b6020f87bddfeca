//! A transfer without a link, for both ends in one thread.

use crate::{early, pages_with, pattern, pool, soon, Pages, MIB};
use proptest::prelude::*;
use roadrunner_core::{
    HostMemory, LinearMemory, Method, Payload, Region, Sink, Transfer, TransferError,
};
use roadrunner_mem::{link, transfer, PageBuffer, Policy};

#[test]
fn a_transfer_in_one_thread_does_the_same() {
    for (given, method) in [(true, Method::Exchange), (false, Method::Copy)] {
        let bytes = pattern(2 * MIB + 9, 3);
        let mut source = pages_with(&bytes);
        let mut sink = Pages::new(2 * MIB + 9, 0);
        sink.0.span().copy_from_slice(&vec![0x5e; 2 * MIB + 9]);
        let region = Region::new(0, bytes.len() as u64);
        let payload = if given {
            Payload::given(&mut source, region)
        } else {
            Payload::kept(&mut source, region)
        };
        let delivery = transfer(payload.expect("inside"), &mut sink, &early());
        assert_eq!(delivery.expect("room").receipt().method(), method);
        assert!(sink.0.as_slice()[..bytes.len()] == bytes);
        assert!(!source.as_slice().contains(&0x5e) || !given);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// In one thread, near the edges of pages and of page tables: the payload arrives, nothing beside it changes at
    /// either end, and nothing that the receiver had comes back.
    #[test]
    fn a_transfer_moves_the_payload_and_nothing_else(
        start in near_an_edge(), to in near_an_edge(), alike: bool,
        len in prop_oneof![near_an_edge(), (1_usize << 20)..(3 << 20)],
        given: bool, from_pages: bool, to_pages: bool, exchanged: bool, trusted: bool, pooled: bool,
    ) {
        const ROOM: usize = 6 << 20;
        let to = if alike { start } else { to };
        let mut policy = early();
        policy.force = exchanged.then_some(Method::Exchange);
        policy.trusted = trusted;
        policy.pool = pool(4 * ROOM as u64);
        if pooled {
            fill(&policy, ROOM);
        }
        let before = policy.pool.report().bytes();
        let ours = pattern(ROOM, 1);
        let theirs = vec![0x5e; ROOM];
        let zeros = vec![0; ROOM];
        let (mut pages, mut host) = (pages_with(&ours), HostMemory::from(ours.clone()));
        let mut sink = Fixed { pages: pages_with(&theirs), host: HostMemory::from(theirs.clone()), to_pages, to: to as u64 };
        let source: &mut dyn LinearMemory = if from_pages { &mut pages } else { &mut host };
        let region = Region::new(start as u64, len as u64);
        let payload = if given { Payload::given(source, region) } else { Payload::kept(source, region) };
        let delivery = transfer(payload.expect("inside"), &mut sink, &policy).expect("room");

        let now = if from_pages { pages.as_slice() } else { host.as_slice() };
        let there = if to_pages { sink.pages.as_slice() } else { sink.host.as_slice() };
        prop_assert!(there[to..to + len] == ours[start..start + len], "the payload");
        prop_assert!(there[..to] == theirs[..to] && there[to + len..] == theirs[to + len..], "beside it");
        prop_assert!(now[..start] == ours[..start] && now[start + len..] == ours[start + len..], "beside the source");
        prop_assert!(given || now == ours, "a kept payload");
        let receipt = delivery.receipt();
        prop_assert_eq!(receipt.copies(), u8::from(receipt.method() == Method::Copy && len > 0));
        if receipt.method() == Method::Exchange {
            prop_assert!(given && from_pages && to_pages && start % 4096 == to % 4096);
            let whole = start.next_multiple_of(4096)..(start + len) / 4096 * 4096;
            let came_back = if trusted { &theirs } else { &zeros };
            prop_assert!(now[whole.clone()] == came_back[whole], "what came back");
        } else {
            prop_assert!(now == ours, "nothing was taken");
        }
        let after = policy.pool.report().bytes();
        prop_assert!(after <= before && before - after < 6 << 20, "{} bytes, then {}", before, after);
    }
}

/// Has buffers of several sizes go through the pool of a policy, which then has them.
fn fill(policy: &Policy, room: usize) {
    let mut policy = policy.clone();
    policy.force = Some(Method::Exchange);
    for len in [4096, 8192, MIB, 2 * MIB, 3 * MIB, room] {
        let (mut here, mut there) = link(policy.clone());
        let mut source = pages_with(&vec![0x77; len]);
        let all = Region::new(0, len as u64);
        let payload = Payload::given(&mut source, all).expect("inside");
        here.send(payload, soon()).expect("room");
        let mut sink = Pages::new(len, 0);
        sink.0.span().copy_from_slice(&vec![0x77; len]);
        there.recv(&mut sink, soon()).expect("sent");
    }
}

/// Offsets and lengths around 0, a page, and 2 MiB.
fn near_an_edge() -> impl Strategy<Value = usize> {
    let edges = prop_oneof![Just(0_usize), Just(4096), Just(8192), Just(2 << 20)];
    (edges, -3_isize..=3).prop_map(|(edge, delta)| edge.saturating_add_signed(delta))
}

struct Fixed {
    pages: PageBuffer,
    host: HostMemory,
    to_pages: bool,
    to: u64,
}

impl Sink for Fixed {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(Region::new(self.to, len))
    }
    fn memory(&mut self) -> &mut dyn LinearMemory {
        if self.to_pages {
            &mut self.pages
        } else {
            &mut self.host
        }
    }
    fn release(&mut self, _region: Region) {}
}
