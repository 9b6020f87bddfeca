//! A wire over std's UNIX sockets, which copies everything once more than it would have to.

use roadrunner_core::stream::{StreamLink, Wire, INLINE_LIMIT};
use roadrunner_core::testing::{
    say_hello, soon, ByHand, Case, Expected, Fixture, InFlight, Missing, Stranger,
};
use roadrunner_core::{Deadline, Method, Span};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// Bytes copied at a time.
const STEP: usize = 64 << 10;
/// The shortest timeout that a socket takes for one, and not for none.
const LEAST: Duration = Duration::from_micros(1);

pub(crate) struct StdWire(UnixStream);

fn left(deadline: Deadline) -> Option<Duration> {
    Some(deadline.remaining().unwrap_or_default().max(LEAST))
}

/// Once more where a signal has come between.
fn persist(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl Wire for StdWire {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        let mut bytes = vec![0; into.len().min(STEP)];
        self.0.set_read_timeout(left(deadline))?;
        let count = persist(|| self.0.read(&mut bytes))?;
        Ok(into.copy_from_slice(&bytes[..count]))
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        let mut bytes = vec![0; body.len().min(STEP)];
        body.copy_to_slice(&mut bytes);
        let bytes = [head, &bytes].concat();
        self.0.set_write_timeout(left(deadline))?;
        persist(|| self.0.write(&bytes))
    }
}

pub(crate) struct Sockets;

impl Fixture for Sockets {
    type Link = StreamLink<StdWire>;

    fn name(&self) -> &str {
        "stream"
    }

    fn open(&self, limit: u64) -> (Self::Link, Self::Link) {
        let (a, b) = UnixStream::pair().expect("sockets");
        thread::scope(|scope| {
            let b = scope.spawn(|| StreamLink::accept(StdWire(b), limit, soon()));
            let a = StreamLink::connect(StdWire(a), "test", limit, soon());
            let b = b.join().expect("no panic");
            (a.expect("a hello"), b.expect("a hello"))
        })
    }

    fn expected(&self, case: Case) -> Expected {
        let copies = u8::from(case.len > 0);
        let method = if case.len <= INLINE_LIMIT {
            Method::Inline
        } else {
            Method::Write
        };
        Expected::by(method, copies, 2 * copies)
    }

    /// A buffer of 208 KiB (`net.core.wmem_default`), in which each message counts for more than its bytes.
    fn in_flight(&self) -> InFlight {
        InFlight {
            bytes: 1 << 20,
            messages: 4096,
        }
    }

    fn holds_descriptors(&self) -> bool {
        true
    }

    fn by_hand(&self, limit: u64) -> Result<ByHand<Self::Link>, Missing> {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        let link = thread::scope(|scope| {
            let hand = scope.spawn(|| say_hello(&mut theirs, "by hand").expect("a hello"));
            let link = StreamLink::accept(StdWire(ours), limit, soon()).expect("a hello");
            hand.join().expect("no panic");
            link
        });
        Ok((link, Box::new(theirs)))
    }

    fn strangers(&self) -> Result<Vec<Stranger<Self::Link>>, Missing> {
        Err(Missing::NotApplicable)
    }
}
