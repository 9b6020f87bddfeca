//! Rule 5: deadlines.

use super::{near, passes};
use crate::testing::fixture::{Case, Fixture};
use crate::testing::payloads::pattern;
use crate::testing::places::{Destination, Source};
use crate::testing::process::within;
use crate::{Deadline, Transfer, TransferError, DEFAULT_LIMIT};
use std::thread;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(50);
/// Longer than any test, however slow the machine is.
const LONG: Duration = Duration::from_secs(3600);

pub(super) fn check<F: Fixture>(fixture: &F) {
    nothing_to_receive(fixture);
    nobody_to_receive_from(fixture);
    for len in [64, near(fixture, 8 << 20)] {
        for given in [false, true] {
            let offset = 0;
            no_room_to_send(fixture, Case { len, offset, given });
        }
    }
}

/// Runs one operation that has this deadline. If it takes too long the peer is dropped with the panic, which ends it.
fn in_time<F: Fixture, R: Send + 'static>(
    fixture: &F,
    what: &str,
    deadline: Deadline,
    mut link: F::Link,
    operation: impl FnOnce(&mut F::Link) -> R + Send + 'static,
) -> (F::Link, R) {
    let time = deadline.remaining().unwrap_or_default() + fixture.patience();
    let done = within(time, move || {
        let result = operation(&mut link);
        (link, result)
    });
    done.unwrap_or_else(|| {
        panic!(
            "{what}: still waiting {:?} after its deadline",
            fixture.patience()
        )
    })
}

fn nothing_to_receive<F: Fixture>(fixture: &F) {
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    for wait in [Duration::ZERO, SHORT] {
        let deadline = Deadline::after(wait);
        let mut destination = Destination::new(fixture, 100);
        let (link, result) = in_time(fixture, "an empty link", deadline, b, move |link| {
            destination.receive(link, deadline)
        });
        assert!(
            matches!(result, Err(TransferError::Timeout)),
            "received from an empty link: {result:?}"
        );
        assert!(deadline.has_passed(), "a timeout before the deadline");
        assert!(link.is_open(), "a deadline on an empty link broke it");
        b = link;
    }
    passes(fixture, &mut a, &mut b, b"after the deadline");
}

/// Waits for a payload until the peer leaves: that is no timeout.
fn nobody_to_receive_from<F: Fixture>(fixture: &F) {
    let (a, mut b) = fixture.open(DEFAULT_LIMIT);
    let mut destination = Destination::new(fixture, 100);
    let leaving = thread::spawn(move || {
        // Most often while it is waited for.
        thread::sleep(SHORT);
        drop(a);
    });
    let received = within(SHORT + fixture.patience(), move || {
        destination.receive(&mut b, Deadline::after(LONG))
    });
    leaving.join().expect("no panic");
    let received = received.unwrap_or_else(|| panic!("waiting for a peer that has left"));
    assert!(
        !matches!(received, Err(TransferError::Timeout)),
        "a timeout long before the deadline"
    );
}

/// Sends into a full link, and closes it.
fn no_room_to_send<F: Fixture>(fixture: &F, case: Case) {
    let (a, b) = fixture.open(DEFAULT_LIMIT);
    let most = fixture.in_flight();
    let mut sending = (a, Source::new(fixture, &pattern(case.len, 1), case));
    let mut sent = 0;
    // A link that takes more than it may is rule 6's business.
    while sent <= most.messages && sent * case.len <= most.bytes {
        let (link, mut source) = sending;
        let deadline = Deadline::after(SHORT);
        let (link, (source, result)) =
            in_time(fixture, "a full link", deadline, link, move |link| {
                let result = source.send(link, deadline);
                (source, result)
            });
        match result {
            Ok(_) => sent += 1,
            Err(TransferError::Timeout) => {
                assert!(deadline.has_passed(), "a timeout before the deadline");
                close_in_time(fixture, link);
                break;
            }
            Err(error) => panic!("sending into a full link: {error}"),
        }
        sending = (link, source);
    }
    drop(b);
}

fn close_in_time<F: Fixture>(fixture: &F, link: F::Link) {
    let deadline = Deadline::after(SHORT);
    let (_link, closed) = in_time(
        fixture,
        "closing a full link",
        deadline,
        link,
        move |link| link.close(deadline),
    );
    assert!(
        matches!(
            closed,
            Ok(()) | Err(TransferError::Timeout | TransferError::Broken)
        ),
        "closing a full link: {closed:?}"
    );
}
