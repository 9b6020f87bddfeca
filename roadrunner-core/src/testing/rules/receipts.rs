//! Rule 9: honest receipts.

use super::{long, near};
use crate::testing::fixture::{Case, Fixture};
use crate::testing::payloads::pattern;
use crate::testing::places::{Destination, Source};
use crate::{Receipt, Transfer, DEFAULT_LIMIT};
use std::thread;

const LENGTHS: [u64; 7] = [0, 1, 4096, 16_384, 16_385, 100_000, (2 << 20) + 1];

pub(super) fn check<F: Fixture>(fixture: &F) {
    for offset in [0, 13, 4096] {
        for given in [false, true] {
            let lengths = LENGTHS.map(|len| near(fixture, len));
            for case in lengths.map(|len| Case { len, offset, given }) {
                says(fixture, case);
            }
        }
    }
}

fn says<F: Fixture>(fixture: &F, case: Case) {
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    let expected = fixture.expected(case);
    let mut source = Source::new(fixture, &pattern(case.len, 6), case);
    let mut destination = Destination::new(fixture, case.len);
    let deadline = long(fixture);
    let (sent, delivery) = thread::scope(|scope| {
        let sender = scope.spawn(|| source.send(&mut a, deadline));
        let delivery = b.recv(&mut destination, deadline);
        (sender.join().expect("send does not panic"), delivery)
    });
    let sent = match sent {
        Ok(receipt) => receipt,
        Err(error) => panic!("{case:?} was not sent: {error}"),
    };
    let delivered = match delivery {
        Ok(delivery) => delivery.receipt(),
        Err(error) => panic!("{case:?} did not arrive: {error}"),
    };
    let read = |receipt: Receipt| (receipt.bytes(), (receipt.method(), receipt.copies()));
    assert_eq!(
        read(sent),
        (case.len, expected.sent),
        "{case:?}: the sender's receipt"
    );
    assert_eq!(
        read(delivered),
        (case.len, expected.delivered),
        "{case:?}: the receiver's receipt"
    );
}
