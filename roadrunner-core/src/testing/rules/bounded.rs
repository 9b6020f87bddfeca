//! Rule 6: bounded.

use super::{fill_up, long, near};
use crate::testing::fixture::{Case, Fixture};
use crate::testing::places::Destination;
use crate::{Transfer, TransferError, DEFAULT_LIMIT};
use std::time::Duration;

pub(super) fn check<F: Fixture>(fixture: &F) {
    for len in [0, 1, 64 << 10, near(fixture, 64 << 10)] {
        for given in [false, true] {
            let offset = 0;
            stops(fixture, Case { len, offset, given });
        }
    }
}

/// A sender whose receiver does not read.
fn stops<F: Fixture>(fixture: &F, case: Case) {
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    let (count, stopped) = fill_up(fixture, &mut a, case, Duration::from_millis(20));
    let Some(error) = stopped else {
        panic!("{count} payloads of {case:?} were sent, and nobody received one");
    };
    assert!(
        matches!(error, TransferError::Timeout),
        "after {count} payloads of {case:?}: {error}"
    );
    // If the one that did not fit was cut, the link is of no more use.
    if a.is_open() {
        let mut destination = Destination::new(fixture, case.len);
        for received in 0..count {
            if let Err(error) = destination.receive(&mut b, long(fixture)) {
                panic!("payload {received} of {count} of {case:?} did not arrive: {error}");
            }
        }
    }
}
