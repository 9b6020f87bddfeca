//! Rule 2: safe reuse.

use super::{give_time, long, near, skip, Rule};
use crate::testing::by_hand::reuse_with_full_buffers;
use crate::testing::fixture::{Case, Fixture};
use crate::testing::payloads::pattern;
use crate::testing::places::{Destination, Source};
use crate::DEFAULT_LIMIT;
use std::sync::atomic::{AtomicBool, Ordering};
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
