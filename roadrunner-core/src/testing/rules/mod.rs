//! The ten rules, each as a check that panics when it is broken.

mod bounded;
mod deadlines;
mod death;
mod hostile;
mod invited;
mod order;
mod private;
mod receipts;
mod reuse;
mod whole;

use super::fixture::{Case, Fixture, Missing};
use super::places::{Destination, Source};
use super::process::{alone, beside_others, skipped, within};
use crate::{Deadline, TransferError};
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// A rule of the [contract](crate::Transfer).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Rule 1.
    Order = 1,
    /// Rule 2.
    Reuse,
    /// Rule 3.
    Whole,
    /// Rule 4.
    Private,
    /// Rule 5.
    Deadlines,
    /// Rule 6.
    Bounded,
    /// Rule 7.
    Hostile,
    /// Rule 8.
    Death,
    /// Rule 9.
    Receipts,
    /// Rule 10.
    Invited,
}

impl Rule {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Order,
        Self::Reuse,
        Self::Whole,
        Self::Private,
        Self::Deadlines,
        Self::Bounded,
        Self::Hostile,
        Self::Death,
        Self::Receipts,
        Self::Invited,
    ];

    /// Its number, 1 to 10.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "one send, one receive",
            Self::Reuse => "safe reuse",
            Self::Whole => "all or nothing",
            Self::Private => "only the payload crosses",
            Self::Deadlines => "deadlines",
            Self::Bounded => "bounded",
            Self::Hostile => "hostile input is an error",
            Self::Death => "death leaves nothing behind",
            Self::Receipts => "honest receipts",
            Self::Invited => "nobody uninvited",
        }
    }

    /// What its check shows.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Order => {
                "Payloads of every length up to the limit arrive once, whole, in order and apart, in both directions; a \
                 longer one is refused."
            }
            Self::Reuse => {
                "What is written over the source as soon as send has returned does not change what arrives, however late \
                 and slowly the receiver reads, and however many payloads it has not read."
            }
            Self::Whole => {
                "After an error the destination has been released, once, what was not sent is where it was, and is_open tells \
                 truly whether the link goes on."
            }
            Self::Private => {
                "Bytes beside the payload change at neither end, a kept payload stays as it was, nothing of the receiver's \
                 old memory reaches the sender, and whoever acknowledges what it has not read sees nothing else."
            }
            Self::Deadlines => {
                "Receiving from an empty link, sending into a full one and closing it return in time, and not before."
            }
            Self::Bounded => {
                "A sender whose receiver does not read is stopped at the limit, with empty payloads too, and what was sent \
                 still arrives."
            }
            Self::Hostile => {
                "Regions outside a memory, sinks that lie and frames that lie are errors, and reserve and change nothing."
            }
            Self::Death => {
                "An end that goes away in any state is seen as that, and no descriptor, mapping or child stays behind."
            }
            Self::Receipts => {
                "Both receipts say the bytes, the method and the copies that are expected."
            }
            Self::Invited => "Whoever has no right to open a link does not get one.",
        }
    }

    fn check<F: Fixture>(self, fixture: &F) {
        match self {
            Self::Order => order::check(fixture),
            Self::Reuse => reuse::check(fixture),
            Self::Whole => whole::check(fixture),
            Self::Private => private::check(fixture),
            Self::Deadlines => deadlines::check(fixture),
            Self::Bounded => bounded::check(fixture),
            Self::Hostile => hostile::check(fixture),
            Self::Death => death::check(fixture),
            Self::Receipts => receipts::check(fixture),
            Self::Invited => invited::check(fixture),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}, {}", self.number(), self.name())
    }
}

/// Holds a transport against one rule. What hangs is left behind after a while, and counts as broken.
///
/// # Panics
/// If the rule is broken.
pub fn prove<F: Fixture>(rule: Rule, fixture: F) {
    let name = fixture.name().to_owned();
    // Every operation of a check waits for `long` at most, and none has more than some hundred that wait at all.
    let time = fixture.patience().max(Duration::from_secs(10)) * 20;
    let test = || within(time, move || rule.check(&fixture));
    let outcome = match rule {
        Rule::Death => alone(test),
        _ => beside_others(test),
    };
    assert!(outcome.is_some(), "{name}: {rule}: it hangs");
}

/// When an operation that is to succeed has failed.
fn long<F: Fixture>(fixture: &F) -> Deadline {
    Deadline::after(fixture.patience().max(Duration::from_secs(10)))
}

/// The next length to `len` for which the fixture's method runs.
fn near<F: Fixture>(fixture: &F, len: u64) -> u64 {
    let lengths = fixture.lengths();
    len.clamp(*lengths.start(), *lengths.end())
}

/// Says that a part of a rule is not tried.
fn skip<F: Fixture>(fixture: &F, rule: Rule, part: &str, why: Missing) {
    if let Missing::Skipped(why) = why {
        skipped(fixture.name(), &format!("{rule}: {part}: {why}"));
    }
}

/// Waits until `done`, but not longer than `most`: for states that cannot be observed, only be made likely. No outcome
/// depends on it.
fn give_time(most: Duration, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + most;
    while !done() && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends payloads like `case` until the link takes no more, or holds more than the fixture says it may. Gives how
/// many it took, and the error that ended it.
fn fill_up<F: Fixture>(
    fixture: &F,
    link: &mut F::Link,
    case: Case,
    wait: Duration,
) -> (u64, Option<TransferError>) {
    let most = fixture.in_flight();
    let len = case.len;
    let mut source = Source::new(fixture, &vec![7; len as usize], case);
    let mut count = 0;
    while count <= most.messages && count * len <= most.bytes {
        match source.send(link, Deadline::after(wait)) {
            Ok(_) => count += 1,
            Err(error) => return (count, Some(error)),
        }
    }
    (count, None)
}

/// Sends `content` one way and checks that it arrives.
fn passes<F: Fixture>(fixture: &F, from: &mut F::Link, to: &mut F::Link, content: &[u8]) {
    let mut destination = Destination::new(fixture, content.len() as u64);
    let mut source = Source::kept(fixture, content);
    let deadline = long(fixture);
    let arrived = thread::scope(|scope| {
        let sender = scope.spawn(|| source.send(from, deadline));
        let arrived = destination.receive(to, deadline);
        let sent = sender.join().expect("send does not panic");
        assert!(sent.is_ok(), "a payload was not sent: {sent:?}");
        arrived
    });
    match arrived {
        Ok(bytes) => assert!(bytes == content, "a payload arrived changed"),
        Err(error) => panic!("a payload did not arrive: {error}"),
    }
}
