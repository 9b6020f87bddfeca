//! Slots of real functions over UNIX sockets, where segments are passed by descriptor: and functions that do not keep to it.
//! Nobody else gets other bytes, and what they hold comes back.

use crate::support::puppet::{By, Do, Puppet};
use crate::support::soon;
use roadrunner_core::{Deadline, Method, Region, TransferError};
use roadrunner_mem::{Misuse, SlotOptions};
use roadrunner_uds::{pair, Link, Options};
use roadrunner_wasmedge::function::FunctionOptions;
use std::time::Duration;

const MIB: u32 = 1 << 20;
/// Where the tests put their slots.
const PLACES: [u32; 2] = [2 * MIB, 4 * MIB];
const LEN: u32 = 2 * MIB;
const ALL: i32 = LEN as i32;

/// A link, and its sender with two slots, each full of its number.
struct Edge {
    here: Link,
    there: Link,
    from: Puppet,
    to: Puppet,
}

impl Edge {
    fn new(trusted: bool) -> Self {
        let options = Options::default().slots(true).trusted(trusted);
        let (here, there) = pair("edge", &options).expect("a pair");
        let mut slots = SlotOptions::default();
        slots.slots = PLACES.len();
        let options = FunctionOptions::new("puppet").slots(Some(slots));
        let mut from = Puppet::with(options.audience(Some(here.audience())));
        for (number, place) in PLACES.into_iter().enumerate() {
            let done = from.act(&[Do::Bind(place, LEN), Do::Fill(place, LEN, number as u8 + 1)]);
            assert_eq!(done, [0, 0]);
        }
        Self {
            here,
            there,
            from,
            to: Puppet::new(),
        }
    }

    fn send(&mut self, place: u32) {
        let sent = self
            .from
            .try_act(&[Do::Send(place, LEN, true)], &mut By::new(&mut self.here));
        assert_eq!(sent.expect("it goes on"), [0]);
    }

    /// The next payload is a slot.
    fn receive(&mut self) -> u32 {
        let delivery = self.to.take(&mut self.there);
        let receipt = delivery.receipt();
        assert_eq!((receipt.method(), receipt.copies()), (Method::Slot, 0));
        offset(delivery.region())
    }

    /// What the receiver released comes back to the sender with what it hears next.
    fn hear(&mut self) {
        let at_once = Deadline::after(Duration::from_millis(1));
        let nothing = self.to.receive(&mut self.there, at_once);
        assert!(
            matches!(nothing, Err(TransferError::Timeout)),
            "{nothing:?}"
        );
        while self.here.listen(Deadline::now()).expect("it is open") {}
    }

    fn away(&mut self) -> usize {
        self.from.slots().expect("it has some").away
    }

    /// Both functions still do what they should.
    fn goes_on(&mut self, byte: u8) {
        let place = self.from.one(Do::Loan(LEN)) as u32;
        assert!(PLACES.contains(&place), "no slot came back");
        self.from.one(Do::Fill(place, LEN, byte));
        self.send(place);
        let at = self.receive();
        assert_eq!(
            self.to.act(&[Do::Count(at, LEN, byte), Do::Release(at)])[0],
            ALL
        );
        self.hear();
    }
}

fn misuse(function: &mut Puppet) -> Misuse {
    function.misuse().expect("it has slots")
}

fn offset(region: Region) -> u32 {
    region.offset() as u32
}

#[test]
fn who_keeps_to_it_gets_the_same_slots_again_and_again() {
    for trusted in [false, true] {
        let mut edge = Edge::new(trusted);
        edge.from
            .act(&[Do::Release(PLACES[0]), Do::Release(PLACES[1])]);
        for round in 0..20 {
            edge.goes_on(round);
        }
        let report = edge.from.slots().expect("it has some");
        assert_eq!((report.segments, report.away), (2, 0));
        assert_eq!(edge.to.slots().expect("it has some").received, 0);
    }
}

#[test]
fn a_receiver_that_never_releases_has_its_own_sender_s_slots_and_no_others() {
    for trusted in [false, true] {
        let (mut edge, mut other) = (Edge::new(trusted), Edge::new(trusted));
        for place in PLACES {
            edge.send(place);
        }
        let held = [edge.receive(), edge.receive()];
        edge.hear();
        // The report says who has them.
        assert_eq!(edge.away(), 2);
        assert_eq!(edge.to.slots().expect("it has some").received, 2);
        assert_eq!(misuse(&mut edge.to).unreleased, 2);
        assert!(misuse(&mut edge.from).is_none());
        let refused = edge.from.act(&[Do::Loan(LEN), Do::Bind(6 * MIB, LEN)]);
        assert_eq!(refused[0], 0, "a loan of what is away");
        assert_ne!(refused[1], 0, "more slots than it may have");
        for (number, at) in held.into_iter().enumerate() {
            assert_eq!(edge.to.one(Do::Count(at, LEN, number as u8 + 1)), ALL);
        }
        // Payloads that are no slots still go.
        edge.from.one(Do::Fill(6 * MIB, MIB / 2, 77));
        let beside = [Do::Send(6 * MIB, MIB / 2, false)];
        let link = &mut By::new(&mut edge.here);
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let at = offset(edge.to.take(&mut edge.there).region());
                edge.to.one(Do::Count(at, MIB / 2, 77))
            });
            edge.from.try_act(&beside, link).expect("sent");
            assert_eq!(receiver.join().expect("no panic"), MIB as i32 / 2);
        });
        other.from.act(&PLACES.map(Do::Release));
        other.goes_on(9);
        // It dies, and all comes back.
        let Edge {
            here,
            there,
            mut from,
            to,
        } = edge;
        drop((there, to, here));
        assert_eq!(from.slots().expect("it has some").away, 0);
        assert_ne!(from.one(Do::Loan(LEN)), 0);
    }
}

#[test]
fn a_slot_that_is_sent_twice_is_another_payload_the_second_time() {
    let mut edge = Edge::new(false);
    edge.send(PLACES[0]);
    let commands = [Do::Fill(PLACES[0], LEN, 66), Do::Send(PLACES[0], LEN, true)];
    let mut by = By::new(&mut edge.here);
    let (first, second) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let first = edge.to.take(&mut edge.there);
            (first, edge.to.take(&mut edge.there))
        });
        edge.from.try_act(&commands, &mut by).expect("it goes on");
        receiver.join().expect("no panic")
    });
    assert_eq!(first.receipt().method(), Method::Slot);
    // What the place holds by then is no slot.
    assert_ne!(second.receipt().method(), Method::Slot);
    let (first, second) = (offset(first.region()), offset(second.region()));
    let seen = edge.to.act(&[
        Do::Count(first, LEN, 1),
        Do::Count(second, LEN, 66),
        Do::Release(first),
        Do::Release(second),
    ]);
    assert_eq!(seen[..2], [ALL, ALL]);
    assert_eq!(misuse(&mut edge.from).sent_again, 1);
    assert!(misuse(&mut edge.to).is_none());
    edge.hear();
    assert_eq!(edge.away(), 0);
    edge.from.one(Do::Release(PLACES[1]));
    edge.goes_on(5);
}

#[test]
fn what_is_written_after_sending_is_seen_by_no_strict_receiver_and_never_by_another_link() {
    for trusted in [false, true] {
        let (mut edge, mut other) = (Edge::new(trusted), Edge::new(trusted));
        edge.send(PLACES[0]);
        other.send(PLACES[0]);
        edge.from.one(Do::Fill(PLACES[0], LEN, 99));
        let (at, beside) = (edge.receive(), other.receive());
        edge.from.one(Do::Fill(PLACES[0], LEN / 2, 98));
        let seen = edge.to.one(Do::Count(at, LEN, 1));
        // A trusted slot stays where it is: the receiver of that very link is who is hurt.
        assert_eq!(seen, if trusted { 0 } else { ALL });
        assert_eq!(other.to.one(Do::Count(beside, LEN, 1)), ALL);
        // What is written into a trusted slot is what nobody can tell from a turn of his.
        let told = u64::from(!trusted);
        assert_eq!(misuse(&mut edge.from).written_after, told);
        // Nor does the receiver write into what the sender has next.
        edge.to.act(&[Do::Fill(at, LEN, 55), Do::Release(at)]);
        edge.hear();
        assert_eq!(edge.away(), 0);
        edge.from.one(Do::Release(PLACES[1]));
        edge.goes_on(7);
    }
}

#[test]
fn who_dies_with_a_slot_gives_it_back() {
    for trusted in [false, true] {
        // A receiver that holds it, and one that has not looked.
        for holds in [false, true] {
            let mut edge = Edge::new(trusted);
            edge.send(PLACES[0]);
            if holds {
                edge.receive();
                let trapped = edge.to.try_act(&[Do::Trap], &mut By::new(&mut edge.there));
                assert!(trapped.is_err());
                assert_eq!(misuse(&mut edge.to).died_holding, 1);
            }
            assert_eq!(edge.away(), 1);
            let Edge {
                mut here,
                there,
                mut from,
                to,
            } = edge;
            drop((there, to));
            let gone = here.listen(soon());
            assert!(matches!(gone, Err(TransferError::PeerClosed)), "{gone:?}");
            drop(here);
            assert_eq!(from.slots().expect("it has some").away, 0);
        }
        // A sender: what it had sent is still there.
        let mut edge = Edge::new(trusted);
        let commands = [Do::Send(PLACES[0], LEN, true), Do::Trap];
        let trapped = edge.from.try_act(&commands, &mut By::new(&mut edge.here));
        assert!(trapped.is_err());
        // The other one, which it had on loan.
        assert_eq!(misuse(&mut edge.from).died_holding, 1);
        let Edge {
            here,
            mut there,
            from,
            mut to,
        } = edge;
        drop((from, here));
        let at = offset(to.take(&mut there).region());
        assert_eq!(to.one(Do::Count(at, LEN, 1)), ALL);
    }
}
