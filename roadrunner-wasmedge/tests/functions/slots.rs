//! Slots of real functions: on loan, handed over, received, given back.

use crate::support::puppet::{By, Do, Puppet, SMALL};
use crate::support::*;
use proptest::prelude::*;
use roadrunner_core::{Delivery, Method, Payload, Region, Sink, TransferError};
use roadrunner_mem::{link, transfer, Misuse, Policy, SlotOptions};
use roadrunner_wasmedge::function::{FunctionError, FunctionOptions, Given, Outbox, SendError};

mod misuse;

const MIB: u32 = 1 << 20;
/// Where the tests put their slots.
const PLACE: u32 = 4 * MIB;
const LEN: u32 = 3 * MIB;
const KEPT: i32 = 1;

/// One with a loaned slot that is full of this byte.
fn with_slot(byte: u8) -> Puppet {
    let mut puppet = Puppet::new();
    let results = puppet.act(&[Do::Bind(PLACE, LEN), Do::Fill(PLACE, LEN, byte)]);
    assert_eq!(results, [0, 0]);
    puppet
}

fn offset(region: Region) -> u32 {
    region.offset() as u32
}

#[test]
fn a_slot_goes_over_and_comes_back() {
    let (mut from, mut to) = (with_slot(1), Puppet::new());
    let (mut here, mut there) = link(Policy::default());
    for round in 1..=20_u8 {
        let mut by = By::new(&mut here);
        let sent = from
            .try_act(
                &[Do::Fill(PLACE, LEN, round), Do::Send(PLACE, LEN, true)],
                &mut by,
            )
            .expect("it is sent");
        assert_eq!(sent, [0, 0]);
        assert_eq!(
            (by.receipts[0].method(), by.receipts[0].copies()),
            (Method::Slot, 0)
        );
        let delivery = to.take(&mut there);
        let (receipt, at) = (delivery.receipt(), offset(delivery.region()));
        assert_eq!((receipt.method(), receipt.copies()), (Method::Slot, 0));
        // Each sees its own, with memories that grow meanwhile.
        let seen = to.act(&[Do::Grow(1), Do::Count(at, LEN, round), Do::Release(at)]);
        assert_eq!(seen[1..], [LEN as i32, KEPT]);
        let seen = from.act(&[
            Do::Count(PLACE, LEN, 0),
            Do::Grow(1),
            Do::Release(PLACE),
            Do::Loan(LEN),
            Do::Count(PLACE, LEN, round),
        ]);
        assert_eq!(seen[0], LEN as i32);
        assert_eq!(seen[2..], [KEPT, PLACE as i32, LEN as i32], "round {round}");
    }
    for function in [&mut from, &mut to] {
        let misuse = function.misuse().expect("it has some");
        assert!(misuse.is_none(), "{misuse}");
    }
    let (from, to) = (
        from.slots().expect("it has some"),
        to.slots().expect("it has some"),
    );
    assert_eq!((from.segments, from.loaned, from.away), (1, 1, 0));
    assert_eq!(to.received, 0);
}

#[test]
fn a_reply_in_a_slot_is_handed_over() {
    let (mut from, mut to) = (with_slot(5), Puppet::new());
    let (mut here, mut there) = link(Policy::default());
    // Less than the slot: the rest of it does not cross.
    let len = LEN - 100_000;
    let region = from.reply(PLACE, len);
    let given = from.given(region).expect("in the memory");
    assert!(given.is_slot());
    let receipt = given.send(&mut here, soon()).expect("sent");
    assert_eq!((receipt.method(), receipt.copies()), (Method::Slot, 0));
    from.free(region).expect("it is free");
    // It is still on its way.
    assert_eq!(from.one(Do::Loan(LEN)), 0);
    let delivery = to.take(&mut there);
    assert_eq!(delivery.region().len(), u64::from(len));
    let at = offset(delivery.region());
    assert_eq!(
        to.act(&[Do::Count(at, len, 5), Do::Count(at + len, LEN - len, 0)]),
        [len as i32, 100_000]
    );
}

#[test]
fn one_reply_for_many_is_there_once() {
    for (slot, method, copies) in [(true, Method::Slot, 0), (false, Method::Map, 1)] {
        let mut from = if slot { with_slot(7) } else { Puppet::new() };
        from.one(Do::Fill(PLACE, LEN, 7));
        let region = from.reply(PLACE, LEN);
        let mut given = from.given(region).expect("in the memory");
        assert_eq!(given.is_slot(), slot);
        let payload = given.share().expect("shared");
        let mut receivers: Vec<_> = (0..3)
            .map(|_| (link(Policy::default()), Puppet::new()))
            .collect();
        for ((here, _), _) in &mut receivers {
            here.send_shared(&payload, soon()).expect("sent");
        }
        drop(payload);
        // From now on the sender can do with its own place what it likes.
        from.one(Do::Fill(PLACE, LEN, 9));
        for (number, ((_, there), to)) in receivers.iter_mut().enumerate() {
            let delivery = to.take(there);
            assert_eq!(
                (delivery.receipt().method(), delivery.receipt().copies()),
                (method, copies)
            );
            let at = offset(delivery.region());
            // And so can each receiver, without another one seeing it.
            let seen = to.act(&[Do::Count(at, LEN, 7), Do::Fill(at, LEN, 100 + number as u8)]);
            assert_eq!(seen[0], LEN as i32, "receiver {number} of {method}");
        }
    }
}

#[test]
fn a_function_that_cannot_release_gets_copies() {
    let (mut from, mut to) = (with_slot(3), Puppet::that_never_releases());
    let (mut here, mut there) = link(Policy::default());
    from.try_act(&[Do::Send(PLACE, LEN, true)], &mut By::new(&mut here))
        .expect("sent");
    let delivery = to.take(&mut there);
    assert_eq!(
        (delivery.receipt().method(), delivery.receipt().copies()),
        (Method::Copy, 1)
    );
    assert_eq!(
        to.one(Do::Count(offset(delivery.region()), LEN, 3)),
        LEN as i32
    );
    assert_eq!(from.slots().expect("it has some").away, 0);
}

#[test]
fn functions_that_die_give_slots_back() {
    let mut from = with_slot(1);
    for dies in [false, true] {
        let (mut here, mut there) = link(Policy::default());
        let mut to = Puppet::new();
        from.try_act(&[Do::Send(PLACE, LEN, true)], &mut By::new(&mut here))
            .expect("sent");
        // One dies holding it, one without having looked.
        if dies {
            to.take(&mut there);
            assert!(to.try_act(&[Do::Trap], &mut By::new(&mut there)).is_err());
        }
        // What the dead one held went back at once.
        let away = usize::from(!dies);
        assert_eq!(from.slots().expect("it has some").away, away);
        drop((there, here));
        drop(to);
        assert_eq!(from.slots().expect("it has some").away, 0);
        assert_eq!(from.one(Do::Loan(LEN)), PLACE as i32);
    }
    // The other way round: what a sender that died had sent is still there.
    let (mut here, mut there) = link(Policy::default());
    let mut to = Puppet::new();
    let commands = [
        Do::Fill(PLACE, LEN, 8),
        Do::Send(PLACE, LEN, true),
        Do::Trap,
    ];
    assert!(from.try_act(&commands, &mut By::new(&mut here)).is_err());
    drop(from);
    let delivery = to.take(&mut there);
    assert_eq!(
        to.one(Do::Count(offset(delivery.region()), LEN, 8)),
        LEN as i32
    );
}

/// Exchanges less than by default, so that places are small.
fn early() -> Policy {
    let mut policy = Policy::default();
    policy.exchange = u64::from(MIB);
    policy
}

/// Hands everything over at once to a function on this thread.
struct At<'f> {
    to: &'f mut Puppet,
    /// The bytes as they were when they were sent, what they arrived as, and the bytes then if the next small payload
    /// will take their place.
    sent: Vec<(Vec<u8>, Delivery, Option<Vec<u8>>)>,
}

impl<'f> At<'f> {
    fn new(to: &'f mut Puppet) -> Self {
        let sent = Vec::new();
        Self { to, sent }
    }

    /// The next payload, the last one first: how it came, what it was and what it is now.
    fn next(&mut self) -> Option<(Method, Vec<u8>, Vec<u8>)> {
        let (before, delivery, then) = self.sent.pop()?;
        let now = then.unwrap_or_else(|| self.to.bytes(delivery.region()));
        Some((delivery.receipt().method(), before, now))
    }
}

fn copy_of(payload: &mut Payload<'_>) -> Result<Vec<u8>, SendError> {
    let mut bytes = vec![0; payload.len() as usize];
    payload.span()?.copy_to_slice(&mut bytes);
    Ok(bytes)
}

impl Outbox for At<'_> {
    fn send(&mut self, _target: &str, mut payload: Payload<'_>) -> Result<(), SendError> {
        let before = copy_of(&mut payload)?;
        let delivery = transfer(payload, &mut **self.to, &early())?;
        let region = delivery.region();
        let then = (region.offset() == SMALL).then(|| self.to.bytes(region));
        self.sent.push((before, delivery, then));
        Ok(())
    }

    fn give(&mut self, target: &str, mut given: Given<'_>) -> Result<(), SendError> {
        if !given.is_slot() || given.region().len() < u64::from(MIB) {
            return self.send(target, given.payload()?);
        }
        let before = copy_of(&mut given.payload()?)?;
        let (mut here, mut there) = link(Policy::default());
        given.send(&mut here, soon())?;
        let delivery = self.to.receive(&mut there, soon())?;
        self.sent.push((before, delivery, None));
        Ok(())
    }
}

#[test]
fn what_overlaps_a_slot_without_being_it_is_copied() {
    let mut to = Puppet::new();
    for (at, len, give) in [
        (PLACE + 4096, LEN - 4096, true),
        (PLACE, LEN + 1, true),
        (PLACE - MIB, LEN, true),
        (PLACE - MIB, 4 * MIB, true),
        (PLACE + LEN - 1, MIB, true),
        (PLACE, LEN, false),
    ] {
        let mut from = with_slot(6);
        let mut by = At::new(&mut to);
        let commands = [
            Do::Fill(PLACE - MIB, MIB, 5),
            Do::Fill(PLACE + LEN, MIB, 7),
            Do::Send(at, len, give),
            Do::Count(PLACE, LEN, 6),
        ];
        let results = from.try_act(&commands, &mut by).expect("sent");
        let (method, before, after) = by.next().expect("it arrived");
        assert_eq!(method, Method::Copy, "{at:#x} + {len:#x}");
        assert!(before == after, "{at:#x} + {len:#x}");
        // The slot is what it was, and still on loan.
        assert_eq!(results[2..], [0, LEN as i32]);
        assert_eq!(from.slots().expect("it has some").loaned, 1);
    }
}

#[test]
fn pages_beside_a_slot_are_still_exchanged() {
    let (mut from, mut to) = (with_slot(6), Puppet::new());
    let mut by = At::new(&mut to);
    from.try_act(
        &[
            Do::Fill(2 * MIB, 2 * MIB, 1),
            Do::Send(2 * MIB, 2 * MIB, true),
        ],
        &mut by,
    )
    .expect("sent");
    let (method, before, after) = by.next().expect("it arrived");
    assert_eq!(method, Method::Exchange);
    assert!(before == after);
}

#[test]
fn a_slot_that_was_sent_is_out_of_reach() {
    let (mut from, mut to, mut other) = (with_slot(4), Puppet::new(), Puppet::new());
    let (mut here, mut there) = link(Policy::default());
    from.try_act(&[Do::Send(PLACE, LEN, true)], &mut By::new(&mut here))
        .expect("sent");
    // What is there now is ordinary memory that can be sent as well.
    let mut by = At::new(&mut other);
    let commands = [
        Do::Count(PLACE, LEN, 0),
        Do::Fill(PLACE, LEN, 66),
        Do::Send(PLACE, LEN, true),
        Do::Fill(PLACE, LEN, 99),
        Do::Grow(3),
    ];
    let results = from.try_act(&commands, &mut by).expect("sent");
    assert_eq!(results[..3], [LEN as i32, 0, 0]);
    let (method, _, after) = by.next().expect("it arrived");
    assert_eq!(method, Method::Copy);
    assert!(after.iter().all(|byte| *byte == 66));
    let delivery = to.take(&mut there);
    let at = offset(delivery.region());
    assert_eq!(to.one(Do::Count(at, LEN, 4)), LEN as i32);
}

#[test]
fn a_block_that_the_host_keeps_is_not_allocated_again() {
    // The allocator gives what the slot is in.
    let mut puppet = Puppet::new();
    let next = 8 * MIB;
    assert_eq!(puppet.act(&[Do::Grow(64), Do::Bind(next + MIB, MIB)])[1], 0);
    match puppet.reserve(u64::from(2 * MIB), 4096) {
        Err(TransferError::Sink(error)) => {
            let kept = error.downcast_ref::<FunctionError>();
            assert!(
                matches!(kept, Some(FunctionError::KeptAllocation { .. })),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    // What lies beside it is the function's.
    assert!(puppet.reserve(u64::from(2 * MIB), 4096).is_ok());
    assert!(puppet.is_usable());
}

#[test]
fn a_payload_that_is_not_handled_gives_its_slot_back() {
    let (mut from, mut to) = (with_slot(4), Puppet::new());
    let (mut here, mut there) = link(Policy::default());
    from.try_act(&[Do::Send(PLACE, LEN, true)], &mut By::new(&mut here))
        .expect("sent");
    let delivery = to.receive(&mut there, soon()).expect("a payload");
    assert_eq!(from.slots().expect("it has some").away, 1);
    to.free(delivery.region()).expect("it is free");
    assert_eq!(from.slots().expect("it has some").away, 0);
}

#[test]
fn a_send_that_fails_leaves_the_slot_on_loan() {
    let mut from = with_slot(4);
    let (mut here, there) = link(Policy::default());
    drop(there);
    let commands = [Do::Send(PLACE, LEN, true), Do::Count(PLACE, LEN, 4)];
    let results = from
        .try_act(&commands, &mut By::new(&mut here))
        .expect("results");
    assert_eq!(results, [-4, LEN as i32]);
    let slots = from.slots().expect("it has some");
    assert_eq!((slots.loaned, slots.away), (1, 0));
}

fn anything() -> impl Strategy<Value = Do> {
    // Near the pages and the ends of a few blocks, and anywhere.
    let at = || {
        prop_oneof![
            6 => (2..5_u32).prop_map(|two| two * 2 * MIB - MIB),
            1 => (0..9_u32, -1_i32..=1, 0..3_i32)
                .prop_map(|(mib, less, pages)| (mib * MIB).wrapping_add_signed(less + pages * 4096)),
            1 => any::<u32>(),
        ]
    };
    let len = || {
        prop_oneof![
            6 => (1..4_u32).prop_map(|mib| mib * MIB),
            1 => (0..3_u32, -1_i32..=1).prop_map(|(pages, less)| (pages * 4096).wrapping_add_signed(less)),
            1 => any::<u32>(),
        ]
    };
    let inside = (1..8_u32, 1..2 * MIB).prop_filter("inside", |(at, len)| at * MIB + len < 8 * MIB);
    prop_oneof![
        4 => (at(), len()).prop_map(|(at, len)| Do::Bind(at, len)),
        3 => len().prop_map(Do::Loan),
        2 => at().prop_map(Do::Release),
        6 => (at(), len(), any::<bool>()).prop_map(|(at, len, give)| Do::Send(at, len, give)),
        4 => (inside, any::<u8>()).prop_map(|((at, len), byte)| Do::Fill(at * MIB, len, byte)),
        1 => (0..3_u32).prop_map(Do::Grow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever a guest calls and in whatever order: what arrives is what was sent, results are addresses or codes, and
    /// both functions live on.
    #[test]
    fn what_arrives_is_what_was_sent(commands in proptest::collection::vec(anything(), 1..25)) {
        let (mut from, mut to) = (Puppet::new(), Puppet::new());
        let mut by = At::new(&mut to);
        let results = from.try_act(&commands, &mut by).expect("results");
        while let Some((method, before, now)) = by.next() {
            prop_assert!(before == now, "a payload by {}", method);
        }
        for (command, result) in commands.iter().zip(results) {
            let fine = match command {
                Do::Bind(..) | Do::Send(..) => (-7..=0).contains(&result),
                Do::Release(_) => (0..=1).contains(&result),
                Do::Loan(_) => result as u32 % 4096 == 0,
                _ => true,
            };
            prop_assert!(fine, "{:?} gave {}", command, result);
        }
        prop_assert!(from.is_usable() && to.is_usable());
    }
}
