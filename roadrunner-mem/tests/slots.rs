//! Slots between the memories of two functions.

use nix::sys::stat::fstat;
use roadrunner_core::{
    Deadline, Delivery, HostMemory, LinearMemory, Method, Payload, Region, Sink, Transfer,
    TransferError,
};
use roadrunner_mem::{
    link, Link, PageBuffer, Policy, Released, Segment, SharedPayload, SlotOptions, Slots, Trust,
    PAGE_SIZE,
};
use std::sync::Arc;
use std::time::Duration;

const PAGE: u64 = PAGE_SIZE as u64;
const LEN: u64 = 5 * PAGE;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A function: a memory, an allocator that only goes forward, and its slots.
struct Function {
    memory: PageBuffer,
    next: u64,
    slots: Slots,
}

impl Function {
    fn new() -> Self {
        Self {
            memory: PageBuffer::new(64 << 20).expect("memory"),
            next: 3 * PAGE,
            slots: Slots::new(SlotOptions::default()),
        }
    }

    /// A loan for `len` bytes: a place that is there, or a new one.
    fn loan(&mut self, len: u64) -> Region {
        if let Some(region) = self.slots.loan(&mut self.memory, len) {
            return region;
        }
        let place = self.allocate(len.next_multiple_of(PAGE));
        self.slots
            .bind(&mut self.memory, place)
            .expect("room for a slot");
        Region::new(place.offset(), len)
    }

    fn allocate(&mut self, len: u64) -> Region {
        let region = Region::new(self.next, len);
        self.next += len.next_multiple_of(PAGE);
        region
    }

    fn write(&mut self, region: Region, bytes: &[u8]) {
        let span = region.span(&mut self.memory).expect("inside");
        assert_eq!(span.copy_from_slice(bytes), bytes.len());
    }

    fn read(&mut self, region: Region) -> Vec<u8> {
        let mut bytes = vec![0; region.len() as usize];
        let span = region.span(&mut self.memory).expect("inside");
        span.copy_to_slice(&mut bytes);
        bytes
    }

    fn send(&mut self, link: &mut Link, region: Region, trust: Option<Trust>) {
        let payload = self
            .slots
            .hand_over(&mut self.memory, region, trust)
            .expect("handed over")
            .expect("a loaned slot");
        let receipt = link.send_shared(&payload, soon()).expect("sent");
        assert_eq!((receipt.method(), receipt.copies()), (Method::Slot, 0));
    }

    fn receive(&mut self, link: &mut Link) -> Delivery {
        let mut allocator = Allocator(&mut self.memory, &mut self.next);
        link.recv_with(&mut self.slots, &mut allocator, soon())
            .expect("sent")
    }

    fn release(&mut self, region: Region) -> Released {
        self.slots
            .release(&mut self.memory, region.offset())
            .expect("released")
    }

    fn has(&self, secret: &[u8]) -> bool {
        self.memory
            .as_slice()
            .windows(secret.len())
            .any(|window| window == secret)
    }
}

struct Allocator<'a>(&'a mut PageBuffer, &'a mut u64);

impl Sink for Allocator<'_> {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        let offset = self.1.next_multiple_of(align);
        *self.1 = offset + len;
        Ok(Region::new(offset, len))
    }
    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.0
    }
    fn release(&mut self, _region: Region) {}
}

fn trusted() -> Policy {
    let mut policy = Policy::default();
    policy.trusted = true;
    policy
}

fn pattern(len: u64, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ seed).collect()
}

#[test]
fn a_slot_is_handed_over_again_and_again() {
    for policy in [Policy::default(), trusted()] {
        let (mut here, mut there) = link(policy);
        let (mut sender, mut receiver) = (Function::new(), Function::new());
        let mut places = Vec::new();
        for round in 0..20 {
            let len = LEN - u64::from(round) * 100;
            let bytes = pattern(len, round);
            let region = sender.loan(len);
            sender.write(region, &bytes);
            let trust = here.trust();
            sender.send(&mut here, region, trust);
            let delivery = receiver.receive(&mut there);
            let receipt = delivery.receipt();
            assert_eq!((receipt.method(), receipt.copies()), (Method::Slot, 0));
            assert_eq!(receipt.bytes(), len);
            assert!(receiver.read(delivery.region()) == bytes, "round {round}");
            // What the receiver writes into its copy is gone in the next round.
            let scribble = vec![0xff; len as usize];
            receiver.write(delivery.region(), &scribble);
            assert_eq!(receiver.release(delivery.region()), Released::Kept);
            places.push((region.offset(), delivery.region().offset()));
        }
        assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
        assert_eq!(sender.slots.report().segments, 1);
        assert_eq!(sender.slots.report().away, 0);
    }
}

#[test]
fn what_the_sender_writes_afterwards_stays_its_own() {
    let (mut here, mut there) = link(Policy::default());
    let (mut sender, mut receiver) = (Function::new(), Function::new());
    let bytes = pattern(LEN, 1);
    let region = sender.loan(LEN);
    sender.write(region, &bytes);
    sender.send(&mut here, region, None);
    assert!(
        sender.read(region) == vec![0; LEN as usize],
        "it still sees it"
    );
    sender.write(region, &vec![0xee; LEN as usize]);
    let delivery = receiver.receive(&mut there);
    assert!(receiver.read(delivery.region()) == bytes, "a late write");
    sender.write(region, &vec![0xdd; LEN as usize]);
    assert!(receiver.read(delivery.region()) == bytes, "a later write");
    // Sent twice: there is no such loan any more.
    let again = sender.slots.hand_over(&mut sender.memory, region, None);
    assert!(matches!(again, Ok(None)), "{again:?}");
}

#[test]
fn nothing_but_the_payload_crosses() {
    let secret = b"the sender's earlier, longer payload";
    let theirs = b"what the receiver wrote into its copy";
    let (mut here, mut there) = link(Policy::default());
    let (mut sender, mut receiver) = (Function::new(), Function::new());
    let region = sender.loan(LEN);
    let mut bytes = vec![b'.'; LEN as usize];
    bytes[4 * PAGE_SIZE..4 * PAGE_SIZE + secret.len()].copy_from_slice(secret);
    sender.write(region, &bytes);
    // It ends in front of the secret.
    let short = Region::new(region.offset(), 4 * PAGE - 7);
    sender.send(&mut here, short, None);
    let delivery = receiver.receive(&mut there);
    assert!(!receiver.has(secret), "beyond the payload's end");
    receiver.write(delivery.region(), theirs);
    receiver.release(delivery.region());
    assert!(!receiver.has(theirs), "released, and still there");
    let region = sender.loan(LEN);
    assert!(!sender.has(theirs), "came back with the slot");
    assert_eq!(sender.slots.report().segments, 1, "the same one");
    sender
        .slots
        .release(&mut sender.memory, region.offset())
        .expect("released");
}

#[test]
fn many_receivers_do_not_see_each_others_writes() {
    for copied in [false, true] {
        let mut sender = Function::new();
        let region = sender.loan(LEN);
        let bytes = pattern(LEN, 7);
        sender.write(region, &bytes);
        let payload = if copied {
            sender
                .slots
                .share(&mut sender.memory, region)
                .expect("room")
        } else {
            let handed = sender.slots.hand_over(&mut sender.memory, region, None);
            handed.expect("handed over").expect("loaned")
        };
        let method = if copied { Method::Map } else { Method::Slot };
        let mut receivers: Vec<_> = (0..8)
            .map(|_| {
                let (mut here, mut there) = link(Policy::default());
                here.send_shared(&payload, soon()).expect("sent");
                let mut receiver = Function::new();
                let delivery = receiver.receive(&mut there);
                assert_eq!(delivery.receipt().method(), method);
                (receiver, delivery.region())
            })
            .collect();
        drop(payload);
        for (at, (receiver, region)) in receivers.iter_mut().enumerate() {
            assert!(receiver.read(*region) == bytes, "before it wrote itself");
            receiver.write(*region, &vec![at as u8; LEN as usize]);
        }
        for (at, (receiver, region)) in receivers.iter_mut().enumerate() {
            assert!(receiver.read(*region) == vec![at as u8; LEN as usize]);
        }
        assert_eq!(sender.slots.report().away, 1);
        drop(receivers);
        assert_eq!(sender.slots.report().away, 0, "reclaimed from the dead");
    }
}

#[test]
fn a_receiver_without_slots_gets_a_copy() {
    let (mut here, mut there) = link(Policy::default());
    let mut sender = Function::new();
    let bytes = pattern(LEN, 9);
    let region = sender.loan(LEN);
    sender.write(region, &bytes);
    sender.send(&mut here, region, None);
    let mut memory = HostMemory::new();
    let delivery = there.recv(&mut memory, soon()).expect("sent");
    assert_eq!(delivery.receipt().method(), Method::Copy);
    assert_eq!(delivery.receipt().copies(), 1);
    assert!(memory.bytes(delivery.region()) == Some(&bytes));
    assert_eq!(sender.slots.report().away, 0);
}

#[test]
fn a_trusted_slot_goes_nowhere_else() {
    let (mut here, mut there) = link(trusted());
    let (mut elsewhere, _there) = link(Policy::default());
    let (mut other, _other_end) = link(trusted());
    let (mut sender, mut receiver) = (Function::new(), Function::new());
    let region = sender.loan(LEN);
    let payload = sender
        .slots
        .hand_over(&mut sender.memory, region, here.trust())
        .expect("handed over")
        .expect("loaned");
    for link in [&mut elsewhere, &mut other] {
        let refused = link.send_shared(&payload, soon());
        assert!(
            matches!(refused, Err(TransferError::Refused(_))),
            "{refused:?}"
        );
    }
    here.send_shared(&payload, soon()).expect("its own link");
    drop(payload);
    let delivery = receiver.receive(&mut there);
    receiver.release(delivery.region());
    // The receiver still has it mapped: what goes elsewhere must be another.
    let region = sender.loan(LEN);
    let strict = sender.slots.hand_over(&mut sender.memory, region, None);
    assert!(matches!(strict, Ok(None)), "{strict:?}");
    assert!(elsewhere.trust().is_none());
}

#[test]
fn a_receiver_that_keeps_everything_stops_the_sender_only() {
    let (mut here, mut there) = link(Policy::default());
    let mut options = SlotOptions::default();
    options.slots = 3;
    let (mut sender, mut receiver) = (Function::new(), Function::new());
    sender.slots = Slots::new(options);
    let mut held = Vec::new();
    for round in 0..3 {
        let region = sender.loan(LEN);
        sender.write(region, &pattern(LEN, round));
        sender.send(&mut here, region, None);
        held.push(receiver.receive(&mut there).region());
    }
    assert!(sender.slots.loan(&mut sender.memory, LEN).is_none());
    let place = sender.allocate(LEN);
    let refused = sender.slots.bind(&mut sender.memory, place);
    assert!(
        matches!(refused, Err(TransferError::NoRoom { .. })),
        "{refused:?}"
    );
    for (round, region) in held.iter().enumerate() {
        assert!(receiver.read(*region) == pattern(LEN, round as u8));
    }
    receiver.release(held[1]);
    assert!(sender.slots.loan(&mut sender.memory, LEN).is_some());
}

#[test]
fn places_that_cannot_hold_a_slot_are_refused() {
    let mut function = Function::new();
    let size = function.memory.len() as u64;
    let good = function.loan(LEN);
    for region in [
        Region::new(PAGE + 1, PAGE),
        Region::new(PAGE, PAGE - 1),
        Region::new(PAGE, 0),
        Region::new(good.offset(), PAGE),
        Region::new(good.offset() - PAGE, LEN),
        Region::new(size, PAGE),
        Region::new(u64::MAX - PAGE + 1, PAGE),
        Region::new(0, u64::MAX),
    ] {
        let refused = function.slots.bind(&mut function.memory, region);
        assert!(refused.is_err(), "{region}");
    }
    let opaque = &mut HostMemory::from(vec![0; 64 << 10]);
    assert!(function.slots.bind(opaque, Region::new(0, PAGE)).is_err());
    assert!(function
        .slots
        .overlaps(Region::new(good.offset() + PAGE, 1)));
    assert!(!function.slots.overlaps(Region::new(good.offset(), 0)));
    assert!(!function
        .slots
        .overlaps(Region::new(good.offset() + LEN, 10 * PAGE)));
    assert_eq!(
        function.release(Region::new(7 * PAGE, 0)),
        Released::NotASlot
    );
    // An ordinary payload beside it goes as ever.
    let (mut here, mut there) = link(Policy::default());
    let payload = Payload::kept(&mut function.memory, Region::new(0, PAGE)).expect("inside");
    here.send(payload, soon()).expect("sent");
    there.recv(&mut HostMemory::new(), soon()).expect("sent");
}

#[test]
fn a_payload_that_was_not_sent_is_taken_back() {
    let (mut here, there) = link(Policy::default());
    drop(there);
    let mut sender = Function::new();
    let region = sender.loan(LEN);
    let bytes = pattern(LEN, 3);
    sender.write(region, &bytes);
    let handed = sender.slots.hand_over(&mut sender.memory, region, None);
    let payload = handed.expect("handed over").expect("loaned");
    assert!(here.send_shared(&payload, soon()).is_err());
    assert!(sender.slots.take_back(&mut sender.memory, payload));
    assert!(sender.read(region) == bytes);
    assert_eq!(sender.slots.report().loaned, 1);
}

#[test]
fn holes_in_a_segment_are_not_filled_by_receiving_it() {
    let mut receiver = Function::new();
    let bytes = |segment: &Segment| fstat(segment).expect("a memfd").st_blocks * 512;
    for (len, segment_len) in [(1, 32 << 20), (16 << 20, 16 << 20)] {
        let segment = Arc::new(Segment::new(segment_len).expect("a segment"));
        for write in [false, true] {
            let payload = SharedPayload::received(segment.clone(), len, 0, || ());
            let payload = payload.expect("it fits");
            let mut allocator = Allocator(&mut receiver.memory, &mut receiver.next);
            let received = receiver.slots.receive(payload, &mut allocator, None);
            let (region, copies) = received.expect("room");
            assert_eq!(copies, 0);
            if write {
                receiver.write(Region::new(region.offset(), 1), b"!");
            }
            assert_ne!(receiver.release(region), Released::NotASlot);
            assert!(bytes(&segment) <= 64 << 10, "{} of {len}", bytes(&segment));
        }
    }
}

#[test]
fn payloads_of_many_sizes_leave_a_receiver_its_memory() {
    let (mut here, mut there) = link(Policy::default());
    let (mut sender, mut receiver) = (Function::new(), Function::new());
    let mut kept = 0;
    for size in 1..=10 {
        let len = ((1 << size) - 1) * PAGE;
        let region = sender.loan(len);
        sender.send(&mut here, region, None);
        let region = receiver.receive(&mut there).region();
        match receiver.release(region) {
            Released::Kept => kept += 1,
            other => assert_eq!(other, Released::Returned),
        }
    }
    assert_eq!(receiver.slots.places().count(), kept);
    assert!((1..=4).contains(&kept), "{kept} places are kept");
}
