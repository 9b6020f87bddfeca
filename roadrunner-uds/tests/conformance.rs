//! The contract, rule by rule, over UNIX sockets.

use roadrunner_core::stream::INLINE_LIMIT;
use roadrunner_core::testing::{
    say_hello, soon, ByHand, Case, Expected, Fixture, InFlight, Missing, Stranger,
};
use roadrunner_core::{conformance, Method, DEFAULT_LIMIT};
use roadrunner_uds::{connect, pair, Address, Link, Listener, Options, UnixWire};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::thread;

conformance!(inline, Unix(Method::Inline));
conformance!(write, Unix(Method::Write));
conformance!(splice, skipped: "payloads are not spliced over UNIX sockets yet");
conformance!(segment, skipped: "segments are not passed over UNIX sockets yet");

/// UNIX sockets, by one of the methods.
struct Unix(Method);

fn method(len: u64) -> Method {
    if len <= INLINE_LIMIT {
        Method::Inline
    } else {
        Method::Write
    }
}

impl Fixture for Unix {
    type Link = Link;

    fn name(&self) -> &str {
        self.0.name()
    }

    fn open(&self, limit: u64) -> (Link, Link) {
        pair("test", &Options::default().limit(limit)).expect("a pair")
    }

    fn expected(&self, case: Case) -> Expected {
        // Into the kernel and out of it; an empty payload is copied by nobody.
        let copies = u8::from(case.len > 0);
        Expected::by(method(case.len), copies, 2 * copies)
    }

    /// The system's buffer (`net.core.wmem_default`, 208 KiB), in which each message counts for more than its bytes.
    fn in_flight(&self) -> InFlight {
        InFlight {
            bytes: 1 << 20,
            messages: 4096,
        }
    }

    fn lengths(&self) -> RangeInclusive<u64> {
        match self.0 {
            Method::Inline => 0..=INLINE_LIMIT,
            _ => INLINE_LIMIT + 1..=DEFAULT_LIMIT,
        }
    }

    fn holds_descriptors(&self) -> bool {
        true
    }

    fn by_hand(&self, limit: u64) -> Result<ByHand<Link>, Missing> {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        let wire = UnixWire::new(ours, &Options::default()).expect("our own uid");
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
        let someone = Options::default().uid(ours + 1);
        let paired = pair("stranger", &someone).map(|(a, _)| a);

        let name = format!("roadrunner-stranger-{}-{}", std::process::id(), self.name());
        let address = Address::abstract_name(name).expect("short");
        let mut listener = Listener::bind(address.clone(), someone.clone()).expect("a free name");
        let (connected, accepted) = thread::scope(|scope| {
            let connecting = scope.spawn(|| connect(&address, "me", &Options::default(), soon()));
            let accepted = listener.accept(soon());
            (connecting.join().expect("no panic"), accepted)
        });

        drop(listener);
        let _listener = Listener::bind(address.clone(), Options::default()).expect("free again");
        let listening = connect(&address, "me", &someone, soon());
        Ok(vec![
            ("a socket of another user".to_owned(), paired),
            ("another user who connects".to_owned(), accepted),
            ("who connected, as it sees it".to_owned(), connected),
            ("another user who listens".to_owned(), listening),
        ])
    }
}
