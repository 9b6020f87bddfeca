//! The side that waits to be connected to.

use crate::link::{at, check_invited, resolve, Link};
use crate::options::Options;
use crate::secret::{challenge, check_connecting, Challenge, CLAIM_LEN};
use crate::wire::{wait, TcpWire};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use roadrunner_core::frame::HEADER_LEN;
use roadrunner_core::{Deadline, TransferError};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

/// Peers that have connected and have yet to prove themselves; more wait in the kernel's queue.
const MOST_WAITING: usize = 64;
/// How long the name of the address to listen at may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A listening TCP socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    options: Options,
    waiting: Vec<Waiting>,
}

/// A peer that has connected and whose first words have not come, whole.
#[derive(Debug)]
struct Waiting {
    wire: TcpWire,
    challenge: Option<Challenge>,
    until: Deadline,
}

impl Listener {
    /// Listens at `address`: `host:port` or `[::1]:port`; with port 0 the system chooses one.
    ///
    /// # Errors
    /// [`Refused`](TransferError::Refused) if there is no secret and the address is not loopback;
    /// [`Io`](TransferError::Io) that names the address, for example of the kind
    /// [`AddrInUse`](io::ErrorKind::AddrInUse).
    pub fn bind(address: &str, options: Options) -> Result<Self, TransferError> {
        let addresses = resolve(address, Deadline::after(RESOLVE_TIMEOUT))?;
        for target in &addresses {
            check_invited(target, &options)?;
        }
        let listen = || -> io::Result<(TcpListener, SocketAddr)> {
            let socket = TcpListener::bind(&addresses[..])?;
            socket.set_nonblocking(true)?;
            if let Some(bytes) = options.buffer {
                // Accepted sockets inherit them, in time for the window that is offered first.
                setsockopt(&socket, sockopt::SndBuf, &bytes)?;
                setsockopt(&socket, sockopt::RcvBuf, &bytes)?;
            }
            let local = socket.local_addr()?;
            Ok((socket, local))
        };
        let (socket, local) = listen().map_err(|error| at(address, "listen", error))?;
        Ok(Self {
            socket,
            address: local,
            options,
            waiting: Vec::new(),
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
    /// others from being accepted. One that leaves without a word is no error. An error that a peer causes is that
    /// peer's alone: the listener goes on.
    ///
    /// # Errors
    /// [`Timeout`](TransferError::Timeout) if nobody came by the deadline. For one peer that came:
    /// [`Refused`](TransferError::Refused) if it does not know the secret or takes too long, or what [`Link::accept`]
    /// returned.
    pub fn accept(&mut self, deadline: Deadline) -> Result<Link, TransferError> {
        loop {
            if let Some(peer) = self.next_ready(deadline)? {
                match self.open(peer, deadline) {
                    // It only looked whether somebody is here, and left.
                    Err(TransferError::PeerClosed) => {}
                    opened => return opened,
                }
            }
            self.drop_silent()?;
            if deadline.has_passed() {
                return Err(TransferError::Timeout);
            }
        }
    }

    fn open(&self, peer: Waiting, deadline: Deadline) -> Result<Link, TransferError> {
        let Waiting {
            mut wire,
            challenge,
            until,
        } = peer;
        let who = wire.peer();
        wire.readable_from(1).map_err(|error| self.failed(error))?;
        let earlier = until.min(deadline);
        let checked = match (&self.options.secret, challenge) {
            (Some(secret), Some(challenge)) => {
                check_connecting(&mut wire, secret, &challenge, earlier)
            }
            _ => Ok(()),
        };
        match checked.and_then(|()| Link::accept(wire, self.options.limit, earlier)) {
            Err(TransferError::Timeout) if until < deadline => Err(self.too_slow(who)),
            opened => opened,
        }
    }

    fn failed(&self, error: io::Error) -> TransferError {
        at(&self.address.to_string(), "accept", error)
    }

    /// Waits a while; takes in a peer that connected, and hands out one whose first words are there.
    fn next_ready(&mut self, deadline: Deadline) -> Result<Option<Waiting>, TransferError> {
        let mut events: Vec<_> = self
            .waiting
            .iter()
            .map(|peer| PollFd::new(peer.wire.as_fd(), PollFlags::POLLIN))
            .collect();
        if self.waiting.len() < MOST_WAITING {
            events.push(PollFd::new(self.socket.as_fd(), PollFlags::POLLIN));
        }
        let first_to_go = self.waiting.iter().map(|peer| peer.until).min();
        let until = first_to_go.map_or(deadline, |first| first.min(deadline));
        wait(&mut events, until).map_err(|error| self.failed(error))?;
        let ready = events.iter().position(|event| event.any() != Some(false));
        match ready {
            Some(index) if index < self.waiting.len() => Ok(Some(self.waiting.remove(index))),
            Some(_) => self.take_in().map(|()| None),
            None => Ok(None),
        }
    }

    fn take_in(&mut self) -> Result<(), TransferError> {
        let stream = match self.socket.accept() {
            Ok((stream, _)) => stream,
            // Gone again, or taken by another process that shares the socket.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(())
            }
            Err(error) => return Err(self.failed(error)),
        };
        let mut wire = TcpWire::new(stream, &self.options).map_err(|error| self.failed(error))?;
        let (challenge, first_words) = match self.options.secret {
            // The buffer of a new connection has room for it.
            Some(_) => (Some(challenge(&mut wire, Deadline::now())?), CLAIM_LEN),
            None => (None, HEADER_LEN as u16),
        };
        wire.readable_from(first_words)
            .map_err(|error| self.failed(error))?;
        self.waiting.push(Waiting {
            wire,
            challenge,
            until: Deadline::after(self.options.handshake),
        });
        Ok(())
    }

    fn drop_silent(&mut self) -> Result<(), TransferError> {
        let Some(index) = self.waiting.iter().position(|peer| peer.until.has_passed()) else {
            return Ok(());
        };
        let peer = self.waiting.remove(index).wire.peer();
        Err(self.too_slow(peer))
    }

    fn too_slow(&self, peer: SocketAddr) -> TransferError {
        TransferError::Refused(format!(
            "{peer} connected to {} and did not say who it is and what it wants within {:?}",
            self.address, self.options.handshake
        ))
    }
}
