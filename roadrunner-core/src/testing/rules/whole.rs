//! Rule 3: all or nothing.

use super::{fill_up, long, near, passes, skip, Rule};
use crate::testing::by_hand::data_frame;
use crate::testing::fixture::{Case, Fixture};
use crate::testing::payloads::pattern;
use crate::testing::places::{Answer, Destination, Source};
use crate::{Deadline, Region, Transfer, TransferError, DEFAULT_LIMIT};
use std::thread;
use std::time::Duration;

/// How long a payload may take that need not be sent.
const MOMENT: Duration = Duration::from_millis(20);

pub(super) fn check<F: Fixture>(fixture: &F) {
    for len in [10, 200_000].map(|len| near(fixture, len)) {
        nowhere_to_go(fixture, len, || Answer::Refuse);
        nowhere_to_go(fixture, len, || {
            Answer::Lie(|len, memory| Region::new(memory, len))
        });
        a_late_end(fixture, len);
    }
    for len in [10, 200_000].map(|len| near(fixture, len)) {
        not_sent(fixture, len);
    }
    cut(fixture);
}

/// A payload that was given away and could not be sent, on a link that goes on, is where it was.
fn not_sent<F: Fixture>(fixture: &F, len: u64) {
    // Both ends are needed for the link to be full and not dead.
    let (mut a, _b) = fixture.open(DEFAULT_LIMIT);
    let offset = 0;
    let kept = Case {
        len: 1,
        offset,
        given: false,
    };
    // A link that is never full is rule 6's business.
    fill_up(fixture, &mut a, kept, MOMENT);
    let content = pattern(len, 1);
    let mut source = Source::new(
        fixture,
        &content,
        Case {
            len,
            offset,
            given: true,
        },
    );
    let sent = source.send(&mut a, Deadline::after(MOMENT));
    assert!(
        sent.is_ok() || !a.is_open() || source.payload() == content,
        "{len} bytes that were not sent are not where they were"
    );
}

/// The payload is there and its destination is not.
fn nowhere_to_go<F: Fixture>(fixture: &F, len: u64, answer: impl Fn() -> Answer) {
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    let content = pattern(len, 1);
    let mut source = Source::kept(fixture, &content);
    let deadline = long(fixture);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            // Whether it was sent is not the point: nobody may read a large one, and an end that waits for the receiver
            // may be told.
            drop(source.send(&mut a, deadline));
            a
        });
        let mut destination = Destination::new(fixture, len).answering(answer());
        let error = destination
            .receive(&mut b, deadline)
            .expect_err("there was no place for the payload");
        assert!(
            matches!(
                error,
                TransferError::NoRoom { .. }
                    | TransferError::OutOfBounds { .. }
                    | TransferError::Sink(_)
            ),
            "no place for {len} bytes: {error}"
        );
        settled(&destination);
        if b.is_open() {
            let mut a = sender.join().expect("send does not panic");
            assert!(
                a.is_open(),
                "{len} bytes: one end is open and the other is not"
            );
            goes_on(fixture, &mut a, &mut b, &content);
        } else {
            stands_still(fixture, &mut b);
            drop(b);
            // Now that nobody is there it returns.
            drop(sender.join().expect("send does not panic"));
        }
    });
}

/// What was reserved and did not arrive has been released, once.
fn settled(destination: &Destination<'_>) {
    assert_eq!(
        destination.released, destination.reserved,
        "released and reserved after an error"
    );
}

/// The link says that it is open: another payload passes. The one that failed may come again before it.
fn goes_on<F: Fixture>(fixture: &F, a: &mut F::Link, b: &mut F::Link, failed: &[u8]) {
    let next = pattern(near(fixture, 50), 9);
    let mut source = Source::kept(fixture, &next);
    let deadline = long(fixture);
    thread::scope(|scope| {
        let sender = scope.spawn(|| source.send(a, deadline));
        let room = next.len().max(failed.len()) as u64;
        let mut destination = Destination::new(fixture, room);
        let mut arrived = destination.receive(b, deadline);
        if matches!(&arrived, Ok(bytes) if bytes == failed) {
            arrived = destination.receive(b, deadline);
        }
        match arrived {
            Ok(bytes) => assert!(bytes == next, "the payload after an error arrived changed"),
            Err(error) => panic!("the link says it is open, but the next payload: {error}"),
        }
        let sent = sender.join().expect("send does not panic");
        assert!(sent.is_ok(), "the link says it is open, but: {sent:?}");
    });
}

/// The link says that it is broken: it does nothing more.
fn stands_still<F: Fixture>(fixture: &F, link: &mut F::Link) {
    let received = Destination::new(fixture, 100).receive(link, Deadline::now());
    let sent = Source::kept(fixture, b"more").send(link, Deadline::now());
    assert!(
        matches!(received, Err(TransferError::Broken))
            && matches!(sent, Err(TransferError::Broken)),
        "a link that is not open received {received:?} and sent {sent:?}"
    );
}

/// The other direction is not touched by the end of this one.
fn a_late_end<F: Fixture>(fixture: &F, len: u64) {
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    b.close(long(fixture)).expect("an open link can be closed");
    let mut destination = Destination::new(fixture, 100);
    let end = destination.receive(&mut a, long(fixture));
    assert!(
        end.is_err(),
        "received {end:?} from an end that sent nothing"
    );
    settled(&destination);
    if a.is_open() {
        passes(fixture, &mut a, &mut b, &pattern(len, 4));
    } else {
        stands_still(fixture, &mut a);
    }
}

/// The peer dies in the middle of a payload.
fn cut<F: Fixture>(fixture: &F) {
    let payload = pattern(near(fixture, 100_000), 3);
    let frame = data_frame(0, &payload);
    for life in [
        frame.len() - payload.len() + 1,
        frame.len() / 2,
        frame.len() - 1,
    ] {
        let (mut link, mut stream) = match fixture.by_hand(DEFAULT_LIMIT) {
            Ok(both) => both,
            Err(why) => return skip(fixture, Rule::Whole, "a peer that dies half-way", why),
        };
        let deadline = long(fixture);
        thread::scope(|scope| {
            let frame = &frame[..life.min(frame.len())];
            scope.spawn(move || stream.write_all(frame).expect("the other end reads"));
            let mut destination = Destination::new(fixture, payload.len() as u64);
            let error = destination
                .receive(&mut link, deadline)
                .expect_err("the payload is not whole");
            assert!(
                matches!(error, TransferError::Truncated { .. }),
                "died after {life} bytes: {error}"
            );
            assert_eq!(destination.reserved.len(), 1, "died after {life} bytes");
            settled(&destination);
            assert!(!link.is_open(), "died after {life} bytes");
            stands_still(fixture, &mut link);
        });
    }
}
