//! Functions that search the whole of their memory for what belongs to another one. On a strict link they find nothing but
//! what they were sent; on a trusted one they do, which shows that they look in the right places.

use crate::support::puppet::{By, Do, Puppet};
use crate::support::soon;
use roadrunner_core::{Method, Region};
use roadrunner_mem::{link, Link, Policy};
use std::sync::atomic::{AtomicU64, Ordering};

const MIB: u32 = 1 << 20;
const PLACE: u32 = 4 * MIB;
const ROOM: u32 = 3 * MIB;
/// Ends within a page, so that a part of the last one is not the payload's.
const LEN: u32 = 3 * MIB - 5000;
/// Where a puppet's first payload comes to lie, and how far from it the next one.
const FIRST: u32 = 8 * MIB;
const NEXT: u32 = 4 * MIB;
const ROUNDS: u8 = 5;

/// Eight bytes that nobody else has.
fn secret() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // No byte of it is like its neighbour or the mask, and no other one is the same at another place.
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 0x0100_0000_0000_0001
}

fn strict() -> (Link, Link) {
    let mut policy = Policy::default();
    // Less than by default, so that there is less to search.
    policy.exchange = u64::from(MIB);
    link(policy)
}

fn trusted() -> (Link, Link) {
    let mut policy = Policy::default();
    policy.trusted = true;
    link(policy)
}

/// A sender with secrets close to its payload: before and behind its room, and behind its end where an earlier payload was
/// longer.
struct Sender {
    puppet: Puppet,
    neighbours: [u64; 4],
}

impl Sender {
    fn new(slot: bool) -> Self {
        let mut puppet = Puppet::new();
        if slot {
            assert_eq!(puppet.one(Do::Bind(PLACE, ROOM)), 0);
        }
        Self {
            puppet,
            neighbours: [(); 4].map(|()| secret()),
        }
    }

    /// Makes a payload that has this secret in the first, the last and a middle page of it.
    fn write(&mut self, payload: u64, noise: u8) {
        let [before, behind, tail, page] = self.neighbours;
        let results = self.puppet.act(&[
            Do::Fill(PLACE, ROOM, noise),
            Do::Store(PLACE - 8, before),
            Do::Store(PLACE + ROOM, behind),
            Do::Store(PLACE + LEN, tail),
            Do::Store(PLACE + ROOM - 4096, page),
            Do::Store(PLACE + 8, payload),
            Do::Store(PLACE + MIB + 1, payload),
            Do::Store(PLACE + LEN - 8, payload),
        ]);
        assert_eq!(results, [0; 8]);
    }

    #[track_caller]
    fn send(&mut self, link: &mut Link, expected: Method) {
        let mut by = By::new(link);
        let sent = self
            .puppet
            .try_act(&[Do::Send(PLACE, LEN, true)], &mut by)
            .expect("results");
        assert_eq!(sent, [0]);
        assert_eq!(by.receipts[0].method(), expected);
    }
}

#[track_caller]
fn finds(puppet: &mut Puppet, secret: u64) -> i32 {
    puppet.one(Do::Search(secret))
}

#[track_caller]
fn finds_none(puppet: &mut Puppet, secrets: &[u64], who: &str) {
    for (number, secret) in secrets.iter().enumerate() {
        assert_eq!(finds(puppet, *secret), 0, "{who}: secret {number}");
    }
}

/// A receiver with a secret all over the places where its payloads come to lie.
fn receiver(own: u64) -> Puppet {
    let mut puppet = Puppet::new();
    puppet.one(Do::Grow(16 * 4 * u32::from(ROUNDS)));
    for payload in 0..u32::from(ROUNDS) {
        scatter(&mut puppet, FIRST + payload * NEXT, own);
    }
    puppet
}

/// Stores a secret in the first, the last and a middle page of what may be a payload, and where one ends.
fn scatter(puppet: &mut Puppet, at: u32, own: u64) {
    let places = [8, MIB + 1, LEN - 8, LEN, ROOM - 8];
    let stores = places.map(|place| Do::Store(at + place, own));
    puppet.act(&stores);
}

/// What a strict link must keep apart, round after round.
fn strictly_apart(method: Method) {
    let slot = method == Method::Slot;
    let mut from = Sender::new(slot);
    let own = secret();
    let mut to = receiver(own);
    let (mut here, mut there) = strict();
    for round in 0..ROUNDS {
        let sent = secret();
        from.write(sent, round);
        from.send(&mut here, method);
        finds_none(&mut from.puppet, &[own], "the sender after its send");
        let delivery = to.take(&mut there);
        assert_eq!(delivery.receipt().method(), method);
        assert_eq!(finds(&mut to, sent), 3, "the payload, round {round}");
        finds_none(&mut to, &from.neighbours, "the receiver");
        finds_none(&mut from.puppet, &[own], "the sender after the receipt");
        // The receiver writes into what it got, and gives it back.
        let at = delivery.region().offset() as u32;
        scatter(&mut to, at, own);
        assert!(finds(&mut to, own) >= 3);
        finds_none(
            &mut from.puppet,
            &[own],
            "the sender while its payload is read",
        );
        // What it still has of its own lies in a page that was not exchanged.
        assert_eq!(finds(&mut from.puppet, sent), i32::from(!slot));
        to.one(Do::Release(at));
        if slot {
            finds_none(&mut to, &[sent], "the receiver after its release");
            finds_none(
                &mut from.puppet,
                &[own, sent],
                "the sender after the release",
            );
            assert_eq!(from.puppet.one(Do::Release(PLACE)), 1);
            assert_eq!(from.puppet.one(Do::Loan(ROOM)), PLACE as i32);
        }
        finds_none(&mut from.puppet, &[own], "the sender with its next buffer");
    }
}

#[test]
fn an_exchange_shows_nothing_but_the_payload() {
    strictly_apart(Method::Exchange);
}

#[test]
fn a_slot_shows_nothing_but_the_payload() {
    strictly_apart(Method::Slot);
}

#[test]
fn receivers_of_one_payload_see_nothing_of_each_other() {
    for slot in [true, false] {
        let mut from = Sender::new(slot);
        let mut receivers: Vec<_> = (0..3)
            .map(|_| {
                let own = secret();
                (strict(), receiver(own), own)
            })
            .collect();
        let all: Vec<_> = receivers.iter().map(|(.., own)| *own).collect();
        for round in 0..ROUNDS {
            let sent = secret();
            from.write(sent, round);
            let region = from.puppet.reply(PLACE, LEN);
            let mut given = from.puppet.given(region).expect("in the memory");
            let payload = given.share().expect("shared");
            for ((here, _), ..) in &mut receivers {
                here.send_shared(&payload, soon()).expect("sent");
            }
            drop(payload);
            let mut regions: Vec<Region> = Vec::new();
            for ((_, there), to, own) in &mut receivers {
                let region = to.take(there).region();
                assert_eq!(finds(to, sent), 3, "round {round}");
                scatter(to, region.offset() as u32, *own);
                regions.push(region);
            }
            // All of them hold it, and have written to it.
            for (number, (_, to, own)) in receivers.iter_mut().enumerate() {
                let others: Vec<_> = all.iter().copied().filter(|other| other != own).collect();
                finds_none(to, &others, &format!("receiver {number}"));
                finds_none(to, &from.neighbours, &format!("receiver {number}"));
            }
            finds_none(&mut from.puppet, &all, "the sender");
            for ((_, to, _), region) in receivers.iter_mut().zip(regions) {
                to.one(Do::Release(region.offset() as u32));
                finds_none(to, &[sent], "a receiver after its release");
            }
            if slot {
                assert_eq!(from.puppet.one(Do::Loan(ROOM)), PLACE as i32);
            }
            finds_none(&mut from.puppet, &all, "the sender with its next buffer");
        }
    }
}

#[test]
fn a_receiver_that_dies_leaves_nothing_in_the_next_loan() {
    let mut from = Sender::new(true);
    let mut owns = Vec::new();
    for round in 0..ROUNDS {
        let own = secret();
        owns.push(own);
        let mut to = receiver(own);
        let (mut here, mut there) = strict();
        from.write(secret(), round);
        from.send(&mut here, Method::Slot);
        let delivery = to.take(&mut there);
        scatter(&mut to, delivery.region().offset() as u32, own);
        drop(to);
        drop(there);
        assert_eq!(from.puppet.one(Do::Loan(ROOM)), PLACE as i32);
        finds_none(&mut from.puppet, &owns, "the sender");
    }
}

/// The same spies, where something is to be found.
#[test]
fn on_a_trusted_link_a_spy_finds_what_it_looks_for() {
    // What comes back for an exchanged payload is what the receiver had in the place of an earlier one.
    let mut from = Sender::new(false);
    let own = secret();
    let mut to = receiver(own);
    let (mut here, mut there) = trusted();
    for round in 0..2 {
        from.write(secret(), round);
        from.send(&mut here, Method::Exchange);
        to.take(&mut there);
    }
    assert!(finds(&mut from.puppet, own) > 0, "by exchange");
    // A slot shows its sender what the receiver wrote.
    let mut from = Sender::new(true);
    let mut to = receiver(secret());
    let (mut here, mut there) = trusted();
    from.write(secret(), 1);
    from.send(&mut here, Method::Slot);
    let at = to.take(&mut there).region().offset() as u32;
    scatter(&mut to, at, own);
    assert!(finds(&mut from.puppet, own) > 0, "by slot");
    to.one(Do::Release(at));
    assert_eq!(from.puppet.one(Do::Loan(ROOM)), PLACE as i32);
    assert!(finds(&mut from.puppet, own) > 0, "on loan again");
}
