//! The side that waits to be connected to.

use crate::congestion;
use crate::incomplete::{Awaited, Incomplete};
use crate::link::{at, check_invited, resolve, Link};
use crate::options::Options;
use crate::places::{origin, Places};
use crate::secret::{refused, Challenge, Secret, CLAIM_LEN, GONE, WRONG};
use crate::socket::wait;
use crate::tls::{Acceptor, Tls};
use crate::wire::TcpWire;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use roadrunner_core::stream::{read_all, write_all, Opening};
use roadrunner_core::{Deadline, Span, TransferError};
use roadrunner_mem::{Accept, Caller, Lobby};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;
use std::{fmt, io};

/// Peers that have connected and have yet to prove themselves; more wait in the kernel's queue.
const MOST_WAITING: usize = 64;
/// How long the name of the address to listen at may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A listening TCP socket.
///
/// Its descriptor ([`AsFd`]) becomes readable when [`try_accept`](Self::try_accept) has something to do.
#[derive(Debug)]
pub struct Listener {
    pub(crate) socket: TcpListener,
    address: SocketAddr,
    options: Options,
    /// Encrypts, if anything does.
    tls: Option<Acceptor>,
    places: Places,
    lobby: Lobby<Stranger>,
    /// Links of which some connections have yet to come.
    incomplete: Incomplete,
}

/// A peer that has connected, and has yet to prove itself if there is a secret, and to say hello.
#[derive(Debug)]
struct Stranger {
    peer: SocketAddr,
    stage: Stage,
    secret: Option<Secret>,
    limit: u64,
}

/// How far it has got.
#[derive(Debug)]
enum Stage {
    /// Hands are being shaken, if the connection is to be encrypted.
    Connected(TcpWire),
    Proving(Proof),
    Opening(Opening<TcpWire>),
    /// It is in, or it was turned away.
    Over,
}

impl Stage {
    fn wire(&self) -> Option<&TcpWire> {
        match self {
            Self::Connected(wire) => Some(wire),
            Self::Proving(proof) => Some(&proof.wire),
            Self::Opening(opening) => opening.wire(),
            Self::Over => None,
        }
    }
}

/// What a peer has said by now to prove that it knows the secret.
#[derive(Debug)]
struct Proof {
    wire: TcpWire,
    secret: Secret,
    challenge: Challenge,
    claim: [u8; CLAIM_LEN],
    got: u64,
    /// What this side has to say: that its is awaited, and, once it is right, our own. And how much of that is sent.
    words: Vec<u8>,
    sent: u64,
    is_right: bool,
}

impl Proof {
    fn new(wire: TcpWire, secret: Secret) -> Result<Self, TransferError> {
        let challenge = Challenge::new(&wire)?;
        Ok(Self {
            wire,
            secret,
            words: challenge.greeting().to_vec(),
            challenge,
            claim: [0; CLAIM_LEN],
            got: 0,
            sent: 0,
            is_right: false,
        })
    }

    fn is_all_said(&self) -> bool {
        self.sent >= self.words.len() as u64
    }

    /// Goes on as far as that is possible without waiting.
    fn try_prove(&mut self) -> Result<(), TransferError> {
        self.say()?;
        if self.is_right {
            return Ok(());
        }
        let claim = Span::from_slice(&mut self.claim);
        let read = read_all(&mut self.wire, claim, 0, &mut self.got, Deadline::now());
        // Less than the length of a claim.
        let start = &self.claim[..self.got as usize];
        let refused = |why| refused(&self.wire, why);
        self.challenge.check_start(start).map_err(refused)?;
        read.map_err(|error| match error {
            TransferError::Truncated { .. } => refused(GONE),
            other => other,
        })?;
        let answer = self.challenge.answer(&self.secret, &self.claim)?;
        self.words = answer.ok_or_else(|| refused(WRONG))?.to_vec();
        self.sent = 0;
        self.is_right = true;
        self.say()
    }

    fn say(&mut self) -> Result<(), TransferError> {
        let (words, nothing) = (&self.words, Span::empty());
        write_all(
            &mut self.wire,
            words,
            nothing,
            &mut self.sent,
            Deadline::now(),
        )
    }
}

impl Caller for Stranger {
    type Owner = IpAddr;
    type Link = Link;

    fn owner(&self) -> IpAddr {
        origin(self.peer.ip())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.stage.wire().map(AsFd::as_fd)
    }

    /// By TLS this side may say more than there is room for; without it, it says too little for that, unless the system is
    /// out of memory for sockets.
    fn wants_to_write(&self) -> bool {
        let has_more_to_say = match &self.stage {
            Stage::Connected(_) | Stage::Over => false,
            Stage::Proving(proof) => !proof.is_all_said(),
            Stage::Opening(opening) => opening.wants().write,
        };
        has_more_to_say || self.stage.wire().is_some_and(TcpWire::wants_to_write)
    }

    fn try_enter(&mut self) -> Result<Link, TransferError> {
        loop {
            let done = match &mut self.stage {
                Stage::Connected(wire) => wire.secure(Deadline::now()),
                Stage::Proving(proof) => proof.try_prove(),
                Stage::Opening(opening) => return opening.open(Deadline::now()),
                Stage::Over => Err(TransferError::Broken),
            };
            done?;
            self.stage = match (
                std::mem::replace(&mut self.stage, Stage::Over),
                &self.secret,
            ) {
                (Stage::Connected(wire), Some(secret)) => {
                    Stage::Proving(Proof::new(wire, secret.clone())?)
                }
                (Stage::Connected(wire) | Stage::Proving(Proof { wire, .. }), _) => {
                    Stage::Opening(Opening::accept(wire, self.limit))
                }
                (other, _) => other,
            };
        }
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)
    }
}

impl Listener {
    /// Listens at `address`: `host:port` or `[::1]:port`; with port 0 the system chooses one, or the first of
    /// [`Options::ports`] that is free is taken.
    ///
    /// # Errors
    /// [`Refused`](TransferError::Refused) if there is no secret and the address is not loopback;
    /// [`Io`](TransferError::Io) that names the address, for example of the kind
    /// [`AddrInUse`](io::ErrorKind::AddrInUse), also if none of the ports is free.
    pub fn bind(address: &str, options: Options) -> Result<Self, TransferError> {
        let addresses = resolve(address, Deadline::after(RESOLVE_TIMEOUT))?;
        for target in &addresses {
            check_invited(target, &options)?;
        }
        let tls = options.tls.as_deref().map(Tls::acceptor).transpose()?;
        let listen = || -> io::Result<(TcpListener, SocketAddr)> {
            let socket = bind(&addresses, options.ports.clone())?;
            socket.set_nonblocking(true)?;
            if let Some(bytes) = options.buffer {
                // Accepted sockets inherit them, in time for the window that is offered first.
                setsockopt(&socket, sockopt::SndBuf, &bytes)?;
                setsockopt(&socket, sockopt::RcvBuf, &bytes)?;
            }
            let local = socket.local_addr()?;
            congestion::choose(&socket, local.ip(), &options);
            Ok((socket, local))
        };
        let (socket, local) = listen().map_err(|error| at(address, "listen", error))?;
        let lobby = Lobby::new(&socket, MOST_WAITING, options.handshake)?;
        let incomplete = Incomplete::new(options.handshake);
        Ok(Self {
            socket,
            address: local,
            options,
            tls,
            places: Places::default(),
            lobby,
            incomplete,
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a peer, lets it prove that it knows the secret if there is one, and opens a link with it. The link's
    /// name is what the peer calls it.
    ///
    /// A peer has [`Options::handshake`] for that; one that says nothing, or only half of what it should, does not keep
    /// others from being accepted: of 64 that wait one is turned away for the next, the oldest of the address that most
    /// of them come from. One that leaves without a word is no error. An error that a peer causes is that peer's alone: the
    /// listener goes on.
    ///
    /// # Errors
    /// [`Timeout`](TransferError::Timeout) if nobody came by the deadline. For one peer that came:
    /// [`Refused`](TransferError::Refused) if it does not know the secret, takes too long, or comes when there are as many
    /// connections as [`Options::connections`] allows; or what [`Link::accept`] returned.
    pub fn accept(&mut self, deadline: Deadline) -> Result<Link, TransferError> {
        loop {
            if let Some(link) = self.try_accept()? {
                return Ok(link);
            }
            if deadline.has_passed() {
                return Err(TransferError::Timeout);
            }
            let mut events = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            let patience = self.until().unwrap_or(deadline);
            wait(&mut events, deadline.min(patience))
                .map_err(|error| at(&self.address.to_string(), "wait", error))?;
        }
    }

    /// Opens a link with a peer that has proved itself and said hello, as [`accept`](Self::accept) does; `None` if there
    /// is none now. When the descriptor is readable again there may be one.
    ///
    /// # Errors
    /// As [`accept`](Self::accept), and never [`Timeout`](TransferError::Timeout).
    pub fn try_accept(&mut self) -> Result<Option<Link>, TransferError> {
        self.incomplete.drop_late();
        for _ in 0..MOST_WAITING {
            let Some(link) = self.next()? else {
                break;
            };
            let streams = &link.wire().streams;
            let complete = match streams.joins() {
                Some(token) => self.incomplete.join(token, link)?,
                None if streams.missing() == 0 => Some(link),
                None => {
                    self.incomplete.add(link);
                    None
                }
            };
            if complete.is_some() {
                return Ok(complete);
            }
        }
        Ok(None)
    }

    /// When [`try_accept`](Self::try_accept) has something to do although nothing has come.
    pub(crate) fn until(&self) -> Option<Deadline> {
        self.incomplete.until()
    }

    /// The next connection on which hellos have been said.
    fn next(&mut self) -> Result<Option<Link>, TransferError> {
        let Self {
            socket,
            address,
            options,
            tls,
            places,
            lobby,
            incomplete,
        } = self;
        let awaited = incomplete.awaited();
        lobby.try_next(|| {
            take_in(socket, options, tls.as_ref(), places, awaited).map_err(|error| match error {
                TransferError::Io { source, .. } => at(&address.to_string(), "accept", source),
                other => other,
            })
        })
    }
}

/// Binds the first of the addresses that can be bound, at the first of the ports that is free if it leaves the port open.
fn bind(addresses: &[SocketAddr], ports: Option<RangeInclusive<u16>>) -> io::Result<TcpListener> {
    let Some(ports) = ports else {
        return TcpListener::bind(addresses);
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let bound = if address.port() == 0 {
            bind_one_of(*address, &ports)
        } else {
            TcpListener::bind(address)
        };
        match bound {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_one_of(address: SocketAddr, ports: &RangeInclusive<u16>) -> io::Result<TcpListener> {
    for port in ports.clone() {
        match TcpListener::bind((address.ip(), port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("port {port}: {error}"),
                ))
            }
            bound => return bound,
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!(
            "no port from {} to {} is free; allow more of them, or end what uses them",
            ports.start(),
            ports.end()
        ),
    ))
}

/// Accepts the next connection.
fn take_in(
    socket: &TcpListener,
    options: &Options,
    tls: Option<&Acceptor>,
    places: &Places,
    awaited: &Awaited,
) -> Result<Option<Stranger>, TransferError> {
    let failed = |source| TransferError::Io {
        doing: "accept",
        source,
    };
    let (stream, peer) = match socket.accept() {
        Ok(accepted) => accepted,
        // Gone again, or taken by another process that shares the socket.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::Interrupted
            ) =>
        {
            return Ok(None)
        }
        Err(error) => return Err(failed(error)),
    };
    let place = places
        .take(peer.ip(), options.connections, options.connections_each)
        .map_err(|why| TransferError::Refused(format!("{peer} connected, but {why}")))?;
    let tunnel = tls.map(Acceptor::accepting).transpose()?;
    let mut wire = match TcpWire::new(stream, options, tunnel) {
        Ok(wire) => wire,
        Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    wire.keep(place);
    wire.streams.joined_by(awaited.clone());
    Ok(Some(Stranger {
        peer,
        stage: Stage::Connected(wire),
        secret: options.secret.clone(),
        limit: options.limit,
    }))
}

impl Accept for Listener {
    type Link = Link;

    /// One connection each: who waits for a link's descriptor would not hear of the others.
    fn try_accept(&mut self) -> Result<Option<Link>, TransferError> {
        self.options.streams = 1;
        self.try_accept()
    }
}

/// For event loops that ask for it, such as tokio's `AsyncFd`.
impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lobby.as_fd()
    }
}
