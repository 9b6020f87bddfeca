//! The contract, rule by rule, over TCP connections on loopback.

#[path = "common/by_hand.rs"]
mod by_hand;
mod common;

use by_hand::{by_hand, raw};
use common::{both, page_memory, secret};
use roadrunner_core::stream::INLINE_LIMIT;
use roadrunner_core::testing::{
    soon, ByHand, Case, Expected, Fixture, InFlight, Missing, Stranger,
};
use roadrunner_core::{conformance, LinearMemory, Method, DEFAULT_LIMIT};
use roadrunner_splice::{connect, Link, Listener, Options, Preference, Secret};
use std::io::{Read, Write};
use std::ops::RangeInclusive;
use std::thread;

conformance!(inline, Tcp::by(Method::Inline));
conformance!(write, Tcp::by(Method::Write));
conformance!(splice, Tcp::by(Method::Splice));
conformance!(zero_copy_send, Tcp::by(Method::ZeroCopySend));
#[cfg(feature = "tls")]
conformance!(tls, Tcp::within_tls());
#[cfg(not(feature = "tls"))]
conformance!(tls, skipped: "built without the feature `tls`");
// Where there is no io_uring this is the same once more; tests/links/zerocopy.rs says so.
conformance!(zero_copy_send_by_io_uring, Tcp::by_io_uring());
// Of three connections, over which go payloads of 1 MiB and more.
conformance!(streams, Tcp::in_streams());

/// Bytes from which payloads are spliced, or sent without a copy, here.
const SPLICE_FROM: u64 = 64 << 10;
const PAGE: u64 = 4096;

/// TCP, by one of the methods.
struct Tcp {
    method: Method,
    encrypted: bool,
    io_uring: bool,
    streams: u8,
}

impl Tcp {
    fn by(method: Method) -> Self {
        Self {
            method,
            encrypted: false,
            io_uring: false,
            streams: 1,
        }
    }

    fn in_streams() -> Self {
        Self {
            streams: 3,
            ..Self::by(Method::Write)
        }
    }

    fn by_io_uring() -> Self {
        Self {
            io_uring: true,
            ..Self::by(Method::ZeroCopySend)
        }
    }

    /// Where what is asked for is written all the same.
    #[cfg(feature = "tls")]
    fn within_tls() -> Self {
        Self {
            encrypted: true,
            ..Self::by(Method::Splice)
        }
    }

    fn options(&self) -> Options {
        let options = Options::default();
        #[cfg(feature = "tls")]
        let options = if self.encrypted {
            options.tls(common::certificates::tls())
        } else {
            options
        };
        let preference = match self.method {
            Method::Splice => Preference::Splice,
            Method::ZeroCopySend => Preference::ZeroCopySend,
            _ => Preference::Write,
        };
        options
            .prefer(preference)
            .splice_from(SPLICE_FROM)
            .io_uring(self.io_uring)
            .streams(self.streams)
            // Less than the system's own choice, so that a link is soon full.
            .buffer(64 << 10)
    }

    fn splices(&self, case: Case) -> bool {
        let start = case.offset.next_multiple_of(PAGE);
        let end = (case.offset + case.len) / PAGE * PAGE;
        self.method == Method::Splice
            && !self.encrypted
            && case.given
            && case.len >= SPLICE_FROM
            && start < end
    }
}

impl Fixture for Tcp {
    type Link = Link;

    fn name(&self) -> &str {
        if self.encrypted {
            "tls"
        } else {
            self.method.name()
        }
    }

    fn open(&self, limit: u64) -> (Link, Link) {
        both(&self.options().secret(secret()).limit(limit))
    }

    fn expected(&self, case: Case) -> Expected {
        // Out of the kernel, and into it unless it is spliced; an empty payload is copied by nobody. TLS copies twice more
        // on either side.
        let copies = u8::from(case.len > 0) * if self.encrypted { 3 } else { 1 };
        match case.len {
            _ if self.splices(case) => Expected::by(Method::Splice, 0, 1),
            // The kernel copies what stays on the host, and says so.
            SPLICE_FROM.. if self.method == Method::ZeroCopySend => Expected::by(self.method, 1, 2),
            0..=INLINE_LIMIT => Expected::by(Method::Inline, copies, 2 * copies),
            _ => Expected::by(Method::Write, copies, 2 * copies),
        }
    }

    /// Both sockets' buffers, which the system doubles, and on whose fill level it has views of its own.
    fn in_flight(&self) -> InFlight {
        InFlight {
            bytes: 4 << 20,
            messages: 16 << 10,
        }
    }

    fn lengths(&self) -> RangeInclusive<u64> {
        match self.method {
            Method::Inline => 0..=INLINE_LIMIT,
            Method::Splice | Method::ZeroCopySend => SPLICE_FROM..=DEFAULT_LIMIT,
            _ => INLINE_LIMIT + 1..=DEFAULT_LIMIT,
        }
    }

    fn source(&self, len: u64) -> Box<dyn LinearMemory + Send> {
        page_memory(len)
    }

    fn destination(&self, len: u64) -> Box<dyn LinearMemory + Send> {
        page_memory(len)
    }

    fn holds_descriptors(&self) -> bool {
        true
    }

    fn by_hand(&self, limit: u64) -> Result<ByHand<Link>, Missing> {
        #[cfg(feature = "tls")]
        if self.encrypted {
            let options = self.options().limit(limit);
            let (link, stream) = by_hand::within_tls::by_hand_within_tls(&options);
            return Ok((link, Box::new(stream)));
        }
        let (link, stream) = by_hand(&self.options().limit(limit));
        Ok((link, Box::new(stream)))
    }

    fn strangers(&self) -> Result<Vec<Stranger<Link>>, Missing> {
        let wrong = Secret::from_bytes(b"incorrect horse battery staple").expect("long enough");
        let ours = self.options().secret(secret());
        let mut outcomes = Vec::new();
        for (who, theirs) in [
            (
                "a stranger with another secret",
                self.options().secret(wrong),
            ),
            ("a stranger without a secret", Options::default()),
        ] {
            let mut listener = Listener::bind("127.0.0.1:0", ours.clone()).expect("a free port");
            let address = listener.address().to_string();
            let (connected, accepted) = thread::scope(|scope| {
                let connecting = scope.spawn(|| connect(&address, "me", &theirs, soon()));
                let accepted = listener.accept(soon());
                (connecting.join().expect("no panic"), accepted)
            });
            outcomes.push((who.to_owned(), accepted));
            outcomes.push((format!("{who}, as it sees it"), connected));
        }

        let mut listener = Listener::bind("127.0.0.1:0", ours.clone()).expect("a free port");
        let mut stream = raw(&listener);
        let accepted = thread::scope(|scope| {
            let echo = scope.spawn(move || {
                // Says again whatever it hears.
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
            });
            let accepted = listener.accept(soon());
            drop(listener);
            echo.join().expect("no panic");
            accepted
        });
        outcomes.push(("a stranger who echoes".to_owned(), accepted));
        Ok(outcomes)
    }
}
