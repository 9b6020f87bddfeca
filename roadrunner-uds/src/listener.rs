//! The side that waits to be connected to.

use crate::address::Address;
use crate::bind::{bind_and_listen, bind_file, SocketFile};
use crate::link::{at, Link};
use crate::options::Options;
use crate::socket::{hang_up, wait};
use crate::wire::{Peer, UnixWire};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{shutdown, Shutdown};
use roadrunner_core::stream::Opening;
use roadrunner_core::{Deadline, TransferError};
use roadrunner_mem::{Accept, Caller, Lobby};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::{fmt, io};

/// Peers that have connected and not said hello yet.
const MOST_WAITING: usize = 64;

/// A listening UNIX socket. Dropping it removes its socket file.
///
/// Its descriptor ([`AsFd`]) becomes readable when [`try_accept`](Self::try_accept) has something to do.
#[derive(Debug)]
pub struct Listener {
    // Removed before the socket closes: nobody may take a file for stale and replace it while it is being removed.
    _file: Option<SocketFile>,
    door: Door,
    address: Address,
    options: Options,
    lobby: Lobby<Greeting>,
}

/// The socket that peers connect to.
#[derive(Debug)]
struct Door(UnixListener);

/// A peer that has connected and not said hello yet.
#[derive(Debug)]
struct Greeting {
    opening: Opening<UnixWire>,
    peer: Peer,
}

impl Caller for Greeting {
    type Owner = Peer;
    type Link = Link;

    fn owner(&self) -> Peer {
        self.peer
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.opening.wire().map(AsFd::as_fd)
    }

    fn wants_to_write(&self) -> bool {
        self.opening.wants().write
    }

    fn try_enter(&mut self) -> Result<Link, TransferError> {
        self.opening.open(Deadline::now()).map(Link::of)
    }
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)
    }
}

impl Listener {
    /// Listens at `address`.
    ///
    /// A socket file gets the permissions 0600; its directory, which must exist, decides who can reach it at all. A
    /// file that a process left behind when it died is replaced. The directory is locked (flock(2)) meanwhile, so that
    /// two listeners that start together do not replace each other.
    ///
    /// # Errors
    /// [`Io`](TransferError::Io) that names the address: of the kind [`AddrInUse`](io::ErrorKind::AddrInUse) if a
    /// process listens there, [`AlreadyExists`](io::ErrorKind::AlreadyExists) if a file that is no socket is there.
    pub fn bind(address: Address, options: Options) -> Result<Self, TransferError> {
        let bound = match address.path() {
            Some(path) => bind_file(path, &address).map(|(socket, file)| (socket, Some(file))),
            None => bind_and_listen(&address).map(|socket| (socket, None)),
        };
        let (socket, file) = bound.map_err(|error| {
            let error = match error.kind() {
                io::ErrorKind::AddrInUse => io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process listens there; stop it or choose another address",
                ),
                _ => error,
            };
            at(&address, "listen", error)
        })?;
        let door = Door(UnixListener::from(socket));
        let lobby = Lobby::new(&door.0, MOST_WAITING, options.handshake_timeout())?;
        Ok(Self {
            _file: file,
            door,
            address,
            options,
            lobby,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for a peer and opens a link with it. The link's name is what the peer calls it.
    ///
    /// A peer has [`Options::handshake`] to say hello; one that says nothing, or half of it, does not keep others from
    /// being accepted: of 64 that wait one is turned away for the next, the oldest of the process that has most of them.
    /// One that leaves without a word is no error. An error that a peer causes is that peer's alone: the listener goes
    /// on.
    ///
    /// # Errors
    /// [`Timeout`](TransferError::Timeout) if nobody came by the deadline. For one peer that came:
    /// [`Refused`](TransferError::Refused) if it runs as a user who is not allowed or does not say hello in its time, or
    /// what [`Link::accept`] returned.
    pub fn accept(&mut self, deadline: Deadline) -> Result<Link, TransferError> {
        loop {
            if let Some(link) = self.try_accept()? {
                return Ok(link);
            }
            if deadline.has_passed() {
                return Err(TransferError::Timeout);
            }
            let mut events = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            wait(&mut events, deadline).map_err(|error| at(&self.address, "wait", error))?;
        }
    }

    /// Opens a link with a peer that has said hello, as [`accept`](Self::accept) does; `None` if there is none now. When
    /// the descriptor is readable again there may be one.
    ///
    /// # Errors
    /// As [`accept`](Self::accept), and never [`Timeout`](TransferError::Timeout).
    pub fn try_accept(&mut self) -> Result<Option<Link>, TransferError> {
        let Self {
            door,
            address,
            options,
            lobby,
            ..
        } = self;
        let link = lobby.try_next(|| take_in(&door.0, address, options))?;
        // The lobby waits for it no more.
        Ok(link.inspect(Link::unwatch))
    }
}

impl Drop for Door {
    /// Nobody comes any more, and those who have come and nobody has let in leave as the others do.
    fn drop(&mut self) {
        if shutdown(self.0.as_raw_fd(), Shutdown::Read).is_err() {
            return;
        }
        loop {
            match self.0.accept() {
                Ok((stream, _)) => hang_up(stream.as_fd()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// Accepts the next connection.
fn take_in(
    socket: &UnixListener,
    address: &Address,
    options: &Options,
) -> Result<Option<Greeting>, TransferError> {
    let stream = match socket.accept() {
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
            return Ok(None)
        }
        Err(error) => return Err(at(address, "accept", error)),
    };
    let wire = UnixWire::new(stream, options)?;
    let peer = wire.peer();
    Ok(Some(Greeting {
        opening: Opening::accept(wire, options.limit_bytes()),
        peer,
    }))
}

impl Accept for Listener {
    type Link = Link;

    fn try_accept(&mut self) -> Result<Option<Link>, TransferError> {
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
