//! Rule 8: death leaves nothing behind.

use super::{give_time, long, near, skip, Rule};
use crate::testing::by_hand::death_at_every_byte;
use crate::testing::fixture::{Case, Fixture};
use crate::testing::payloads::pattern;
use crate::testing::places::{Destination, Source};
use crate::testing::process::Census;
use crate::{Deadline, Transfer, TransferError, DEFAULT_LIMIT};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Deaths of each kind between two counts.
const ROUNDS: usize = 64;
/// Mappings that may come and go with the allocator's arenas and the stacks of threads; what leaks with each death is
/// more.
const MAPPINGS: usize = ROUNDS / 2;
/// Bytes likewise. What a payload of [`LARGE`] bytes leaves with each death is more.
const WRITABLE: u64 = LARGE * ROUNDS as u64 / 2;
const LARGE: u64 = 1 << 20;

pub(super) fn check<F: Fixture>(fixture: &F) {
    counting_counts(fixture);
    let by_hand = fixture.by_hand(DEFAULT_LIMIT).map(drop);
    if let Err(why) = by_hand {
        skip(fixture, Rule::Death, "a peer that dies at every byte", why);
    }
    // Once before the first count, for what is made once and kept: arenas, stacks, pools.
    for round in 0..2 {
        let before = Census::take();
        for _ in 0..if round == 0 { 4 } else { ROUNDS } {
            quiet_deaths(fixture);
        }
        deaths_of_a_peer_that_is_waited_for(fixture);
        if by_hand.is_ok() {
            at_every_byte(fixture);
        }
        let after = Census::take();
        if round > 0 {
            nothing_stays(before, after);
        }
    }
}

/// If links have descriptors, an open one is seen in the count.
fn counting_counts<F: Fixture>(fixture: &F) {
    if fixture.holds_descriptors() {
        let before = Census::take().descriptors;
        let _both = fixture.open(DEFAULT_LIMIT);
        assert!(
            Census::take().descriptors > before,
            "the fixture says that a link has descriptors, and an open one has none"
        );
    }
}

fn nothing_stays(before: Census, after: Census) {
    assert_eq!(
        (after.descriptors, after.children),
        (before.descriptors, before.children),
        "descriptors and children after {ROUNDS} links have died"
    );
    assert!(
        after.mappings <= before.mappings + MAPPINGS,
        "{} mappings before and {} after {ROUNDS} links have died",
        before.mappings,
        after.mappings
    );
    assert!(
        after.writable <= before.writable + WRITABLE,
        "{} writable bytes before and {} after {ROUNDS} links have died",
        before.writable,
        after.writable
    );
}

/// How long a payload may take that need not be sent.
const MOMENT: Duration = Duration::from_millis(20);

/// In every state that one thread can bring a link into.
fn quiet_deaths<F: Fixture>(fixture: &F) {
    let content = pattern(100, 1);
    let deadline = long(fixture);

    // A new link, seen by the receiver and by the sender.
    let (a, mut b) = fixture.open(DEFAULT_LIMIT);
    drop(a);
    gone(receive(fixture, &mut b), "before it sent anything");
    let (mut a, b) = fixture.open(DEFAULT_LIMIT);
    drop(b);
    let case = Case {
        len: 100,
        offset: 0,
        given: false,
    };
    gone(
        send_until_it_fails(fixture, &mut a, case),
        "before it received",
    );

    // With a payload on its way: it arrives, or it does not.
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    let sent = Source::kept(fixture, &content).send(&mut a, Deadline::after(MOMENT));
    drop(a);
    match (sent, receive(fixture, &mut b)) {
        (Ok(_), Ok(bytes)) => {
            assert!(bytes == content, "what a dead peer had sent changed");
            gone(receive(fixture, &mut b), "after its payload");
        }
        // It would have waited for the receiver.
        (Ok(_) | Err(TransferError::Timeout), error) => gone(error, "with a payload on its way"),
        (Err(error), _) => panic!("an empty link: {error}"),
    }

    // After its end: what it sent before is still there.
    let (mut a, mut b) = fixture.open(DEFAULT_LIMIT);
    let content = &content;
    thread::scope(|scope| {
        scope.spawn(move || {
            let sent = Source::kept(fixture, content).send(&mut a, deadline);
            sent.expect("an empty link takes a payload");
            a.close(deadline).expect("an open link can be closed");
        });
        let arrived = receive(fixture, &mut b);
        assert!(
            matches!(&arrived, Ok(bytes) if bytes == content),
            "what was sent before the end: {arrived:?}"
        );
        for _ in 0..2 {
            let end = receive(fixture, &mut b);
            assert!(
                matches!(end, Err(TransferError::Closed)),
                "the end: {end:?}"
            );
        }
    });

    // Both at once, with a large payload between them.
    for given in [false, true] {
        let (mut a, b) = fixture.open(DEFAULT_LIMIT);
        let (len, offset) = (near(fixture, LARGE), 0);
        let mut source = Source::new(fixture, &pattern(len, 1), Case { len, offset, given });
        drop(source.send(&mut a, Deadline::now()));
        drop((a, b));
    }
}

/// While the other end waits for it.
fn deaths_of_a_peer_that_is_waited_for<F: Fixture>(fixture: &F) {
    let (a, mut b) = fixture.open(DEFAULT_LIMIT);
    let waits = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            waits.store(true, Ordering::SeqCst);
            receive(fixture, &mut b)
        });
        give_time(Duration::from_secs(1), || waits.load(Ordering::SeqCst));
        thread::sleep(Duration::from_millis(5));
        drop(a);
        let seen = receiver.join().expect("recv does not panic");
        gone(seen, "while the other waited to receive");
    });

    let large = near(fixture, LARGE);
    for (len, given) in [(64, false), (large, false), (large, true)] {
        let offset = 0;
        let case = Case { len, offset, given };
        let (mut a, b) = fixture.open(DEFAULT_LIMIT);
        thread::scope(|scope| {
            let sender = scope.spawn(move || send_until_it_fails(fixture, &mut a, case));
            // Long enough to fill the link.
            give_time(Duration::from_millis(30), || sender.is_finished());
            drop(b);
            let seen = sender.join().expect("send does not panic");
            // A link that takes more than it may did not wait; that is rule 6's business.
            if seen.is_err() {
                gone(seen, "while the other waited to send");
            }
        });
    }
}

fn at_every_byte<F: Fixture>(fixture: &F) {
    death_at_every_byte(&mut || {
        fixture
            .by_hand(DEFAULT_LIMIT)
            .expect("there was one before")
    });
}

fn receive<F: Fixture>(fixture: &F, link: &mut F::Link) -> Result<Vec<u8>, TransferError> {
    Destination::new(fixture, 100).receive(link, long(fixture))
}

/// A peer's death may be seen late, when what it can no longer receive has been sent. Gives how sending failed, or how
/// many payloads were sent if that is more than the link may hold.
fn send_until_it_fails<F: Fixture>(
    fixture: &F,
    link: &mut F::Link,
    case: Case,
) -> Result<u64, TransferError> {
    let most = fixture.in_flight();
    let mut source = Source::new(fixture, &pattern(case.len, 1), case);
    let mut count = 0;
    while count <= most.messages && count * case.len <= most.bytes {
        source.send(link, long(fixture))?;
        count += 1;
    }
    Ok(count)
}

fn gone<R: fmt::Debug>(result: Result<R, TransferError>, when: &str) {
    assert!(
        matches!(
            result,
            Err(TransferError::PeerClosed | TransferError::Truncated { .. })
        ),
        "it died {when}: {result:?}"
    );
}
