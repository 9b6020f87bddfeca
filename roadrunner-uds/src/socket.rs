//! A connected socket: what reads, writes, waits, and passes descriptors.

use crate::sys::{self, Passed};
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::time::TimeSpec;
use roadrunner_core::frame::FrameError;
use roadrunner_core::stream::Wire;
use roadrunner_core::{Deadline, Span};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

#[derive(Debug)]
pub(crate) struct Socket {
    stream: UnixStream,
    /// A descriptor that came, until somebody asks for it.
    passed: Option<OwnedFd>,
}

impl Socket {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            passed: None,
        }
    }

    /// The descriptor that came with the bytes that were read last, if one did.
    pub(crate) fn take_passed(&mut self) -> Option<OwnedFd> {
        self.passed.take()
    }

    /// Writes at least one byte; `descriptor` goes with the first one.
    pub(crate) fn write_passing(
        &mut self,
        bytes: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> io::Result<usize> {
        self.patiently(PollFlags::POLLOUT, deadline, |socket| {
            sys::send(socket, bytes, Span::empty(), descriptor)
        })
    }

    /// Keeps what was passed, as long as nobody has to keep more than one descriptor for a peer.
    fn keep(&mut self, passed: Passed) -> io::Result<()> {
        for descriptor in passed.descriptors {
            if self.passed.replace(descriptor).is_some() {
                return Err(broken("more descriptors than a segment has"));
            }
        }
        if passed.cut {
            return Err(broken("many more descriptors than a segment has"));
        }
        Ok(())
    }

    /// Repeats `operation` until it does something other than wait, or the deadline passes.
    fn patiently(
        &self,
        events: PollFlags,
        deadline: Deadline,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match operation(self.stream.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if deadline.has_passed() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    wait(&mut [PollFd::new(self.stream.as_fd(), events)], deadline)?;
                }
                done => return done,
            }
        }
    }
}

/// What a peer did that the protocol does not know.
fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, FrameError::Unexpected(what))
}

/// Waits for one of the events, the deadline or a signal, whichever is first.
pub(crate) fn wait(events: &mut [PollFd<'_>], deadline: Deadline) -> io::Result<()> {
    let timeout = deadline.remaining().unwrap_or_default();
    match ppoll(events, Some(TimeSpec::from_duration(timeout)), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Wire for Socket {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        let mut passed = Passed::default();
        let count = self.patiently(PollFlags::POLLIN, deadline, |socket| {
            sys::recv(socket, into, &mut passed)
        })?;
        self.keep(passed)?;
        Ok(count)
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.patiently(PollFlags::POLLOUT, deadline, |socket| {
            sys::send(socket, head, body, None)
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
