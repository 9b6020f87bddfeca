//! A [`Wire`] over a connected UNIX stream socket.

use crate::options::Options;
use crate::sys;
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use roadrunner_core::stream::{write_frame, Carried, Start, Wire};
use roadrunner_core::{Deadline, Payload, Span, TransferError};
use roadrunner_mem::Pump;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::{fmt, io};

/// The process at the other end, as the kernel knows it (`SO_PEERCRED`, unix(7)): the one that called `connect` or
/// `listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pid: u32,
    uid: u32,
}

impl Peer {
    fn of(socket: &UnixStream) -> io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        Ok(Self {
            pid: u32::try_from(credentials.pid()).unwrap_or(0),
            uid: credentials.uid(),
        })
    }

    /// Its process id, 0 if it is not visible from here (another pid namespace).
    #[must_use]
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// Its effective user id.
    #[must_use]
    pub fn uid(self) -> u32 {
        self.uid
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of uid {}", self.pid, self.uid)
    }
}

/// A connected UNIX stream socket whose peer may be there. Payloads go straight from and into linear memory.
///
/// It belongs to one function: pages of a payload that was given away and spliced come back, with what was in them, in
/// exchange for those of a later payload from the same memory.
#[derive(Debug)]
pub struct UnixWire {
    socket: Socket,
    peer: Peer,
    /// Splices what it can, if that is asked for.
    pump: Option<Pump>,
}

impl UnixWire {
    /// Takes over a connected socket, for example one of a pair that was passed to a child. The peer's uid is checked
    /// before a byte is read; the socket becomes non-blocking.
    ///
    /// [`Link::connect`](crate::Link::connect) or [`Link::accept`](crate::Link::accept) makes a link of it.
    ///
    /// # Errors
    /// [`Refused`](TransferError::Refused) if the peer runs as another user than `options` allow,
    /// [`Io`](TransferError::Io) if the socket cannot be set up.
    pub fn new(socket: UnixStream, options: &Options) -> Result<Self, TransferError> {
        let set_up = || -> io::Result<Peer> {
            socket.set_nonblocking(true)?;
            let bytes = options.buffer_bytes();
            setsockopt(&socket, sockopt::SndBuf, &bytes)?;
            setsockopt(&socket, sockopt::RcvBuf, &bytes)?;
            Peer::of(&socket)
        };
        let peer = set_up().map_err(|source| TransferError::Io {
            doing: "set up the socket",
            source,
        })?;
        let allowed = options.allowed_uid();
        if peer.uid() != allowed {
            return Err(TransferError::Refused(format!(
                "the peer is {peer}, and only uid {allowed} is allowed"
            )));
        }
        Ok(Self {
            socket: Socket(socket),
            peer,
            pump: options.pump(),
        })
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }
}

/// Waits for one of the events, the deadline or a signal, whichever is first.
pub(crate) fn wait(events: &mut [PollFd<'_>], deadline: Deadline) -> io::Result<()> {
    let timeout = deadline.remaining().unwrap_or_default();
    match ppoll(events, Some(TimeSpec::from_duration(timeout)), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Wire for UnixWire {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.socket.read(into, deadline)
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.socket.write(head, body, deadline)
    }

    fn carry(
        &mut self,
        start: Start,
        payload: &mut Payload<'_>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Carried, TransferError> {
        if let Some(pump) = &mut self.pump {
            let spliced = pump.carry(&mut self.socket, start, payload, sent, deadline)?;
            if let Some(carried) = spliced {
                return Ok(carried);
            }
        }
        write_frame(self, start, payload.span()?, sent, deadline)
    }

    fn acknowledged(&mut self, sequence: u64) {
        if let Some(pump) = &mut self.pump {
            pump.acknowledge(sequence);
        }
    }
}

/// The socket itself: what reads, writes and waits.
#[derive(Debug)]
struct Socket(UnixStream);

impl Socket {
    /// Repeats `operation` until it does something other than wait, or the deadline passes.
    fn patiently(
        &self,
        events: PollFlags,
        deadline: Deadline,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match operation(self.0.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if deadline.has_passed() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    wait(&mut [PollFd::new(self.0.as_fd(), events)], deadline)?;
                }
                done => return done,
            }
        }
    }
}

impl Wire for Socket {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.patiently(PollFlags::POLLIN, deadline, |socket| {
            sys::recv(socket, into)
        })
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.patiently(PollFlags::POLLOUT, deadline, |socket| {
            sys::send(socket, head, body)
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for UnixWire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
