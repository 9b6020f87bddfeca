//! Rule 4: only the payload crosses.

use super::{long, near};
use crate::testing::fixture::{Case, Fixture};
use crate::testing::payloads::{pattern, SECRET};
use crate::testing::places::{Destination, Source};
use crate::{Transfer, DEFAULT_LIMIT};
use std::thread;

/// Payloads with and without heads and tails of less than a page.
const LENGTHS: [u64; 5] = [0, 1, 4096, 100_001, (1 << 20) + 4095];

pub(super) fn check<F: Fixture>(fixture: &F) {
    for len in LENGTHS.map(|len| near(fixture, len)) {
        for offset in [0, 13, 4096] {
            for given in [false, true] {
                crosses(fixture, Case { len, offset, given });
            }
        }
    }
}

fn crosses<F: Fixture>(fixture: &F, case: Case) {
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    let content = pattern(case.len, 5);
    let mut source = Source::new(fixture, &content, case);
    let payload = case.offset as usize..(case.offset + case.len) as usize;
    // Twice, because what a transport takes from the first payload's destination may come back with the second.
    for round in 0..2 {
        source.refill(&content);
        let before = source.snapshot();
        let mut destination = Destination::new(fixture, case.len);
        destination.fill_with(SECRET);
        let there = destination.snapshot();
        let deadline = long(fixture);
        let delivery = thread::scope(|scope| {
            let sender = scope.spawn(|| source.send(&mut a, deadline));
            let delivery = b.recv(&mut destination, deadline);
            let sent = sender.join().expect("send does not panic");
            assert!(sent.is_ok(), "{case:?} was not sent: {sent:?}");
            delivery
        });
        let region = match delivery {
            Ok(delivery) => delivery.region(),
            Err(error) => panic!("{case:?} did not arrive: {error}"),
        };

        let after = source.snapshot();
        assert!(
            before[..payload.start] == after[..payload.start]
                && before[payload.end..] == after[payload.end..],
            "{case:?}, round {round}: bytes beside the source changed"
        );
        assert!(
            case.given || before[payload.clone()] == after[payload.clone()],
            "{case:?}, round {round}: a payload that was kept changed"
        );
        assert!(
            !after.contains(&SECRET),
            "{case:?}, round {round}: the receiver's old memory reached the sender"
        );

        let here = destination.snapshot();
        let arrived = region.offset() as usize..(region.offset() + region.len()) as usize;
        assert!(
            there[..arrived.start] == here[..arrived.start]
                && there[arrived.end..] == here[arrived.end..],
            "{case:?}, round {round}: bytes beside the destination changed"
        );
        assert!(
            here[arrived] == content,
            "{case:?}, round {round}: the payload changed"
        );
    }
}
