//! Links, and the side that connects.

use crate::address::Address;
use crate::bind::try_connect;
use crate::options::Options;
use crate::wire::UnixWire;
use roadrunner_core::stream::StreamLink;
use roadrunner_core::{Deadline, TransferError};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::{io, thread};

/// One end of a link between two processes of one host. [`wire`](StreamLink::wire) says who is at the other end.
pub type Link = StreamLink<UnixWire>;

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
const PAIR_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the listener at `address` and opens a link named `name` (at most 255 bytes).
///
/// While nobody listens there, because the other side has not started yet, it tries again, with growing pauses of up
/// to 50 ms, until the deadline.
///
/// # Errors
/// [`Io`](TransferError::Io) that names the address, of the kind [`TimedOut`](io::ErrorKind::TimedOut) if nobody
/// listened by the deadline; [`Refused`](TransferError::Refused) if the listener runs as a user who is not allowed;
/// [`PeerClosed`](TransferError::PeerClosed) if it turned us away; what [`Link::connect`] returned.
pub fn connect(
    address: &Address,
    name: &str,
    options: &Options,
    deadline: Deadline,
) -> Result<Link, TransferError> {
    let mut pause = FIRST_PAUSE;
    let socket = loop {
        let error = match try_connect(address) {
            Ok(socket) => break socket,
            Err(error) => error,
        };
        if !matches!(
            error.kind(),
            io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
        ) {
            return Err(at(address, "connect", error));
        }
        let Some(left) = deadline.remaining() else {
            let reason = format!(
                "nobody accepts there ({error}); start the receiving side first, or allow more time"
            );
            let late = io::Error::new(io::ErrorKind::TimedOut, reason);
            return Err(at(address, "connect", late));
        };
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    let wire = UnixWire::new(UnixStream::from(socket), options)?;
    Link::connect(wire, name, options.limit_bytes(), deadline)
}

/// The two ends of a link within this process (socketpair(2)): for tests, and for handing one end to a child.
///
/// # Errors
/// As [`UnixWire::new`]; [`Protocol`](TransferError::Protocol) if the name is longer than 255 bytes.
pub fn pair(name: &str, options: &Options) -> Result<(Link, Link), TransferError> {
    let (a, b) = UnixStream::pair().map_err(|source| TransferError::Io {
        doing: "make a pair of sockets",
        source,
    })?;
    let (a, b) = (UnixWire::new(a, options)?, UnixWire::new(b, options)?);
    let (limit, deadline) = (options.limit_bytes(), Deadline::after(PAIR_TIMEOUT));
    // Either end waits for the other's hello.
    thread::scope(|scope| {
        let other = scope.spawn(|| Link::accept(b, limit, deadline));
        let one = Link::connect(a, name, limit, deadline);
        let other = other.join().unwrap_or(Err(TransferError::Broken));
        Ok((one?, other?))
    })
}

/// An error about an address, which is named in it.
pub(crate) fn at(address: &Address, doing: &'static str, error: io::Error) -> TransferError {
    TransferError::Io {
        doing,
        source: io::Error::new(error.kind(), format!("{address}: {error}")),
    }
}
