//! Rule 2: safe reuse.

use super::{give_time, long, near, skip, Rule};
use crate::testing::by_hand::reuse_with_full_buffers;
use crate::testing::fixture::{Case, Fixture};
use crate::testing::payloads::pattern;
use crate::testing::places::{Destination, Source};
use crate::DEFAULT_LIMIT;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Small ones that lie in a buffer, and large ones that the receiver has to drain while they are sent.
const LENGTHS: [u64; 5] = [1, 4096, 200_000, (1 << 20) + 8192, 3 << 20];

pub(super) fn check<F: Fixture>(fixture: &F) {
    for len in LENGTHS.map(|len| near(fixture, len)) {
        for given in [false, true] {
            for when in [Wait::BeforeReceiving, Wait::BeforeReserving] {
                overwritten(
                    fixture,
                    Case {
                        len,
                        offset: 0,
                        given,
                    },
                    when,
                );
            }
        }
    }
    for len in lengths_in_a_row(fixture) {
        for given in [false, true] {
            in_a_row(fixture, len, given);
        }
    }
    slowly(fixture);
}

/// When the receiver waits for the source to be overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    BeforeReceiving,
    /// The transport knows that a payload is there, and has no place for it yet.
    BeforeReserving,
}

fn overwritten<F: Fixture>(fixture: &F, case: Case, when: Wait) {
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    let content = pattern(case.len, 2);
    let mut source = Source::new(fixture, &content, case);
    let overwritten = AtomicBool::new(false);
    // A payload that is longer than what the link holds cannot be sent before somebody receives: the wait is bounded.
    let wait = || {
        give_time(Duration::from_millis(50), || {
            overwritten.load(Ordering::SeqCst)
        });
    };
    let deadline = long(fixture);
    let arrived = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = source.send(&mut a, deadline);
            source.overwrite();
            overwritten.store(true, Ordering::SeqCst);
            sent
        });
        let mut destination = Destination::new(fixture, case.len);
        if when == Wait::BeforeReceiving {
            wait();
        } else {
            destination = destination.waiting(wait);
        }
        let arrived = destination.receive(&mut b, deadline);
        let sent = sender.join().expect("send does not panic");
        assert!(sent.is_ok(), "{case:?} was not sent: {sent:?}");
        arrived
    });
    match arrived {
        Ok(bytes) => assert!(
            bytes == content,
            "{case:?} changed when its source was overwritten ({when:?})"
        ),
        Err(error) => panic!("{case:?} did not arrive: {error}"),
    }
}

/// Whole pages and not, as many as a pipe holds, and more.
fn lengths_in_a_row<F: Fixture>(fixture: &F) -> Vec<u64> {
    const PAGE: u64 = 4096;
    const PIPE: u64 = 16 * PAGE;
    let lengths = [1, PAGE, PAGE + 1, 3 * PAGE, PIPE, PIPE + PAGE, 4 * PIPE];
    let mut lengths = lengths.map(|len| near(fixture, len)).to_vec();
    lengths.dedup();
    lengths
}

/// Payloads from one place, each of which is received only when the next has been sent and overwritten as well, unless
/// the transport waits for it to be received: whatever it keeps of one, or gives back for the next, may not be seen in
/// both.
fn in_a_row<F: Fixture>(fixture: &F, len: u64, given: bool) {
    const ROW: u64 = 4;
    let (mut a, b) = fixture.open(DEFAULT_LIMIT);
    let content = |number| pattern(len, 10 + number);
    let offset = 0;
    let mut source = Source::new(fixture, &content(0), Case { len, offset, given });
    let overwritten = AtomicU64::new(0);
    let deadline = long(fixture);
    thread::scope(|scope| {
        // Dropped with a panic here, which ends a send that waits.
        let mut b = b;
        let sender = scope.spawn(|| {
            for number in 0..ROW {
                source.refill(&content(number));
                if let Err(error) = source.send(&mut a, deadline) {
                    panic!("payload {number} of {len} bytes was not sent: {error}");
                }
                source.overwrite();
                overwritten.store(number + 1, Ordering::SeqCst);
            }
        });
        // In which order they arrive is rule 1's business.
        let mut expected: Vec<u64> = (0..ROW).collect();
        for count in 1..=ROW {
            give_time(Duration::from_millis(20), || {
                overwritten.load(Ordering::SeqCst) > count.min(ROW - 1)
            });
            let bytes = match Destination::new(fixture, len).receive(&mut b, deadline) {
                Ok(bytes) => bytes,
                Err(error) => panic!("payload {count} of {len} bytes did not arrive: {error}"),
            };
            let found = expected.iter().position(|number| bytes == content(*number));
            let Some(at) = found else {
                panic!("payload {count} of {len} bytes, given: {given}, changed when the next was sent")
            };
            expected.remove(at);
        }
        sender.join().expect("the sender does not panic");
    });
}

/// A receiver that reads no more than lets `send` return, and the rest after the source has been overwritten.
fn slowly<F: Fixture>(fixture: &F) {
    for len in LENGTHS.map(|len| near(fixture, len)) {
        for given in [false, true] {
            match fixture.by_hand(DEFAULT_LIMIT) {
                Ok((mut link, mut stream)) => {
                    let memory = |len| fixture.source(len);
                    reuse_with_full_buffers(&mut link, &mut stream, &memory, given, len);
                }
                Err(why) => {
                    return skip(
                        fixture,
                        Rule::Reuse,
                        "a receiver that reads bit by bit",
                        why,
                    )
                }
            }
        }
    }
}
