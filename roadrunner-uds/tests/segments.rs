//! Payloads in segments.

use roadrunner_core::testing::{fill, host_memory, pattern, soon, CountingSink};
use roadrunner_core::{
    Deadline, LinearMemory, Method, Payload, Region, Sink, Transfer, TransferError,
};
use roadrunner_mem::{link, PageBuffer, Policy, Released, SlotOptions, Slots};
use roadrunner_uds::{pair, Link, Options, Preference};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// A memory and its slots; regions are reserved one behind the other, as a function's allocator would.
struct Receiver {
    memory: PageBuffer,
    slots: Slots,
    next: u64,
}

impl Receiver {
    fn new(len: u64) -> Self {
        Self {
            memory: PageBuffer::new(len as usize).expect("memory"),
            slots: Slots::default(),
            next: 0,
        }
    }

    /// Receives a payload, and gives its region, method and copies.
    fn receive(&mut self, link: &mut Link) -> (Region, Method, u8) {
        let mut sink = Heap(&mut self.memory, &mut self.next);
        let delivery = link
            .recv_with(&mut self.slots, &mut sink, soon())
            .expect("received");
        let receipt = delivery.receipt();
        (delivery.region(), receipt.method(), receipt.copies())
    }

    fn bytes(&mut self, region: Region) -> Vec<u8> {
        let mut bytes = vec![0; region.len() as usize];
        let span = region.span(&mut self.memory).expect("inside");
        span.copy_to_slice(&mut bytes);
        bytes
    }
}

struct Heap<'a>(&'a mut PageBuffer, &'a mut u64);

impl Sink for Heap<'_> {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        let region = Region::new(self.1.next_multiple_of(align), len);
        region.span(self.0)?;
        *self.1 = region.offset() + len;
        Ok(region)
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.0
    }

    fn release(&mut self, _region: Region) {}
}

fn both(options: &Options) -> (Link, Link) {
    pair("test", options).expect("a pair")
}

fn segments() -> Options {
    Options::default().prefer(Preference::Segment)
}

#[test]
fn a_payload_is_mapped_where_there_are_slots_and_copied_where_there_are_none() {
    for given in [false, true] {
        let (mut a, mut b) = both(&segments());
        let mut receiver = Receiver::new(16 * MIB);
        let mut memory = host_memory(3 * MIB);
        for (seed, len) in [3 * MIB, 2 * MIB + 5, MIB, 3 * MIB].into_iter().enumerate() {
            let seed = seed as u64;
            let region = Region::new(0, len);
            fill(&mut *memory, 0, &pattern(len, seed));
            let payload = match given {
                true => Payload::given(&mut *memory, region),
                false => Payload::kept(&mut *memory, region),
            };
            let sent = a.send(payload.expect("inside"), soon()).expect("sent");
            assert_eq!((sent.method(), sent.copies()), (Method::Map, 1));
            fill(&mut *memory, 0, &vec![0xEE; len as usize]);
            let (region, method, copies) = receiver.receive(&mut b);
            assert_eq!((region.len(), method, copies), (len, Method::Map, 1));
            assert!(receiver.bytes(region) == pattern(len, seed));
            let released = receiver
                .slots
                .release(&mut receiver.memory, region.offset())
                .expect("a slot");
            assert_eq!(released, Released::Kept);
        }

        let payload = Payload::kept(&mut *memory, Region::new(0, MIB)).expect("inside");
        a.send(payload, soon()).expect("sent");
        let mut sink = CountingSink::default();
        let delivery = b.recv(&mut sink, soon()).expect("received");
        let receipt = delivery.receipt();
        assert_eq!((receipt.method(), receipt.copies()), (Method::Copy, 2));
    }
}

#[test]
fn one_segment_serves_many_receivers_who_do_not_see_each_other() {
    const RECEIVERS: usize = 20;
    let mut memory = PageBuffer::new(4 << 20).expect("memory");
    let mut slots = Slots::default();
    fill(&mut memory, 0, &pattern(4 * MIB, 1));
    let payload = slots
        .share(&mut memory, Region::new(0, 4 * MIB - 3))
        .expect("a segment");
    fill(&mut memory, 0, &vec![0; 4 << 20]);
    let mut links: Vec<_> = (0..RECEIVERS)
        .map(|_| (both(&Options::default()), Receiver::new(8 * MIB)))
        .collect();
    let mut regions = Vec::new();
    for ((a, b), receiver) in &mut links {
        a.send_shared(&payload, soon()).expect("sent");
        let (region, method, copies) = receiver.receive(b);
        assert_eq!((method, copies), (Method::Map, 1));
        regions.push(region);
    }
    drop(payload);
    assert_eq!(slots.report().segments, 1, "one copy for all of them");
    for (at, ((_, receiver), region)) in links.iter_mut().zip(&regions).enumerate() {
        assert!(receiver.bytes(*region) == pattern(4 * MIB, 1)[..4 * 1024 * 1024 - 3]);
        let mine = region.span(&mut receiver.memory).expect("inside");
        mine.copy_from_slice(&vec![at as u8; region.len() as usize]);
    }
    for (at, (((a, b), receiver), region)) in links.iter_mut().zip(&regions).enumerate() {
        assert!(receiver.bytes(*region).iter().all(|byte| *byte == at as u8));
        assert_eq!(slots.report().away, 1, "somebody has it");
        receiver
            .slots
            .release(&mut receiver.memory, region.offset())
            .expect("a slot");
        // With the next operation the sender is told.
        let mut sink = CountingSink::default();
        assert!(matches!(b.try_recv(&mut sink), Ok(None)));
        assert!(a.listen(soon()).expect("a release"));
    }
    assert_eq!(slots.report().away, 0);
}

#[test]
fn a_segment_that_one_link_has_is_used_for_no_other() {
    let mut memory = PageBuffer::new(2 << 20).expect("memory");
    let mut slots = Slots::new(SlotOptions::default());
    let all = Region::new(0, 2 * MIB);
    let (mut a, mut b) = both(&Options::default());
    let mut receiver = Receiver::new(8 * MIB);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let payload = slots.share(&mut memory, all).expect("a segment");
        ids.push(std::sync::Arc::as_ptr(payload.segment()));
        a.send_shared(&payload, soon()).expect("sent");
        let (region, ..) = receiver.receive(&mut b);
        receiver
            .slots
            .release(&mut receiver.memory, region.offset())
            .expect("a slot");
        assert!(matches!(b.try_recv(&mut CountingSink::default()), Ok(None)));
        assert!(a.listen(soon()).expect("a release"));
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "whoever had it could still look into it");
    assert_eq!(slots.report().away, 0);
}

#[test]
fn a_receiver_that_releases_nothing_stops_its_own_link_only() {
    let mut memory = PageBuffer::new(4096).expect("memory");
    let mut slots = Slots::default();
    let payload = slots
        .share(&mut memory, Region::new(0, 4096))
        .expect("a segment");
    let (mut a, mut b) = both(&Options::default());
    let mut receiver = Receiver::new(16 * MIB);
    let mut sent = 0;
    let error = loop {
        match a.send_shared(&payload, Deadline::after(Duration::from_millis(20))) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        receiver.receive(&mut b);
        assert!(sent < 10_000, "without bound");
    };
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert!(a.is_open() && sent > 1);
    let (mut other, mut there) = both(&Options::default());
    other.send_shared(&payload, soon()).expect("another link");
    Receiver::new(MIB).receive(&mut there);
    // It dies: what it held comes back.
    drop((b, there));
    drop((a, other, payload));
    assert_eq!(slots.report().away, 0);
}

#[test]
fn without_a_segment_to_spare_payloads_go_as_they_would_otherwise() {
    let (mut a, mut b) = both(&segments().segment_from(0));
    let mut memory = host_memory(100_000);
    let mut methods = Vec::new();
    for _ in 0..70 {
        let payload = Payload::kept(&mut *memory, Region::new(0, 1000)).expect("inside");
        methods.push(a.send(payload, soon()).expect("room").method());
    }
    let mapped = methods.iter().take_while(|method| **method == Method::Map);
    assert_eq!(mapped.count(), 64);
    assert!(methods[64..].iter().all(|method| *method == Method::Inline));
    for _ in 0..70 {
        b.recv(&mut CountingSink::default(), soon()).expect("sent");
    }
    // Copied out, so released.
    assert!(matches!(b.try_recv(&mut CountingSink::default()), Ok(None)));
    let payload = Payload::kept(&mut *memory, Region::new(0, 1000)).expect("inside");
    assert_eq!(a.send(payload, soon()).expect("room").method(), Method::Map);
}

#[test]
fn a_payload_of_a_trusted_link_goes_nowhere_else() {
    let mut policy = Policy::default();
    policy.trusted = true;
    let (trusted, _there) = link(policy);
    let mut memory = PageBuffer::new(2 << 20).expect("memory");
    let mut slots = Slots::default();
    let region = Region::new(0, 2 * MIB);
    slots.bind(&mut memory, region).expect("a slot");
    let payload = slots
        .hand_over(&mut memory, region, trusted.trust())
        .expect("handed over")
        .expect("a loaned slot");
    let (mut a, _b) = both(&Options::default());
    let error = a.send_shared(&payload, soon()).expect_err("not this link");
    assert!(matches!(error, TransferError::Refused(_)), "{error}");
}

#[test]
fn slots_of_a_links_audience_go_to_and_fro() {
    let (mut a, mut b) = both(&Options::default());
    let mut memory = PageBuffer::new(4 << 20).expect("memory");
    let mut slots = Slots::for_audience(SlotOptions::default(), a.audience());
    let mut receiver = Receiver::new(8 * MIB);
    let place = Region::new(0, 2 * MIB);
    slots.bind(&mut memory, place).expect("a slot");
    let mut segments = Vec::new();
    for round in 0..4 {
        if round > 0 {
            assert_eq!(slots.loan(&mut memory, 2 * MIB), Some(place));
        }
        fill(&mut memory, 0, &pattern(2 * MIB, round));
        let payload = slots
            .hand_over(&mut memory, place, None)
            .expect("handed over")
            .expect("a loaned slot");
        segments.push(std::sync::Arc::as_ptr(payload.segment()));
        let sent = a.send_shared(&payload, soon()).expect("sent");
        drop(payload);
        assert_eq!((sent.method(), sent.copies()), (Method::Slot, 0));
        // What the function writes now is its own.
        fill(&mut memory, 0, &vec![0xEE; 2 << 20]);
        assert_eq!(
            slots.loan(&mut memory, 2 * MIB),
            None,
            "the receiver has it"
        );
        let (region, method, copies) = receiver.receive(&mut b);
        assert_eq!((method, copies), (Method::Slot, 0));
        assert!(receiver.bytes(region) == pattern(2 * MIB, round));
        // Nothing of what the receiver writes comes back.
        fill(&mut receiver.memory, region.offset(), &vec![0xAA; 1 << 20]);
        receiver
            .slots
            .release(&mut receiver.memory, region.offset())
            .expect("a slot");
        assert!(matches!(b.try_recv(&mut CountingSink::default()), Ok(None)));
        assert!(a.listen(soon()).expect("a release"));
    }
    segments.dedup();
    assert_eq!(segments.len(), 1, "it is used again");
}

#[test]
fn a_limit_without_end_is_one() {
    let (mut a, mut b) = both(&segments().limit(u64::MAX));
    let mut memory = host_memory(MIB);
    fill(&mut *memory, 0, &pattern(MIB, 1));
    let payload = Payload::kept(&mut *memory, Region::new(0, MIB)).expect("inside");
    a.send(payload, soon()).expect("sent");
    let mut receiver = Receiver::new(4 * MIB);
    let (region, method, _) = receiver.receive(&mut b);
    assert_eq!(method, Method::Map);
    assert!(receiver.bytes(region) == pattern(MIB, 1));
}

/// Has no room, and says so in the worst way.
struct Panics<'a>(&'a mut PageBuffer);

impl Sink for Panics<'_> {
    fn reserve(&mut self, _len: u64, _align: u64) -> Result<Region, TransferError> {
        panic!("as the test wants it")
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.0
    }

    fn release(&mut self, _region: Region) {}
}

#[test]
fn a_sink_that_panics_does_not_take_the_slots_along() {
    let (mut a, mut b) = both(&segments());
    let mut memory = host_memory(2 * MIB);
    let mut receiver = Receiver::new(16 * MIB);
    let mut send = |len| {
        let payload = Payload::kept(&mut *memory, Region::new(0, len)).expect("inside");
        a.send(payload, soon()).expect("sent");
    };
    send(MIB);
    let (held, ..) = receiver.receive(&mut b);
    send(2 * MIB);
    let Receiver { memory, slots, .. } = &mut receiver;
    let received = catch_unwind(AssertUnwindSafe(|| {
        b.recv_with(slots, &mut Panics(memory), soon())
    }));
    assert!(received.is_err());
    assert_eq!(slots.report().received, 1, "what is still mapped");
    let released = slots.release(memory, held.offset());
    assert!(matches!(released, Ok(Released::Kept)), "{released:?}");
}
