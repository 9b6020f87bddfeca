//! Rule 4: only the payload crosses.

use super::{give_time, long, near, skip, Rule};
use crate::frame::{Header, Kind};
use crate::testing::by_hand::read_header;
use crate::testing::fixture::{Case, Fixture};
use crate::testing::payloads::{pattern, SECRET};
use crate::testing::places::{Destination, Source};
use crate::{Transfer, DEFAULT_LIMIT};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

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
    // One page, and as many as a pipe holds.
    for len in [4096, 64 << 10].map(|len| near(fixture, len)) {
        acknowledged_unread(fixture, len);
    }
}

/// A receiver that acknowledges what it has not read: with that it may give the sender's function pages back which it still
/// reaches, and what the function writes there next is nobody's business but its own.
fn acknowledged_unread<F: Fixture>(fixture: &F, len: u64) {
    const ROW: u64 = 2;
    let (link, mut stream) = match fixture.by_hand(DEFAULT_LIMIT) {
        Ok(both) => both,
        Err(why) => return skip(fixture, Rule::Private, "early acknowledgements", why),
    };
    let content = |number| pattern(len, 20 + number);
    let (offset, given) = (0, true);
    let mut source = Source::new(fixture, &content(0), Case { len, offset, given });
    let overwritten = AtomicU64::new(0);
    let deadline = long(fixture);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            // Dropped with a panic here, which ends a read that waits.
            let mut link = link;
            for number in 0..ROW {
                source.refill(&content(number));
                source
                    .send(&mut link, deadline)
                    .expect("it is read in the end");
                // Never sent to anybody.
                source.overwrite();
                overwritten.store(number + 1, Ordering::SeqCst);
            }
            link
        });
        // Not for ever, because one that does not fit into the stream's buffers has to be read to be sent.
        let wait_for = |count| {
            give_time(Duration::from_millis(50), || {
                overwritten.load(Ordering::SeqCst) >= count
            });
        };
        let mut header = read_header(&mut stream).expect("a header");
        for number in 0..ROW {
            let acknowledge = matches!(
                header.kind,
                Kind::Data {
                    acknowledge: true,
                    ..
                }
            );
            if acknowledge {
                wait_for(number + 1);
                let early = Header {
                    kind: Kind::Acknowledgement,
                    sequence: number,
                    length: 0,
                };
                stream
                    .write_all(&early.encode())
                    .expect("the sender is there");
            }
            wait_for(ROW);
            let mut bytes = vec![0; len as usize];
            stream.read_exact(&mut bytes).expect("a payload");
            assert!(
                bytes == content(number),
                "payload {number} of {len} bytes, which was acknowledged unread, changed"
            );
            if number + 1 < ROW {
                header = read_header(&mut stream).expect("a header");
            }
        }
        sender.join().expect("the sender does not panic");
    });
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
