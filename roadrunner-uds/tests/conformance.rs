//! The contract, rule by rule, over UNIX sockets.

use roadrunner_core::stream::INLINE_LIMIT;
use roadrunner_core::testing::{
    say_hello, soon, ByHand, Case, Expected, Fixture, InFlight, Missing, Stranger,
};
use roadrunner_core::{conformance, Deadline, LinearMemory, Method, DEFAULT_LIMIT};
use roadrunner_mem::testing::{slot_options, By, SlotEnd};
use roadrunner_mem::{PageBuffer, Slots, PAGE_SIZE};
use roadrunner_uds::{connect, pair, Address, Link, Listener, Options, Preference, UnixWire};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

conformance!(inline, Unix(Method::Inline));
conformance!(write, Unix(Method::Write));
conformance!(splice, Unix(Method::Splice));
conformance!(segment, Unix(Method::Map));
conformance!(ring, Unix(Method::Copy));
conformance!(
    slot,
    BySlots {
        by: By::Loan,
        trusted: false
    }
);
conformance!(
    slot_trusted,
    BySlots {
        by: By::Loan,
        trusted: true
    }
);
conformance!(
    shared,
    BySlots {
        by: By::Share,
        trusted: false
    }
);

/// Bytes from which payloads are spliced, or copied into segments, here.
const LARGE: u64 = 64 << 10;
const PAGE: u64 = PAGE_SIZE as u64;

/// Whoever has waited once waits at the ring.
fn at_the_ring((mut a, mut b): (Link, Link)) -> (Link, Link) {
    for end in [&mut a, &mut b] {
        let heard = end.listen(Deadline::after(Duration::from_millis(1)));
        assert!(matches!(heard, Ok(false)), "{heard:?}");
    }
    (a, b)
}

/// UNIX sockets, by one of the methods.
struct Unix(Method);

impl Unix {
    fn options(&self) -> Options {
        let preference = match self.0 {
            Method::Splice => Preference::Splice,
            Method::Map => Preference::Segment,
            Method::Copy => Preference::Ring,
            _ => Preference::Write,
        };
        Options::default()
            .prefer(preference)
            .splice_from(LARGE)
            .segment_from(LARGE)
            .ring_from(LARGE)
            // By hand there is no ring, so that bytes can be counted.
            .ring(if self.0 == Method::Copy { 64 << 10 } else { 0 })
    }

    fn splices(&self, case: Case) -> bool {
        let start = case.offset.next_multiple_of(PAGE);
        let end = (case.offset + case.len) / PAGE * PAGE;
        self.0 == Method::Splice && case.given && case.len >= LARGE && start < end
    }
}

impl Fixture for Unix {
    type Link = Link;

    fn name(&self) -> &str {
        self.0.name()
    }

    fn open(&self, limit: u64) -> (Link, Link) {
        let both = pair("test", &self.options().limit(limit)).expect("a pair");
        match self.0 {
            Method::Copy => at_the_ring(both),
            _ => both,
        }
    }

    fn expected(&self, case: Case) -> Expected {
        // Out of the kernel, and into it unless it is spliced; an empty payload is copied by nobody.
        let copies = u8::from(case.len > 0);
        match case.len {
            // Into the segment, and out of it for a receiver without slots.
            LARGE.. if self.0 == Method::Map => Expected {
                sent: (Method::Map, 1),
                delivered: (Method::Copy, 2),
            },
            // Into the ring and out of it.
            LARGE.. if self.0 == Method::Copy => Expected::by(Method::Copy, 1, 2),
            _ if self.splices(case) => Expected::by(Method::Splice, 0, 1),
            0..=INLINE_LIMIT => Expected::by(Method::Inline, copies, 2 * copies),
            _ => Expected::by(Method::Write, copies, 2 * copies),
        }
    }

    /// The socket's buffer, which the system doubles and in which each message counts for more than its bytes; and up to 64
    /// segments. Each entry of the ring takes at least 64 bytes.
    fn in_flight(&self) -> InFlight {
        InFlight {
            bytes: if self.0 == Method::Map {
                8 << 20
            } else {
                2 << 20
            },
            messages: 8192,
        }
    }

    /// What does not fit in the ring waits until the rest does.
    fn waits_for_receiver(&self, case: Case) -> bool {
        self.0 == Method::Copy && case.len >= LARGE
    }

    fn lengths(&self) -> RangeInclusive<u64> {
        match self.0 {
            Method::Inline => 0..=INLINE_LIMIT,
            Method::Splice | Method::Map | Method::Copy => LARGE..=DEFAULT_LIMIT,
            _ => INLINE_LIMIT + 1..=DEFAULT_LIMIT,
        }
    }

    fn source(&self, len: u64) -> Box<dyn LinearMemory + Send> {
        Box::new(PageBuffer::new(len as usize).expect("memory"))
    }

    fn destination(&self, len: u64) -> Box<dyn LinearMemory + Send> {
        self.source(len)
    }

    fn holds_descriptors(&self) -> bool {
        true
    }

    /// What is in a segment or a ring cannot stop at a byte; tests/hostile has what can go wrong with one.
    fn by_hand(&self, limit: u64) -> Result<ByHand<Link>, Missing> {
        if matches!(self.0, Method::Map | Method::Copy) {
            return Err(Missing::NotApplicable);
        }
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        let wire = UnixWire::new(ours, &self.options()).expect("our own uid");
        let link = thread::scope(|scope| {
            let hand = scope.spawn(|| say_hello(&mut theirs, "by hand").expect("hello"));
            let link = Link::accept(wire, limit, soon()).expect("hello");
            hand.join().expect("no panic");
            link
        });
        Ok((link, Box::new(theirs)))
    }

    /// Processes of another user: this one, to an end that lets only another in.
    fn strangers(&self) -> Result<Vec<Stranger<Link>>, Missing> {
        let ours = nix::unistd::geteuid().as_raw();
        let someone = self.options().uid(ours + 1);
        let paired = pair("stranger", &someone).map(|(a, _)| a);

        let name = format!("roadrunner-stranger-{}-{}", std::process::id(), self.name());
        let address = Address::abstract_name(name).expect("short");
        let mut listener = Listener::bind(address.clone(), someone.clone()).expect("a free name");
        let (connected, accepted) = thread::scope(|scope| {
            let connecting = scope.spawn(|| connect(&address, "me", &self.options(), soon()));
            let accepted = listener.accept(soon());
            (connecting.join().expect("no panic"), accepted)
        });

        drop(listener);
        let _listener = Listener::bind(address.clone(), self.options()).expect("free again");
        let listening = connect(&address, "me", &someone, soon());
        Ok(vec![
            ("a socket of another user".to_owned(), paired),
            ("another user who connects".to_owned(), accepted),
            ("who connected, as it sees it".to_owned(), connected),
            ("another user who listens".to_owned(), listening),
        ])
    }
}

/// Functions that produce their payloads in slots, or share them, with a ring for what is said about them.
struct BySlots {
    by: By,
    trusted: bool,
}

impl Fixture for BySlots {
    type Link = SlotEnd<Link>;

    fn name(&self) -> &str {
        match (self.by, self.trusted) {
            (By::Share, _) => "shared",
            (By::Loan, false) => "slot",
            (By::Loan, true) => "trusted slot",
        }
    }

    fn open(&self, limit: u64) -> (SlotEnd<Link>, SlotEnd<Link>) {
        let options = Options::default().limit(limit).trusted(self.trusted);
        let both = pair("test", &options).expect("a pair");
        let (here, there) = at_the_ring(both);
        let end = |link: Link| {
            let slots = Slots::for_audience(slot_options(), link.audience());
            SlotEnd::new(link, self.by, slots)
        };
        (end(here), end(there))
    }

    fn expected(&self, _case: Case) -> Expected {
        match self.by {
            By::Loan => Expected::by(Method::Slot, 0, 0),
            By::Share => Expected::by(Method::Map, 1, 1),
        }
    }

    /// 64 payloads that are not released.
    fn in_flight(&self) -> InFlight {
        InFlight {
            bytes: 8 << 20,
            messages: 64,
        }
    }

    fn lengths(&self) -> RangeInclusive<u64> {
        1..=DEFAULT_LIMIT
    }

    fn holds_descriptors(&self) -> bool {
        true
    }

    /// What is in a segment cannot stop at a byte; tests/hostile has what can go wrong with one.
    fn by_hand(&self, _limit: u64) -> Result<ByHand<SlotEnd<Link>>, Missing> {
        Err(Missing::NotApplicable)
    }

    /// Who may be there is the same question for all methods.
    fn strangers(&self) -> Result<Vec<Stranger<SlotEnd<Link>>>, Missing> {
        Err(Missing::NotApplicable)
    }
}
