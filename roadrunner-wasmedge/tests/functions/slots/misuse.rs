//! Guests that do not keep to what slots are for.

use super::*;

fn misuse(puppet: &mut Puppet) -> (Misuse, String) {
    let misuse = puppet.misuse().expect("it has slots");
    (misuse, misuse.to_string())
}

#[test]
fn who_never_releases_is_told_of_and_holds_up_nobody_else() {
    let (mut from, mut keeps, mut other) = (with_slot(1), Puppet::new(), Puppet::new());
    let (mut here, mut there) = link(Policy::default());
    let (mut to_other, mut others) = link(Policy::default());
    from.try_act(&[Do::Send(PLACE, LEN, true)], &mut By::new(&mut here))
        .expect("sent");
    let kept = keeps.take(&mut there).region();
    assert_eq!(from.one(Do::Loan(LEN)), 0, "it is still away");
    // The sender goes on with another slot, and somebody else gets what is in it.
    let next = 16 * MIB;
    let commands = [
        Do::Grow(384),
        Do::Bind(next, LEN),
        Do::Fill(next, LEN, 2),
        Do::Send(next, LEN, true),
    ];
    let mut by = By::new(&mut to_other);
    assert_eq!(from.try_act(&commands, &mut by).expect("sent")[1..], [0; 3]);
    let at = offset(other.take(&mut others).region());
    assert_eq!(other.one(Do::Count(at, LEN, 2)), LEN as i32);
    assert_eq!(keeps.one(Do::Count(offset(kept), LEN, 1)), LEN as i32);
    let (found, said) = misuse(&mut keeps);
    assert_eq!(found.unreleased, 1, "{said}");
    assert_eq!(said, "did not release a payload that it received");
    assert!(misuse(&mut from).0.is_none());
    // With its end at the latest it comes back.
    drop(keeps);
    assert_eq!(from.one(Do::Loan(LEN)), PLACE as i32);
}

#[test]
fn who_sends_twice_is_told_of_and_sends_nothing_that_it_gave_away() {
    let (mut from, mut to, mut other) = (with_slot(1), Puppet::new(), Puppet::new());
    let (mut here, mut there) = link(Policy::default());
    let commands = [Do::Send(PLACE, LEN, true)];
    from.try_act(&commands, &mut By::new(&mut here))
        .expect("sent");
    let first = to.take(&mut there);
    // Large ones wait for their receiver: two threads.
    let (mut to_other, mut others) = link(Policy::default());
    let second = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| other.take(&mut others));
        let mut by = By::new(&mut to_other);
        assert_eq!(from.try_act(&commands, &mut by).expect("sent"), [0]);
        receiver.join().expect("it receives")
    });
    assert_eq!(second.receipt().method(), Method::Copy);
    assert_eq!(
        other.one(Do::Count(offset(second.region()), LEN, 0)),
        LEN as i32,
        "nothing of the first"
    );
    assert_eq!(
        to.one(Do::Count(offset(first.region()), LEN, 1)),
        LEN as i32
    );
    let (found, said) = misuse(&mut from);
    assert_eq!((found.sent_again, found.written_after), (1, 0), "{said}");
    assert!(said.starts_with("sent a slot that it had given away"));
    for receiver in [&mut to, &mut other] {
        assert_eq!(misuse(receiver).0.sent_again, 0);
    }
}

#[test]
fn who_writes_after_sending_is_told_of_and_changes_nothing() {
    let (mut from, mut to) = (with_slot(1), Puppet::new());
    let (mut here, mut there) = link(Policy::default());
    for round in 1..=3 {
        let commands = [
            Do::Fill(PLACE, LEN, 1),
            Do::Send(PLACE, LEN, true),
            // One byte, in the last page.
            Do::Fill(PLACE + LEN - 1, 1, 99),
        ];
        from.try_act(&commands, &mut By::new(&mut here))
            .expect("sent");
        let at = offset(to.take(&mut there).region());
        assert_eq!(to.one(Do::Count(at, LEN, 1)), LEN as i32);
        // Whether it is asked before the slot is on loan again, or after.
        if round == 2 {
            assert_eq!(misuse(&mut from).0.written_after, round);
        }
        to.one(Do::Release(at));
        assert_eq!(from.one(Do::Loan(LEN)), PLACE as i32);
        let (found, said) = misuse(&mut from);
        assert_eq!(
            (found.written_after, found.sent_again),
            (round, 0),
            "{said}"
        );
    }
    assert!(misuse(&mut to).0.is_none());
}

#[test]
fn who_dies_is_told_of_and_all_it_held_goes_back() {
    let (mut from, mut dies) = (with_slot(1), with_slot(5));
    let (mut here, mut there) = link(Policy::default());
    from.try_act(&[Do::Send(PLACE, LEN, true)], &mut By::new(&mut here))
        .expect("sent");
    dies.take(&mut there);
    assert!(dies.try_act(&[Do::Trap], &mut By::new(&mut there)).is_err());
    // One that it received, and one on loan.
    let (found, said) = misuse(&mut dies);
    assert_eq!((found.died_holding, found.unreleased), (2, 0), "{said}");
    assert_eq!(said, "died with slots, which were taken back (2)");
    let slots = dies.slots().expect("it has some");
    assert_eq!((slots.loaned, slots.received), (0, 0));
    // The dead one is still there, and what it held is the sender's again.
    assert_eq!(from.slots().expect("it has some").away, 0);
    assert_eq!(from.one(Do::Loan(LEN)), PLACE as i32);
    assert_eq!(from.one(Do::Count(PLACE, LEN, 1)), LEN as i32);
    assert!(misuse(&mut from).0.is_none());
}

#[test]
fn blocks_that_cannot_hold_a_slot_are_refused() {
    let mut puppet = Puppet::new();
    let size = puppet.memory().len() as u32;
    assert_eq!(puppet.one(Do::Bind(PLACE, LEN)), 0);
    for (at, len) in [
        (0, 4096),
        (PLACE + LEN, 0),
        (2 * MIB, 100),
        (2 * MIB + 16, 4096),
        (2 * MIB + 4095, 4096),
        (size, 4096),
        (size - 4096, 8192),
        (u32::MAX - 4095, 8192),
        (u32::MAX - 4095, u32::MAX - 4095),
        // The same one again, and what has a page in common with it.
        (PLACE, LEN),
        (PLACE + LEN - 4096, 8192),
        (PLACE - 4096, 8192),
        (MIB, 7 * MIB),
    ] {
        assert_eq!(puppet.one(Do::Bind(at, len)), -1, "{at:#x} + {len:#x}");
    }
    assert_eq!(puppet.one(Do::Bind(size - 4096, 4096)), 0);
}

#[test]
fn loans_and_releases_of_anything_do_nothing() {
    let mut puppet = Puppet::new();
    for len in [0, 1, 4096, LEN, 1 << 31, u32::MAX] {
        assert_eq!(puppet.one(Do::Loan(len)), 0, "{len:#x}");
    }
    puppet.one(Do::Bind(PLACE, LEN));
    // It is on loan already, and would be too small.
    for len in [1, LEN, LEN + 1, u32::MAX] {
        assert_eq!(puppet.one(Do::Loan(len)), 0, "{len:#x}");
    }
    for at in [
        0,
        1,
        4096,
        PLACE - 1,
        PLACE + 1,
        PLACE + 4096,
        PLACE + LEN,
        u32::MAX,
    ] {
        assert_eq!(puppet.one(Do::Release(at)), 0, "{at:#x}");
    }
    assert_eq!(puppet.slots().expect("it has some").loaned, 1);
    // However often it is released.
    let results = puppet.act(&[
        Do::Release(PLACE),
        Do::Release(PLACE),
        Do::Loan(LEN),
        Do::Loan(LEN),
    ]);
    assert_eq!(results, [KEPT, KEPT, PLACE as i32, 0]);
}

#[test]
fn the_limit_is_an_error_code() {
    let mut options = SlotOptions::default();
    options.slots = 3;
    let mut few = Puppet::with(FunctionOptions::new("few").slots(Some(options.clone())));
    let binds: Vec<_> = (0..4).map(|at| Do::Bind(PLACE + at * 8192, 4096)).collect();
    assert_eq!(few.act(&binds), [0, 0, 0, -6]);
    options.bytes = 10_000;
    let mut small = Puppet::with(FunctionOptions::new("small").slots(Some(options)));
    assert_eq!(small.act(&binds), [0, 0, -6, -6]);
    let mut none = Puppet::with(FunctionOptions::new("none").slots(None));
    assert_eq!(
        none.act(&[Do::Bind(PLACE, LEN), Do::Loan(1), Do::Release(PLACE)]),
        [-7, 0, 0]
    );
    assert_eq!(none.slots(), None);
}
