//! Slots that stay mapped at both ends, and links that do not let them.

use roadrunner_core::testing::{fill, pattern, soon, CountingSink};
use roadrunner_core::{LinearMemory, Method, Region, Sink, TransferError};
use roadrunner_mem::{PageBuffer, SharedPayload, SlotOptions, Slots};
use roadrunner_uds::{pair, Link, Options, UnixWire};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

const LEN: u64 = 2 << 20;

/// A function with one slot, at the start of its memory.
struct Function {
    memory: PageBuffer,
    slots: Slots,
    next: u64,
}

impl Function {
    fn for_link(link: &Link, slots: usize) -> Self {
        let mut options = SlotOptions::default();
        options.slots = slots;
        Self {
            memory: PageBuffer::new(64 << 20).expect("memory"),
            slots: Slots::for_audience(options, link.audience()),
            next: 0,
        }
    }

    fn loan(&mut self) -> Region {
        if let Some(region) = self.slots.loan(&mut self.memory, LEN) {
            return region;
        }
        let place = Heap(&mut self.memory, &mut self.next)
            .reserve(LEN, LEN)
            .expect("room");
        self.slots.bind(&mut self.memory, place).expect("a slot");
        place
    }

    fn hand_over(&mut self, link: &Link, region: Region) -> SharedPayload {
        self.slots
            .hand_over(&mut self.memory, region, link.trust())
            .expect("handed over")
            .expect("a loaned slot")
    }

    fn receive(&mut self, link: &mut Link) -> Region {
        let mut sink = Heap(&mut self.memory, &mut self.next);
        let delivery = link
            .recv_with(&mut self.slots, &mut sink, soon())
            .expect("received");
        assert_eq!(delivery.receipt().method(), Method::Slot);
        assert_eq!(delivery.receipt().copies(), 0);
        delivery.region()
    }

    fn bytes(&mut self, region: Region) -> Vec<u8> {
        let mut bytes = vec![0; region.len() as usize];
        let span = region.span(&mut self.memory).expect("inside");
        span.copy_to_slice(&mut bytes);
        bytes
    }

    fn release(&mut self, region: Region) {
        self.slots
            .release(&mut self.memory, region.offset())
            .expect("a slot");
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

/// Ends whose operators say this.
fn ends(here: bool, there: bool) -> (Link, Link) {
    let (a, b) = UnixStream::pair().expect("sockets");
    let wire = |socket, trusted| {
        UnixWire::new(socket, &Options::default().trusted(trusted)).expect("our own uid")
    };
    let (a, b) = (wire(a, here), wire(b, there));
    thread::scope(|scope| {
        let other = scope.spawn(|| Link::accept(b, 1 << 30, soon()).expect("hello"));
        let one = Link::connect(a, "trust", 1 << 30, soon()).expect("hello");
        (one, other.join().expect("no panic"))
    })
}

#[test]
fn trust_takes_the_operators_of_both_ends() {
    for (here, there) in [(false, false), (false, true), (true, false), (true, true)] {
        let (a, b) = ends(here, there);
        assert_eq!(a.trust().is_some(), here && there);
        assert_eq!(b.trust().is_some(), here && there);
    }
}

#[test]
fn a_trusted_slot_stays_where_it_is_at_both_ends() {
    let (mut a, mut b) = ends(true, true);
    let (mut sender, mut receiver) = (Function::for_link(&a, 4), Function::for_link(&b, 4));
    let mut seen = Vec::new();
    for round in 0..5 {
        let region = sender.loan();
        fill(&mut sender.memory, region.offset(), &pattern(LEN, round));
        let payload = sender.hand_over(&a, region);
        a.send_shared(&payload, soon()).expect("sent");
        let segment = Arc::as_ptr(payload.segment());
        drop(payload);
        let got = receiver.receive(&mut b);
        assert!(receiver.bytes(got) == pattern(LEN, round));
        // That is what trust means.
        fill(&mut sender.memory, region.offset(), b"late");
        assert_eq!(receiver.bytes(got)[..4], *b"late");
        fill(&mut receiver.memory, got.offset(), b"back");
        assert_eq!(sender.bytes(region)[..4], *b"back");
        assert!(sender.slots.loan(&mut sender.memory, LEN).is_none());
        receiver.release(got);
        assert!(matches!(b.try_recv(&mut CountingSink::default()), Ok(None)));
        assert!(a.listen(soon()).expect("a release"));
        seen.push((region, got, segment));
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "the same slot in the same places");
}

#[test]
fn a_trusted_slot_goes_by_its_own_link_alone() {
    let (mut a, mut b) = ends(true, true);
    let (mut other, _other) = ends(true, true);
    let (mut strict, _strict) = pair("strict", &Options::default()).expect("a pair");
    let (mut sender, mut receiver) = (Function::for_link(&a, 4), Function::for_link(&b, 4));
    let region = sender.loan();
    let payload = sender.hand_over(&a, region);
    for link in [&mut other, &mut strict] {
        let refused = link.send_shared(&payload, soon());
        assert!(
            matches!(refused, Err(TransferError::Refused(_))),
            "{refused:?}"
        );
    }
    a.send_shared(&payload, soon()).expect("its own");
    drop(payload);
    let got = receiver.receive(&mut b);
    receiver.release(got);
    assert!(matches!(b.try_recv(&mut CountingSink::default()), Ok(None)));
    assert!(a.listen(soon()).expect("a release"));
    // The receiver can still write to it.
    let region = sender.loan();
    let elsewhere = sender
        .slots
        .hand_over(&mut sender.memory, region, other.trust());
    assert!(matches!(elsewhere, Ok(None)), "{elsewhere:?}");
}

#[test]
fn what_a_dead_receiver_had_is_used_for_nobody_else() {
    let (mut a, mut b) = ends(true, true);
    let mut sender = Function::for_link(&a, 1);
    let mut receiver = Function::for_link(&b, 1);
    let region = sender.loan();
    fill(&mut sender.memory, region.offset(), &pattern(LEN, 1));
    let payload = sender.hand_over(&a, region);
    a.send_shared(&payload, soon()).expect("sent");
    let segment = payload.segment().clone();
    drop(payload);
    let got = receiver.receive(&mut b);
    // It dies, and has the slot mapped for as long as it likes.
    drop((a, b));
    assert_eq!(sender.slots.report().away, 0, "it is reclaimed");
    let (mut c, mut d) = pair("next", &Options::default()).expect("a pair");
    let mut next = Slots::for_audience(SlotOptions::default(), c.audience());
    std::mem::swap(&mut sender.slots, &mut next);
    drop(next);
    let region = sender.loan();
    fill(&mut sender.memory, region.offset(), &pattern(LEN, 2));
    let payload = sender.hand_over(&c, region);
    assert!(!Arc::ptr_eq(payload.segment(), &segment));
    c.send_shared(&payload, soon()).expect("sent");
    let mut another = Function::for_link(&d, 1);
    let region = another.receive(&mut d);
    assert!(another.bytes(region) == pattern(LEN, 2));
    assert!(
        receiver.bytes(got) == pattern(LEN, 1),
        "it sees what follows"
    );
}

#[test]
fn one_slot_is_enough_although_a_receiver_has_it_for_good() {
    let (mut a, mut b) = ends(true, true);
    let (mut sender, mut receiver) = (Function::for_link(&a, 1), Function::for_link(&b, 1));
    let region = sender.loan();
    fill(&mut sender.memory, region.offset(), &pattern(LEN, 1));
    let payload = sender.hand_over(&a, region);
    a.send_shared(&payload, soon()).expect("sent");
    drop(payload);
    let got = receiver.receive(&mut b);
    let place = Region::new(32 << 20, 2 * LEN);
    let full = sender.slots.bind(&mut sender.memory, place);
    assert!(
        matches!(full, Err(TransferError::NoRoom { .. })),
        "{full:?}"
    );
    drop((a, b));
    // The larger one takes the place of what nobody needs any more, which is out of the memory now.
    sender
        .slots
        .bind(&mut sender.memory, place)
        .expect("reclaimed");
    fill(&mut sender.memory, region.offset(), &pattern(LEN, 2));
    assert!(receiver.bytes(got) == pattern(LEN, 1), "it is still there");
}
