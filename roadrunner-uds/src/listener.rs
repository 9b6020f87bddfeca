//! The side that waits to be connected to.

use crate::address::Address;
use crate::bind::{bind_and_listen, bind_file, SocketFile};
use crate::link::{at, Link};
use crate::options::Options;
use crate::socket::wait;
use crate::wire::{Peer, UnixWire};
use nix::poll::{PollFd, PollFlags};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timer::TimerSetTimeFlags;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags};
use roadrunner_core::stream::Opening;
use roadrunner_core::{Deadline, TransferError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// Peers that have connected and not said hello yet.
const MOST_WAITING: usize = 64;
/// What epoll(7) says of the listening socket, and of the timer; peers have other numbers.
const SOCKET: u64 = 0;
const TIMER: u64 = 1;

/// A listening UNIX socket. Dropping it removes its socket file.
///
/// Its descriptor ([`AsFd`]) becomes readable when [`try_accept`](Self::try_accept) has something to do.
#[derive(Debug)]
pub struct Listener {
    // Removed before the socket closes: nobody may take a file for stale and replace it while it is being removed.
    _file: Option<SocketFile>,
    socket: UnixListener,
    address: Address,
    options: Options,
    /// The oldest first.
    waiting: Vec<Waiting>,
    next: u64,
    /// Watches the socket, all who wait, and the timer.
    epoll: Epoll,
    /// Rings when the first of those who wait has waited long enough.
    timer: TimerFd,
}

/// A peer that has connected and not said hello yet.
#[derive(Debug)]
struct Waiting {
    number: u64,
    opening: Opening<UnixWire>,
    peer: Peer,
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
        let watch = || -> io::Result<(UnixListener, Epoll, TimerFd)> {
            let socket = UnixListener::from(socket);
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, SOCKET))?;
            epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
            Ok((socket, epoll, timer))
        };
        let (socket, epoll, timer) = watch().map_err(|error| at(&address, "listen", error))?;
        Ok(Self {
            _file: file,
            socket,
            address,
            options,
            waiting: Vec::new(),
            next: TIMER + 1,
            epoll,
            timer,
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
        loop {
            let mut events = [EpollEvent::empty(); 16];
            let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return Ok(None),
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(at(&self.address, "wait", errno.into())),
            };
            // What is not dealt with is told again.
            for event in &events[..count] {
                let link = match event.data() {
                    SOCKET => self.take_in()?,
                    TIMER => self.drop_silent().map(|()| None)?,
                    number => {
                        let peer = self.waiting.iter().position(|one| one.number == number);
                        peer.map_or(Ok(None), |index| self.listen_to(index))?
                    }
                };
                if link.is_some() {
                    return Ok(link);
                }
            }
        }
    }

    /// Hears whether the hello of one who waits is there by now.
    fn listen_to(&mut self, index: usize) -> Result<Option<Link>, TransferError> {
        match self.waiting[index].opening.open(Deadline::now()) {
            Err(TransferError::Timeout) => Ok(None),
            Ok(link) => {
                // It was added when it came; if it cannot be taken out, it tells of a number that nobody has.
                let _ = self.epoll.delete(&link);
                self.forget(index)?;
                Ok(Some(Link::of(link)))
            }
            Err(error) => {
                self.forget(index)?;
                match error {
                    // It only looked whether somebody is here, and left.
                    TransferError::PeerClosed => Ok(None),
                    error => Err(error),
                }
            }
        }
    }

    /// Accepts the next connection. Whoever says hello at once does not wait.
    fn take_in(&mut self) -> Result<Option<Link>, TransferError> {
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
                return Ok(None)
            }
            Err(error) => return Err(at(&self.address, "accept", error)),
        };
        let wire = UnixWire::new(stream, &self.options)?;
        let (number, peer) = (self.next, wire.peer());
        self.next += 1;
        self.epoll
            .add(&wire, EpollEvent::new(EpollFlags::EPOLLIN, number))
            .map_err(|errno| at(&self.address, "accept", errno.into()))?;
        self.waiting.push(Waiting {
            number,
            opening: Opening::accept(wire, self.options.limit_bytes()),
            peer,
            until: Deadline::after(self.options.handshake_timeout()),
        });
        if self.waiting.len() == 1 {
            self.set_timer()?;
        }
        let link = self.listen_to(self.waiting.len() - 1)?;
        if self.waiting.len() > MOST_WAITING {
            let index = self.whose_turn_to_go();
            let peer = self.waiting[index].peer;
            self.forget(index)?;
            return Err(TransferError::Refused(format!(
                "{peer} connected to {} and said nothing while {MOST_WAITING} others waited",
                self.address
            )));
        }
        Ok(link)
    }

    /// The oldest of the process that has most places.
    fn whose_turn_to_go(&self) -> usize {
        let places = |peer: Peer| self.waiting.iter().filter(|one| one.peer == peer).count();
        let most = self.waiting.iter().map(|one| places(one.peer)).max();
        let whose = |one: &Waiting| Some(places(one.peer)) == most;
        self.waiting.iter().position(whose).unwrap_or(0)
    }

    /// Removes one who waits; closing its socket takes it out of epoll(7) too.
    fn forget(&mut self, index: usize) -> Result<(), TransferError> {
        drop(self.waiting.remove(index));
        if index == 0 {
            self.set_timer()?;
        }
        Ok(())
    }

    /// Lets the timer ring when the time of the oldest is over.
    fn set_timer(&mut self) -> Result<(), TransferError> {
        const AT_ONCE: Duration = Duration::from_nanos(1);
        let set = match self.waiting.first() {
            Some(oldest) => {
                let left = oldest.until.remaining().unwrap_or(AT_ONCE);
                let once = Expiration::OneShot(TimeSpec::from_duration(left));
                self.timer.set(once, TimerSetTimeFlags::empty())
            }
            None => self.timer.unset(),
        };
        set.map_err(|errno| at(&self.address, "set a timer", errno.into()))
    }

    /// Turns away the oldest if its time is over, and sets the timer for the next one.
    fn drop_silent(&mut self) -> Result<(), TransferError> {
        match self.waiting.first() {
            Some(oldest) if oldest.until.has_passed() => {
                let peer = oldest.peer;
                self.forget(0)?;
                Err(TransferError::Refused(format!(
                    "{peer} connected to {} and did not say what it wants within {:?}",
                    self.address,
                    self.options.handshake_timeout()
                )))
            }
            _ => self.set_timer(),
        }
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
        self.epoll.0.as_fd()
    }
}
