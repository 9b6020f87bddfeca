//! Links, and the side that connects.

use crate::congestion::dial;
use crate::options::Options;
use crate::secret::check_accepting;
use crate::wire::{is_loopback, TcpWire};
use roadrunner_core::frame::FrameError;
use roadrunner_core::stream::{Opening, StreamLink};
use roadrunner_core::{Deadline, TransferError};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;
use std::{io, thread};

/// One end of a link between two hosts. [`wire`](StreamLink::wire) says where the other end is.
pub type Link = StreamLink<TcpWire>;

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// The least time that an attempt is given, so that a deadline that has passed still means one attempt.
const LEAST_ATTEMPT: Duration = Duration::from_millis(1);

/// Connects to the listener at `address` (`host:port`, `[::1]:port`) and opens a link named `name` (at most 255 bytes).
///
/// While nobody accepts there, or the name is not known yet, it tries again, with growing pauses of up to 100 ms, until
/// the deadline.
///
/// # Errors
/// [`Refused`](TransferError::Refused) if there is no secret and the address is not loopback, or if the peer does not
/// prove that it knows the secret; [`Io`](TransferError::Io) that names the address, of the kind
/// [`TimedOut`](io::ErrorKind::TimedOut) if nobody accepted by the deadline; what [`Link::connect`] returned.
pub fn connect(
    address: &str,
    name: &str,
    options: &Options,
    deadline: Deadline,
) -> Result<Link, TransferError> {
    let mut pause = FIRST_PAUSE;
    let socket = loop {
        let error = match try_connect(address, options, deadline) {
            Ok(socket) => break socket,
            Err(TransferError::Io { source, .. })
                if source.kind() != io::ErrorKind::InvalidInput =>
            {
                source
            }
            Err(other) => return Err(other),
        };
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
    let mut link = open(socket, address, name, options, deadline, |_| {})?;
    let (peer, token) = (link.wire().peer(), link.wire().streams.token(true));
    while link.wire().streams.missing() > 0 {
        let left = deadline.remaining().unwrap_or_default();
        let socket = dial(&peer, options, left.max(LEAST_ATTEMPT))
            .map_err(|error| at(address, "connect once more", error))?;
        let join = |wire: &mut TcpWire| wire.streams.join(token);
        let other = open(socket, address, &token.name(), options, deadline, join)?;
        link.wire_mut().streams.add(other.into_wire());
    }
    Ok(link)
}

/// Opens a link over a connection, which `prepare` may change first.
fn open(
    socket: TcpStream,
    address: &str,
    name: &str,
    options: &Options,
    deadline: Deadline,
    prepare: impl FnOnce(&mut TcpWire),
) -> Result<Link, TransferError> {
    let tls = options.tls.as_ref();
    let tunnel = tls.map(|tls| tls.connecting(host(address))).transpose()?;
    let wire = TcpWire::new(socket, options, tunnel);
    let mut wire = wire.map_err(|error| at(address, "connect", error))?;
    prepare(&mut wire);
    wire.secure(deadline)?;
    if let Some(secret) = &options.secret {
        let checked = check_accepting(&mut wire, secret, deadline);
        // Only now it may say that it does not accept this side's certificate.
        checked.map_err(|error| wire.why(error))?;
    }
    let mut opening = Opening::connect(wire, name, options.limit)?;
    let link = opening.open(deadline);
    let link = link.map_err(|error| match opening.wire() {
        Some(wire) => wire.why(error),
        None => error,
    });
    match link {
        // What a listener with a secret says first is no frame, and neither is what one with TLS says.
        Err(TransferError::Protocol(FrameError::NotAFrame) | TransferError::Truncated { .. })
            if options.secret.is_none() => {
            Err(TransferError::Refused(format!(
                "{address} asks for a secret or for TLS, or is something else than a Roadrunner listener; set its secret"
            )))
        }
        link => link,
    }
}

/// The name or number in `host:port`.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let number = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    number.unwrap_or(host)
}

/// One attempt at each address of the name.
fn try_connect(
    address: &str,
    options: &Options,
    deadline: Deadline,
) -> Result<TcpStream, TransferError> {
    let addresses = resolve(address, deadline)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (tried, target) in addresses.iter().enumerate() {
        check_invited(target, options)?;
        let left = deadline.remaining().unwrap_or_default();
        // A silent address leaves time for those after it.
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match dial(target, options, share.max(LEAST_ATTEMPT)) {
            Ok(socket) if is_itself(&socket) => last = io::ErrorKind::ConnectionRefused.into(),
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(at(address, "connect", last))
}

/// Whether both ends are this one socket: what a connection to a port of the range that the system takes its own ports
/// from can come to while nobody listens there (simultaneous open, RFC 9293 section 3.5).
fn is_itself(socket: &TcpStream) -> bool {
    matches!((socket.local_addr(), socket.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

/// The addresses of `host:port`. The system's resolver knows no deadline: it is left behind when the deadline passes.
pub(crate) fn resolve(address: &str, deadline: Deadline) -> Result<Vec<SocketAddr>, TransferError> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let (answer, answered) = mpsc::channel();
    let name = address.to_owned();
    thread::Builder::new()
        .name("roadrunner-resolve".to_owned())
        .spawn(move || {
            let addresses = name.to_socket_addrs().map(Iterator::collect);
            // Nobody listens any more: the deadline has passed.
            let _ = answer.send(addresses);
        })
        .map_err(|error| at(address, "resolve", error))?;
    let left = deadline.remaining().unwrap_or(LEAST_ATTEMPT);
    match answered.recv_timeout(left) {
        Ok(addresses) => addresses.map_err(|error| at(address, "resolve", error)),
        Err(_) => Err(at(address, "resolve", io::ErrorKind::TimedOut.into())),
    }
}

/// Without a secret nothing leaves the host.
pub(crate) fn check_invited(address: &SocketAddr, options: &Options) -> Result<(), TransferError> {
    if options.secret.is_some() || is_loopback(address.ip()) {
        return Ok(());
    }
    Err(TransferError::Refused(format!(
        "{address} is not a loopback address, and there is no secret that keeps strangers out; give both sides the same \
         secret (Options::secret), or use 127.0.0.1 or [::1]"
    )))
}

/// An error about an address, which is named in it.
pub(crate) fn at(address: &str, doing: &'static str, error: io::Error) -> TransferError {
    TransferError::Io {
        doing,
        source: io::Error::new(error.kind(), format!("{address}: {error}")),
    }
}
