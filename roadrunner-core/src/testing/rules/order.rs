//! Rule 1: one send, one receive.

use super::{give_time, long, near, passes, skip, Rule};
use crate::testing::fixture::{Case, Fixture};
use crate::testing::payloads::{pattern, LENGTHS};
use crate::testing::places::{Destination, Source};
use crate::{Deadline, Transfer, TransferError, DEFAULT_LIMIT};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// No machine that runs tests has much more to spare.
const LONGEST: u64 = 8 << 20;
/// Up to two lines of a cache, and the words beside a payload in them.
const SMALL: u64 = 2 * 64 + 16;

pub(super) fn check<F: Fixture>(fixture: &F) {
    let lengths = lengths(fixture);
    for given in [false, true] {
        arrive(fixture, &lengths, given);
    }
    // Many at once, so that some wait together.
    let short: Vec<u64> = (0..40).map(|count| near(fixture, count * 7 % 50)).collect();
    arrive(fixture, &short, false);
    // Whatever room a transport has for small ones, it ends at one of these.
    let small: Vec<u64> = (0..=SMALL)
        .filter(|len| fixture.lengths().contains(len))
        .collect();
    arrive(fixture, &small, false);
    both_ways(fixture);
    the_limit(fixture);
}

fn lengths<F: Fixture>(fixture: &F) -> Vec<u64> {
    let range = fixture.lengths();
    let (start, end) = (*range.start(), *range.end());
    let edges = [start, start + 1, end.saturating_sub(1), end];
    let mut lengths: Vec<u64> = LENGTHS
        .into_iter()
        .chain(edges)
        .filter(|len| *len <= LONGEST && range.contains(len))
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    assert!(
        !lengths.is_empty(),
        "no length that can be tried in {range:?}"
    );
    lengths
}

/// Payloads of these lengths, one after the other, then the end.
fn arrive<F: Fixture>(fixture: &F, lengths: &[u64], given: bool) {
    let (mut a, b) = fixture.open(DEFAULT_LIMIT);
    let content = |index: usize| pattern(lengths[index], index as u64);
    let mut sources: Vec<_> = (0..lengths.len())
        .map(|index| {
            let case = Case {
                len: lengths[index],
                offset: [0, 13, 4096][index % 3],
                given,
            };
            Source::new(fixture, &content(index), case)
        })
        .collect();
    let all_sent = AtomicBool::new(false);
    let deadline = long(fixture);
    thread::scope(|scope| {
        // Dropped with a panic here, which ends a send that waits.
        let mut b = b;
        let sender = scope.spawn(|| {
            for (source, len) in sources.iter_mut().zip(lengths) {
                if let Err(error) = source.send(&mut a, deadline) {
                    panic!("a payload of {len} bytes was not sent: {error}");
                }
            }
            all_sent.store(true, Ordering::SeqCst);
            a.close(deadline).expect("an open link can be closed");
            assert!(a.is_open(), "a close in order broke the link");
        });
        give_time(Duration::from_millis(100), || {
            all_sent.load(Ordering::SeqCst)
        });
        for (index, len) in lengths.iter().enumerate() {
            let mut destination = Destination::new(fixture, *len);
            match destination.receive(&mut b, deadline) {
                Ok(bytes) => {
                    assert_eq!(
                        bytes.len() as u64,
                        *len,
                        "payload {index} has another length"
                    );
                    assert!(
                        bytes == content(index),
                        "payload {index} of {len} bytes changed"
                    );
                }
                Err(error) => panic!("payload {index} of {len} bytes did not arrive: {error}"),
            }
        }
        let end = Destination::new(fixture, 16).receive(&mut b, deadline);
        assert!(
            matches!(end, Err(TransferError::Closed)),
            "after the last payload and close: {end:?}"
        );
        assert!(b.is_open(), "the end broke the link");
        sender.join().expect("the sender does not panic");
    });
}

/// Either end may send, also when the other has closed its own direction.
fn both_ways<F: Fixture>(fixture: &F) {
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    let content = pattern(near(fixture, 100), 1);
    passes(fixture, &mut a, &mut b, &content);
    passes(fixture, &mut b, &mut a, &content);
    a.close(long(fixture)).expect("an open link can be closed");
    a.close(long(fixture))
        .expect("closing twice is closing once");
    let late = Source::kept(fixture, &content).send(&mut a, long(fixture));
    assert!(
        matches!(late, Err(TransferError::Closed)),
        "sending after close: {late:?}"
    );
    passes(fixture, &mut b, &mut a, &content);
}

fn the_limit<F: Fixture>(fixture: &F) {
    if let Err(why) = fixture.limits() {
        return skip(fixture, Rule::Order, "the limit", why);
    }
    let limit = near(fixture, 20_000);
    let (mut a, mut b) = fixture.open(limit);
    let content = pattern(limit + 1, 1);
    let over = Source::kept(fixture, &content).send(&mut a, Deadline::now());
    assert!(
        matches!(over, Err(TransferError::TooLarge { .. })),
        "one byte over the limit: {over:?}"
    );
    assert!(a.is_open(), "a payload that was refused broke the link");
    passes(fixture, &mut a, &mut b, &content[..limit as usize]);
}
