//! Two threads and a link between them.

mod bells;
mod in_one_thread;

use proptest::prelude::*;
use roadrunner_core::{
    Deadline, HostMemory, LinearMemory, Method, Payload, Region, Sink, Transfer, TransferError,
};
use roadrunner_mem::{link, transfer, PageBuffer, PagePool, Policy, PoolOptions};
use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

const MIB: usize = 1 << 20;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A page-backed memory as a sink: every payload at the same place.
struct Pages(PageBuffer, u64);

impl Pages {
    fn new(len: usize, offset: u64) -> Self {
        Self(PageBuffer::new(len).expect("memory"), offset)
    }
}

impl Sink for Pages {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(Region::new(self.1, len))
    }
    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.0
    }
    fn release(&mut self, _region: Region) {}
}

/// A pool that clears pages when they are needed and not before.
fn pool(bytes: u64) -> PagePool {
    let mut options = PoolOptions::default();
    options.bytes = bytes;
    options.background = false;
    PagePool::new(options)
}

/// Exchanges less than by default, so that tests are quick.
fn early() -> Policy {
    let mut policy = Policy::default();
    policy.exchange = MIB as u64;
    policy
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 31 + at / 255 + seed) as u8)
        .collect()
}

fn pages_with(bytes: &[u8]) -> PageBuffer {
    let mut memory = PageBuffer::new(bytes.len()).expect("memory");
    memory.span().copy_from_slice(bytes);
    memory
}

/// Sends from a memory of either kind while a thread receives into one of either kind; overwrites at once.
fn cross(bytes: &[u8], from_pages: bool, to_pages: bool, given: bool, offset: u64) -> (Method, u8) {
    let (mut here, mut there) = link(early());
    let len = bytes.len();
    let receiver = thread::spawn(move || {
        let mut pages = Pages::new(len + offset as usize, offset);
        let mut host = HostMemory::new();
        let sink: &mut dyn Sink = if to_pages { &mut pages } else { &mut host };
        let delivery = there.recv(sink, soon()).expect("sent");
        let mut got = vec![0; len];
        let span = delivery.region().span(sink.memory()).expect("inside");
        span.copy_to_slice(&mut got);
        (got, delivery.receipt())
    });
    let mut pages = pages_with(bytes);
    let mut host = HostMemory::from(bytes.to_vec());
    let memory: &mut dyn LinearMemory = if from_pages { &mut pages } else { &mut host };
    let region = Region::new(0, len as u64);
    let payload = if given {
        Payload::given(memory, region)
    } else {
        Payload::kept(memory, region)
    };
    here.send(payload.expect("inside"), soon())
        .expect("received");
    if !given {
        let mut still = vec![0; len];
        region
            .span(memory)
            .expect("inside")
            .copy_to_slice(&mut still);
        assert!(still == bytes, "a kept payload stays");
    }
    region
        .span(memory)
        .expect("inside")
        .copy_from_slice(&vec![0xdd; len]);
    let (got, receipt) = receiver.join().expect("no panic");
    assert!(got == bytes, "{len} bytes changed on the way");
    assert_eq!(receipt.bytes(), len as u64);
    (receipt.method(), receipt.copies())
}

#[test]
fn the_cheapest_way_runs_and_says_so() {
    for len in [
        0,
        1,
        4095,
        4096,
        4097,
        16 << 10,
        (16 << 10) + 1,
        65_535,
        MIB - 1,
        MIB,
        3 * MIB + 5,
    ] {
        let bytes = pattern(len, len);
        for (from_pages, to_pages, given) in [
            (false, false, false),
            (true, true, false),
            (false, true, true),
            (true, false, true),
            (true, true, true),
        ] {
            let (method, copies) = cross(&bytes, from_pages, to_pages, given, 0);
            let expected = match len {
                0 => (Method::Inline, 0),
                _ if len <= 16 << 10 => (Method::Inline, 2),
                _ if len >= MIB && (from_pages, to_pages, given) == (true, true, true) => {
                    (Method::Exchange, 0)
                }
                _ => (Method::Copy, 1),
            };
            assert_eq!(
                (method, copies),
                expected,
                "{len} {from_pages} {to_pages} {given}"
            );
        }
        // The receiver's buffer lies differently in its pages.
        if len >= MIB {
            assert_eq!(cross(&bytes, true, true, true, 100), (Method::Copy, 1));
        }
    }
}

#[test]
fn the_sender_never_sees_what_the_receiver_had() {
    let (mut here, mut there) = link(early());
    let mut source = pages_with(&pattern(2 * MIB, 1));
    let mut sink = Pages::new(2 * MIB, 0);
    let region = Region::new(0, 2 * MIB as u64);
    for round in 0..4 {
        sink.0.span().copy_from_slice(&vec![0x5e; 2 * MIB]);
        source.span().copy_from_slice(&pattern(2 * MIB, round));
        let payload = Payload::given(&mut source, region).expect("inside");
        assert_eq!(
            here.send(payload, soon()).expect("room").method(),
            Method::Exchange
        );
        assert!(
            source.as_slice().iter().all(|byte| *byte == 0),
            "round {round}: cleared pages"
        );
        let delivery = there.recv(&mut sink, soon()).expect("sent");
        assert_eq!(delivery.receipt().copies(), 0);
        assert!(sink.0.as_slice() == pattern(2 * MIB, round));
    }
}

/// One pool for links and transfers among three functions: nobody ever sees anything of another, whoever had the pages
/// before, and there are no more of them than were in use at once.
#[test]
fn functions_that_share_a_pool_do_not_see_each_others_pages() {
    const LEN: usize = 6 * MIB;
    for background in [false, true] {
        let mut options = PoolOptions::default();
        options.background = background;
        let mut policy = early();
        policy.pool = PagePool::new(options);
        let (mut to_second, mut from_first) = link(policy.clone());
        let (mut to_third, mut from_second) = link(policy.clone());
        let mut first = pages_with(&vec![1; LEN]);
        let mut second = Pages(pages_with(&vec![2; LEN]), 0);
        let mut third = Pages(pages_with(&vec![3; LEN]), 0);
        let all = Region::new(0, LEN as u64);
        for round in 0..8 {
            let holds = |memory: &PageBuffer, value: u8| {
                memory.as_slice().iter().all(|byte| *byte == value)
            };
            first.span().copy_from_slice(&vec![10 + round; LEN]);
            let payload = Payload::given(&mut first, all).expect("inside");
            let receipt = to_second.send(payload, soon()).expect("room");
            assert_eq!(receipt.method(), Method::Exchange);
            assert!(holds(&first, 0), "round {round}");
            from_first.recv(&mut second, soon()).expect("sent");
            assert!(holds(&second.0, 10 + round));
            let payload = Payload::given(&mut second.0, all).expect("inside");
            to_third.send(payload, soon()).expect("room");
            assert!(holds(&second.0, 0), "round {round}");
            from_second.recv(&mut third, soon()).expect("sent");
            let payload = Payload::given(&mut third.0, all).expect("inside");
            let delivery = transfer(payload, &mut Pages::new(LEN, 0), &policy).expect("room");
            assert_eq!(delivery.receipt().method(), Method::Exchange);
            assert!(holds(&third.0, 0), "round {round}");
        }
        let report = policy.pool.report();
        assert!(report.hits + report.misses >= 24, "{report}");
        assert!(report.bytes() <= 6 * LEN as u64, "{report}");
    }
}

#[test]
fn nothing_waits_beyond_its_deadline_and_the_link_goes_on() {
    let policy = || {
        let mut policy = early();
        policy.messages = 2;
        policy
    };
    let (mut here, mut there) = link(policy());
    let short = || Deadline::after(Duration::from_millis(5));
    let mut memory = HostMemory::from(pattern(100_000, 0));
    let small = Region::new(0, 10);
    assert!(matches!(
        there.recv(&mut HostMemory::new(), short()),
        Err(TransferError::Timeout)
    ));
    for _ in 0..2 {
        here.send(Payload::kept(&mut memory, small).expect("inside"), short())
            .expect("room");
    }
    for region in [small, Region::new(0, 100_000)] {
        let full = here.send(Payload::kept(&mut memory, region).expect("inside"), short());
        assert!(matches!(full, Err(TransferError::Timeout)));
        assert!(here.is_open());
    }
    for _ in 0..2 {
        there.recv(&mut HostMemory::new(), soon()).expect("sent");
    }
    // An offer that nobody takes is withdrawn, and not delivered later.
    let large = Region::new(0, 100_000);
    let late = here.send(Payload::kept(&mut memory, large).expect("inside"), short());
    assert!(matches!(late, Err(TransferError::Timeout)));
    assert!(matches!(
        there.recv(&mut HostMemory::new(), Deadline::now()),
        Err(TransferError::Timeout)
    ));
}

#[test]
fn an_offer_is_taken_whole_or_withdrawn_never_both() {
    let (mut here, mut there) = link(early());
    let rounds = 2_000_u32;
    let receiver = thread::spawn(move || {
        let mut got = Vec::new();
        loop {
            let mut memory = HostMemory::new();
            match there.recv(&mut memory, soon()) {
                Ok(delivery) => {
                    let bytes = memory.bytes(delivery.region()).expect("inside");
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn");
                    got.push(bytes[0]);
                }
                Err(TransferError::Closed) => return got,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let mut sent = Vec::new();
    let mut memory = HostMemory::from(vec![0; 40_000]);
    for round in 0..rounds {
        let value = round as u8;
        memory.as_mut_slice().fill(value);
        let region = memory.region();
        let deadline = Deadline::after(Duration::from_micros(u64::from(round % 60)));
        let payload = Payload::kept(&mut memory, region).expect("inside");
        match here.send(payload, deadline) {
            Ok(_) => sent.push(value),
            Err(TransferError::Timeout) => {}
            Err(error) => panic!("{error}"),
        }
    }
    here.close(soon()).expect("open");
    assert_eq!(receiver.join().expect("no panic"), sent);
}

#[test]
fn the_end_and_the_death_of_the_peer_come_after_what_it_sent() {
    for close in [true, false] {
        let (mut here, mut there) = link(early());
        let mut memory = HostMemory::from(*b"last");
        let region = memory.region();
        here.send(Payload::kept(&mut memory, region).expect("inside"), soon())
            .expect("room");
        if close {
            here.close(soon()).expect("open");
        }
        drop(here);
        let mut sink = HostMemory::new();
        there.recv(&mut sink, soon()).expect("sent before");
        assert_eq!(sink.as_slice(), b"last");
        let end = there.recv(&mut sink, soon()).expect_err("nothing more");
        match end {
            TransferError::Closed => assert!(close && there.is_open()),
            TransferError::PeerClosed => assert!(!close && !there.is_open()),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_sender_that_waits_hears_of_the_receivers_death_and_of_a_sink_that_refuses() {
    let (mut here, there) = link(early());
    let receiver = thread::spawn(move || drop(there));
    let mut memory = HostMemory::from(vec![1; MIB]);
    let region = memory.region();
    let lost = here.send(Payload::kept(&mut memory, region).expect("inside"), soon());
    assert!(matches!(lost, Err(TransferError::PeerClosed)));
    receiver.join().expect("no panic");

    let (mut here, mut there) = link(early());
    let receiver = thread::spawn(move || {
        let refused = there.recv(&mut HostMemory::with_limit(9), soon());
        assert!(matches!(refused, Err(TransferError::NoRoom { .. })));
        assert!(there.is_open());
        let mut sink = HostMemory::new();
        there.recv(&mut sink, soon()).expect("the next one");
        sink.as_slice().len()
    });
    let refused = here.send(Payload::kept(&mut memory, region).expect("inside"), soon());
    assert!(matches!(refused, Err(TransferError::NoRoom { .. })));
    here.send(Payload::kept(&mut memory, region).expect("inside"), soon())
        .expect("the link goes on");
    assert_eq!(receiver.join().expect("no panic"), MIB);
}

#[test]
fn a_sink_that_lies_gets_an_error_and_its_region_back() {
    struct Lying(HostMemory, Region, u32);
    impl Sink for Lying {
        fn reserve(&mut self, _len: u64, _align: u64) -> Result<Region, TransferError> {
            Ok(self.1)
        }
        fn memory(&mut self) -> &mut dyn LinearMemory {
            &mut self.0
        }
        fn release(&mut self, region: Region) {
            assert_eq!(region, self.1);
            self.2 += 1;
        }
    }
    for region in [
        Region::new(95, 10),
        Region::new(u64::MAX, 10),
        Region::new(0, 9),
    ] {
        let (mut here, mut there) = link(early());
        let mut memory = HostMemory::from([1; 10]);
        let all = memory.region();
        here.send(Payload::kept(&mut memory, all).expect("inside"), soon())
            .expect("room");
        let mut sink = Lying(HostMemory::from([0; 100]), region, 0);
        there.recv(&mut sink, soon()).expect_err("a lie");
        assert_eq!(sink.2, 1);
        assert!(sink.0.as_slice().iter().all(|byte| *byte == 0));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send(usize, bool),
    Recv,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Without a receiver at work, what cannot be queued times out; what was queued comes out, in order.
    #[test]
    fn a_link_is_a_bounded_queue(
        steps in proptest::collection::vec(
            prop_oneof![
                (prop_oneof![0_usize..20_000, 600_000_usize..1_500_000], any::<bool>())
                    .prop_map(|(len, given)| Step::Send(len, given)),
                Just(Step::Recv),
            ], 0..20)
    ) {
        let mut policy = early();
        policy.messages = 3;
        policy.pool = pool(2 << 20);
        let (mut here, mut there) = link(policy);
        let mut model = VecDeque::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send(len, given) => {
                    let bytes = pattern(len, number);
                    let mut memory = pages_with(&bytes);
                    let region = Region::new(0, len as u64);
                    let payload = if given { Payload::given(&mut memory, region) } else { Payload::kept(&mut memory, region) };
                    match here.send(payload.expect("inside"), Deadline::now()) {
                        Ok(_) => model.push_back(bytes),
                        Err(TransferError::Timeout) => {
                            prop_assert!(model.len() == 3 || len > 16 << 10);
                            prop_assert!(memory.as_slice()[..len] == bytes, "a failed send leaves the payload");
                        }
                        Err(other) => prop_assert!(false, "{}", other),
                    }
                    prop_assert!(model.len() <= 3);
                }
                Step::Recv => {
                    let mut sink = Pages::new(2 << 20, 0);
                    match (there.recv(&mut sink, Deadline::now()), model.pop_front()) {
                        (Ok(delivery), Some(bytes)) => {
                            prop_assert_eq!(delivery.region().len(), bytes.len() as u64);
                            prop_assert!(sink.0.as_slice()[..bytes.len()] == bytes);
                        }
                        (Err(TransferError::Timeout), None) => {}
                        (got, expected) => prop_assert!(false, "{:?} for {:?} bytes", got, expected.map(|b| b.len())),
                    }
                }
            }
        }
    }
}
