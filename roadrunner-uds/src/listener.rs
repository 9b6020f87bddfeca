//! The side that waits to be connected to.

use crate::address::Address;
use crate::link::{at, Link};
use crate::options::Options;
use crate::wire::{wait, Peer, UnixWire};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{bind, connect, listen, socket, AddressFamily, Backlog, SockFlag, SockType};
use nix::sys::stat::{fchmod, Mode};
use roadrunner_core::{Deadline, TransferError};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{io, thread};

/// Peers that have connected and said nothing yet; more wait in the kernel's queue.
const MOST_WAITING: usize = 64;
/// How long another process may hold the lock on the directory of a socket file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// A listening UNIX socket. Dropping it removes its socket file.
#[derive(Debug)]
pub struct Listener {
    // Removed before the socket closes: nobody may take a file for stale and replace it while it is being removed.
    _file: Option<SocketFile>,
    socket: UnixListener,
    address: Address,
    options: Options,
    waiting: Vec<Waiting>,
}

/// A peer that has connected and whose first bytes have not come.
#[derive(Debug)]
struct Waiting {
    wire: UnixWire,
    until: Deadline,
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
        Ok(Self {
            _file: file,
            socket: UnixListener::from(socket),
            address,
            options,
            waiting: Vec::new(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for a peer and opens a link with it. The link's name is what the peer calls it.
    ///
    /// A peer has [`Options::handshake`] for its first word; one that says nothing does not keep others from being
    /// accepted. One that leaves without a word is no error. An error that a peer causes is that
    /// peer's alone: the listener goes on.
    ///
    /// # Errors
    /// [`Timeout`](TransferError::Timeout) if nobody came by the deadline. For one peer that came:
    /// [`Refused`](TransferError::Refused) if it runs as a user who is not allowed or says nothing in its time, or what
    /// [`Link::accept`] returned.
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
        let Waiting { wire, until } = peer;
        let who = wire.peer();
        match Link::accept(wire, self.options.limit_bytes(), until.min(deadline)) {
            Err(TransferError::Timeout) if until < deadline => Err(self.too_slow(who)),
            opened => opened,
        }
    }

    /// Waits a while; takes in a peer that connected, and hands out one whose first bytes are there.
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
        wait(&mut events, until).map_err(|error| at(&self.address, "wait", error))?;
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
            Err(error) => return Err(at(&self.address, "accept", error)),
        };
        self.waiting.push(Waiting {
            wire: UnixWire::new(stream, &self.options)?,
            until: Deadline::after(self.options.handshake_timeout()),
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

    fn too_slow(&self, peer: Peer) -> TransferError {
        TransferError::Refused(format!(
            "{peer} connected to {} and did not say what it wants within {:?}",
            self.address,
            self.options.handshake_timeout()
        ))
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?)
}

/// One attempt to connect, without waiting.
pub(crate) fn try_connect(address: &Address) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    connect(socket.as_raw_fd(), &address.to_unix()?)?;
    Ok(socket)
}

fn bind_and_listen(address: &Address) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    // Before bind, so that the file has these permissions from its first moment on.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &address.to_unix()?)?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(socket)
}

fn bind_file(path: &Path, address: &Address) -> io::Result<(OwnedFd, SocketFile)> {
    let _lock = lock_directory(path.parent().unwrap_or(path))?;
    let socket = match bind_and_listen(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_if_stale(path, address)?;
            bind_and_listen(address)?
        }
        bound => bound?,
    };
    let file = SocketFile::at(path)?;
    Ok((socket, file))
}

fn lock_directory(directory: &Path) -> io::Result<Flock<File>> {
    let deadline = Deadline::after(LOCK_TIMEOUT);
    let mut file = File::open(directory).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("its directory cannot be opened: {error}"),
        )
    })?;
    loop {
        let errno = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, errno)) => {
                file = unlocked;
                errno
            }
        };
        if errno != Errno::EWOULDBLOCK && errno != Errno::EINTR {
            return Err(errno.into());
        }
        if deadline.has_passed() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "another process holds a lock on its directory; choose a directory of your own",
            ));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn remove_if_stale(path: &Path, address: &Address) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is no socket is there; remove it or choose another address",
        ));
    }
    match try_connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // Connected, or its queue is full: somebody listens.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// A socket file that this process made, removed with this value unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            inode: inode(path)?,
        })
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            // A directory that has become read-only keeps the file: it is stale, and the next listener replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
