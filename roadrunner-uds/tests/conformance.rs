//! The contract, rule by rule, over UNIX sockets.

use roadrunner_core::stream::INLINE_LIMIT;
use roadrunner_core::testing::{
    say_hello, soon, ByHand, Case, Expected, Fixture, InFlight, Missing, Stranger,
};
use roadrunner_core::{conformance, LinearMemory, Method, DEFAULT_LIMIT};
use roadrunner_mem::{PageBuffer, PAGE_SIZE};
use roadrunner_uds::{connect, pair, Address, Link, Listener, Options, Preference, UnixWire};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::thread;

conformance!(inline, Unix(Method::Inline));
conformance!(write, Unix(Method::Write));
conformance!(splice, Unix(Method::Splice));
conformance!(segment, Unix(Method::Map));

/// Bytes from which payloads are spliced, or copied into segments, here.
const LARGE: u64 = 64 << 10;
const PAGE: u64 = PAGE_SIZE as u64;

/// UNIX sockets, by one of the methods.
struct Unix(Method);

impl Unix {
    fn options(&self) -> Options {
        let preference = match self.0 {
            Method::Splice => Preference::Splice,
            Method::Map => Preference::Segment,
            _ => Preference::Write,
        };
        Options::default()
            .prefer(preference)
            .splice_from(LARGE)
            .segment_from(LARGE)
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
        pair("test", &self.options().limit(limit)).expect("a pair")
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
            _ if self.splices(case) => Expected::by(Method::Splice, 0, 1),
            0..=INLINE_LIMIT => Expected::by(Method::Inline, copies, 2 * copies),
            _ => Expected::by(Method::Write, copies, 2 * copies),
        }
    }

    /// The socket's buffer, which the system doubles and in which each message counts for more than its bytes; and up to 64
    /// segments.
    fn in_flight(&self) -> InFlight {
        InFlight {
            bytes: if self.0 == Method::Map {
                8 << 20
            } else {
                2 << 20
            },
            messages: 4096,
        }
    }

    fn lengths(&self) -> RangeInclusive<u64> {
        match self.0 {
            Method::Inline => 0..=INLINE_LIMIT,
            Method::Splice | Method::Map => LARGE..=DEFAULT_LIMIT,
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

    /// What is in a segment cannot stop at a byte; tests/hostile.rs has what can go wrong with one.
    fn by_hand(&self, limit: u64) -> Result<ByHand<Link>, Missing> {
        if self.0 == Method::Map {
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
