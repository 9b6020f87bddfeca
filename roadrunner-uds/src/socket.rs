//! A connected socket: what reads, writes, waits, and passes descriptors. It may have a ring beside it.

#[cfg(test)]
mod orders;
mod receiving;
mod sending;

use crate::foreign::{self, Foreign};
use crate::ring::{Ring, State};
use crate::sys::{self, Passed};
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::socket::{shutdown, Shutdown};
use nix::sys::time::TimeSpec;
use roadrunner_core::frame::FrameError;
use roadrunner_core::stream::Wire;
use roadrunner_core::{Deadline, Span};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a ring is looked at before others are let to the processor: about as long as a peer takes that runs on another.
/// One that shares this processor can go on only then.
const LOOKS: u32 = 20;

#[derive(Debug)]
pub(crate) struct Socket {
    stream: UnixStream,
    /// A descriptor that came, until somebody asks for it.
    passed: Option<Foreign>,
    /// A descriptor that goes with the next byte.
    passing: Option<OwnedFd>,
    ring: Option<Ring>,
    /// Bytes of the stream that were read and written, by whichever way.
    read: u64,
    written: u64,
    /// Which way what is written next has to go, as what it belongs to is partly there.
    way: Option<Way>,
    /// Which way frames are to go.
    route: Route,
    patience: Patience,
    /// Somebody waits for the descriptor without us.
    watched: AtomicBool,
    visited: Option<Instant>,
    /// Entries of the ring that did not fill what they were read into, one after the other.
    crumbs: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ring,
    Socket,
}

/// Which way a frame goes that nothing is out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Through the ring if it has room for all of it and the peer looks there; else through the socket.
    Quickest,
    /// Through the socket.
    Socket,
    /// Through the ring, piece by piece.
    Ring,
}

/// How long to look for something before sleeping: shorter each time that nothing came.
#[derive(Debug, Clone, Copy)]
struct Patience {
    most: Duration,
    now: Duration,
}

impl Patience {
    fn learn(&mut self, waited: Duration) {
        // Sleeping and being woken takes about as long as the spinning would have.
        self.now = if waited <= self.most * 2 {
            self.most
        } else {
            (self.now / 2).max(self.most / 16)
        };
    }
}

impl Socket {
    /// `spin` is how long a wait looks for something before it sleeps, on a link with a ring.
    pub(crate) fn new(stream: UnixStream, spin: Duration) -> Self {
        Self {
            stream,
            passed: None,
            passing: None,
            ring: None,
            read: 0,
            written: 0,
            way: None,
            route: Route::Quickest,
            patience: Patience {
                most: spin,
                now: spin,
            },
            watched: AtomicBool::new(false),
            visited: None,
            crumbs: 0,
        }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// From now on there is a ring.
    pub(crate) fn add(&mut self, ring: Ring) {
        self.ring = Some(ring);
    }

    /// Passes a descriptor with the next byte.
    pub(crate) fn pass_next(&mut self, descriptor: OwnedFd) {
        self.passing = Some(descriptor);
    }

    /// Lets frames go another way for one operation.
    pub(crate) fn routed<T>(&mut self, route: Route, operation: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.route, route);
        let done = operation(self);
        self.route = before;
        done
    }

    /// Whether a frame could go through the ring piece by piece: the peer waits for it in a way that does not need the
    /// descriptor, and this end may wait for room.
    pub(crate) fn streams(&self, deadline: Deadline) -> bool {
        let waits = |ring: &Ring| ring.peer() != State::Away;
        !self.patience.most.is_zero()
            && self.ring.as_ref().is_some_and(waits)
            && !deadline.has_passed()
    }

    /// How many bytes were written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// So many were by now, some past this socket.
    pub(crate) fn set_written(&mut self, bytes: u64) {
        self.written = bytes;
    }

    /// The descriptor that came with the bytes that were read last, if one did.
    pub(crate) fn take_passed(&mut self) -> Option<Foreign> {
        self.passed.take()
    }

    /// Whether something can be read although the descriptor may not be readable.
    pub(crate) fn has_something(&self) -> bool {
        let has_next = |ring: &Ring| ring.has_next(self.read);
        self.ring.as_ref().is_some_and(has_next)
    }

    /// Somebody is given the descriptor, who may wait for it: from now on it becomes readable for whatever comes.
    pub(crate) fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
        if let Some(ring) = &self.ring {
            ring.be(State::Away);
        }
    }

    /// Nobody does any more.
    pub(crate) fn unwatch(&self) {
        self.watched.store(false, Ordering::Relaxed);
    }

    /// What waits here looks at the ring before it does.
    fn attend(&self) {
        if let Some(ring) = &self.ring {
            if !self.watched.load(Ordering::Relaxed) {
                ring.be(State::Awake);
            }
        }
    }

    /// Writes at least one byte; `descriptor` goes with the first one.
    pub(crate) fn write_passing(
        &mut self,
        bytes: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> io::Result<usize> {
        self.put(bytes, Span::empty(), descriptor, deadline)
    }

    fn is_ready(&self, events: PollFlags) -> io::Result<PollFlags> {
        let mut poll = [PollFd::new(self.stream.as_fd(), events)];
        wait(&mut poll, Deadline::now())?;
        Ok(poll[0].revents().unwrap_or(PollFlags::empty()))
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
        let count = if self.ring.is_some() {
            self.read_either(into, deadline)?
        } else {
            let mut passed = Passed::default();
            let count = self.patiently(PollFlags::POLLIN, deadline, |socket| {
                sys::recv(socket, into, &mut passed)
            })?;
            self.keep(passed)?;
            count
        };
        self.read += count as u64;
        Ok(count)
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.put(head, body, None, deadline)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // So that the peer tries the socket, and hears that nobody is there.
        if let Some(ring) = &self.ring {
            ring.be(State::Away);
        }
        hang_up(self.stream.as_fd());
    }
}

/// Before a connection is closed: takes in what nobody has read, so that descriptors in it are closed as those are that
/// somebody has. What is still there the kernel closes with the socket, in this thread. It ends, because nothing can be sent
/// any more; to the peer that looks as if all had been read.
pub(crate) fn hang_up(socket: BorrowedFd<'_>) {
    let mut waste = [0; 4 << 10];
    if shutdown(socket.as_raw_fd(), Shutdown::Read).is_err() {
        return;
    }
    // Else it is better that the kernel closes them: to take one in has it wait for file systems, too.
    while foreign::has_room_for(sys::MOST) {
        let mut passed = Passed::default();
        match sys::recv(socket, Span::from_slice(&mut waste), &mut passed) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
        }
    }
}
