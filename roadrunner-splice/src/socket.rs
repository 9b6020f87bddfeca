//! The connection beneath a wire: what reads, writes and waits.

use crate::sys;
use crate::tls::Tunnel;
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::time::TimeSpec;
use roadrunner_core::stream::Wire;
use roadrunner_core::{Deadline, Span};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A connection, encrypted or not.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    /// What everything goes through, if it is encrypted.
    tunnel: Option<Box<Tunnel>>,
    /// Reads may wait in `recv(2)`.
    waits: bool,
}

/// How long a read waits in `recv(2)` before it looks at the clock.
const NAP: Duration = Duration::from_millis(100);

/// The most bytes of a payload that one call writes. The kernel goes on within a call for as long as the receiver makes room,
/// tens of megabytes, and 100 MB over loopback took 19 to 21 ms so, 15 to 19 in pieces (four runs, in turns).
const PIECE: usize = 1 << 20;

impl Socket {
    pub(crate) fn new(stream: TcpStream, tunnel: Option<Tunnel>) -> Self {
        Self {
            stream,
            tunnel: tunnel.map(Box::new),
            waits: false,
        }
    }

    /// Lets reads wait in `recv(2)`, where the wait for something to come costs less than in `poll(2)`: of a round trip
    /// of 64 bytes that one took a fifth. The connection blocks from now on, unless a call says that it is not to wait.
    pub(crate) fn let_reads_wait(&mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(NAP))?;
        self.stream.set_nonblocking(false)?;
        self.waits = true;
        Ok(())
    }

    /// What encrypts, if anything does.
    pub(crate) fn tunnel(&self) -> Option<&Tunnel> {
        self.tunnel.as_deref()
    }

    /// Opens the tunnel, if there is one, as far as the deadline allows.
    pub(crate) fn open(&mut self, deadline: Deadline) -> io::Result<()> {
        match &mut self.tunnel {
            Some(tunnel) => tunnel.open(&self.stream, deadline),
            None => Ok(()),
        }
    }

    /// How often the processor moves a payload that is written.
    pub(crate) fn copies_out(&self) -> u8 {
        // Into the socket's buffer.
        self.tunnel.as_ref().map_or(1, |_| Tunnel::COPIES_OUT)
    }

    /// How often it moves one that is read.
    pub(crate) fn copies_in(&self) -> u8 {
        // Out of the socket's buffer.
        self.tunnel.as_ref().map_or(1, |_| Tunnel::COPIES_IN)
    }

    /// Writes at least one byte of the three.
    pub(crate) fn write_parts(
        &mut self,
        head: &[u8],
        body: Span<'_>,
        tail: &[u8],
        deadline: Deadline,
    ) -> io::Result<usize> {
        match &mut self.tunnel {
            Some(tunnel) => tunnel.write(&self.stream, head, body, tail, deadline),
            None => patiently(&self.stream, PollFlags::POLLOUT, deadline, |socket| {
                let piece = body.split_at(PIECE).0;
                let tail = if piece.len() < body.len() { &[] } else { tail };
                sys::send(socket, head, piece, tail, false)
            }),
        }
    }
}

impl Wire for Socket {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        match &mut self.tunnel {
            Some(tunnel) => tunnel.read(&self.stream, into, deadline),
            None => patiently(&self.stream, PollFlags::POLLIN, deadline, |socket| {
                let waits = self.waits && deadline.remaining().is_some_and(|left| left > NAP);
                sys::recv(socket, into, waits)
            }),
        }
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.write_parts(head, body, &[], deadline)
    }

    fn holds(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.holds())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.close(&self.stream);
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Repeats `operation` until it does something other than wait, or the deadline passes.
pub(crate) fn patiently<T>(
    socket: &TcpStream,
    events: PollFlags,
    deadline: Deadline,
    mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match operation(socket.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if deadline.has_passed() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                wait(&mut [PollFd::new(socket.as_fd(), events)], deadline)?;
            }
            // Not our deadline: the system has given the peer up (`TCP_USER_TIMEOUT`, keep-alive; tcp(7)).
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(io::ErrorKind::ConnectionAborted.into())
            }
            done => return done,
        }
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

/// What a descriptor is ready for after such a wait.
pub(crate) fn revents(polled: &PollFd<'_>) -> PollFlags {
    polled.revents().unwrap_or(PollFlags::empty())
}
