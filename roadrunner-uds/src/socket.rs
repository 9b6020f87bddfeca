//! A connected socket: what reads, writes, waits, and passes descriptors. It may have a ring beside it.

use crate::ring::{Next, Ring, State};
use crate::sys::{self, Passed};
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::time::TimeSpec;
use roadrunner_core::frame::{FrameError, HEADER_LEN};
use roadrunner_core::stream::{Wire, INLINE_LIMIT};
use roadrunner_core::{Deadline, Span};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a ring is looked at before others are let to the processor: about as long as a peer takes that runs on another.
/// One that shares this processor can go on only then.
const LOOKS: u32 = 20;
/// How often others are let to the processor before the socket is looked at.
const ROUNDS: u32 = 8;
/// Bytes of frames that go through the ring by themselves: all without a payload, and those with a small one.
const QUICK: usize = INLINE_LIMIT as usize + HEADER_LEN;
/// Wakes that are read at a time at most: there is one for each time that this end slept.
const MOST_WAKES: usize = 1 << 10;
/// How often a peer that is written to through a ring is looked at: it may be gone.
const VISIT: Duration = Duration::from_micros(100);
/// Entries of a ring that may be read one after the other without a look at the clock.
const MOST_CRUMBS: u32 = 64;
/// Pauses while a ring is full.
const FIRST_NAP: Duration = Duration::from_micros(50);
const LONGEST_NAP: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Socket {
    stream: UnixStream,
    /// A descriptor that came, until somebody asks for it.
    passed: Option<OwnedFd>,
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
    pub(crate) fn take_passed(&mut self) -> Option<OwnedFd> {
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

    /// Writes at least one byte of the two, one way or the other.
    fn put(
        &mut self,
        head: &[u8],
        body: Span<'_>,
        descriptor: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> io::Result<usize> {
        if !deadline.has_passed() {
            self.attend();
        }
        let all = head.len() + body.len();
        let through_ring = match (self.way, self.route) {
            (Some(way), _) => way == Way::Ring,
            // Only what starts a frame may change over, and a descriptor needs the socket.
            _ if head.is_empty() || descriptor.is_some() => false,
            (None, route) => {
                route == Route::Ring || (route == Route::Quickest && self.fits(all)?)
            }
        };
        let way = if through_ring { Way::Ring } else { Way::Socket };
        let count = match way {
            Way::Ring => self.put_in_ring(head, body, deadline)?,
            Way::Socket => {
                let own = self.passing.take();
                let passing = descriptor.or(own.as_ref().map(AsFd::as_fd));
                let sent = self.patiently(PollFlags::POLLOUT, deadline, |socket| {
                    sys::send(socket, head, body, passing)
                });
                if sent.is_err() {
                    self.passing = own;
                }
                sent?
            }
        };
        self.written += count as u64;
        self.way = (count < all).then_some(way);
        Ok(count)
    }

    /// Whether the peer looks at the ring, and it has room for a frame.
    fn fits(&mut self, len: usize) -> io::Result<bool> {
        match &mut self.ring {
            // In one piece: with a part of it in the ring, the rest would have to wait for room there.
            Some(ring) if len <= QUICK.min(ring.piece()) && ring.peer() == State::Awake => {
                Ok(ring.room(len)? >= len)
            }
            _ => Ok(false),
        }
    }

    fn put_in_ring(
        &mut self,
        head: &[u8],
        body: Span<'_>,
        deadline: Deadline,
    ) -> io::Result<usize> {
        // A peer that makes room all the time is no reason to go on for ever.
        if self.way.is_some() && deadline.has_passed() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let room = self.wait_for_room(head.len() + body.len(), deadline)?;
        let Some(ring) = &mut self.ring else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let (head, _) = head.split_at(room.min(head.len()));
        let body = body.split_at(room - head.len()).0;
        ring.put(self.written, head, body);
        if ring.must_wake() {
            self.wake()?;
        }
        self.visit()?;
        Ok(head.len() + body.len())
    }

    /// Waits until there is room for a piece, and says how long it may be.
    fn wait_for_room(&mut self, wanted: usize, deadline: Deadline) -> io::Result<usize> {
        let mut nap = FIRST_NAP;
        let mut rounds = 0;
        loop {
            let Some(ring) = &mut self.ring else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            let piece = wanted.min(ring.piece());
            let room = ring.room(piece)?;
            if room >= piece {
                return Ok(piece);
            }
            rounds += 1;
            if rounds % LOOKS != 0 {
                std::hint::spin_loop();
                continue;
            }
            self.visit()?;
            let Some(left) = deadline.remaining() else {
                return Err(io::ErrorKind::TimedOut.into());
            };
            if rounds <= LOOKS * 100 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(nap.min(left));
                nap = (nap * 2).min(LONGEST_NAP);
            }
        }
    }

    /// Sees from time to time whether the peer is still there: a ring does not tell.
    fn visit(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.visited.is_some_and(|last| now - last < VISIT) {
            return Ok(());
        }
        self.visited = Some(now);
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        if self.is_ready(PollFlags::empty())?.intersects(gone) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    /// Sends a byte that ends the peer's wait.
    fn wake(&mut self) -> io::Result<()> {
        // A socket without room holds what the peer has not read: it does not sleep.
        if !self
            .is_ready(PollFlags::POLLOUT)?
            .contains(PollFlags::POLLOUT)
        {
            return Ok(());
        }
        if let Some(ring) = &mut self.ring {
            ring.wakes();
        }
        let sent = self.patiently(PollFlags::POLLOUT, Deadline::now(), |socket| {
            sys::send(socket, &[0], Span::empty(), None)
        });
        sent.map(drop).map_err(|error| match error.kind() {
            // It has been announced, and does not come.
            io::ErrorKind::TimedOut => io::Error::other("a socket with room takes no byte"),
            _ => error,
        })
    }

    fn is_ready(&self, events: PollFlags) -> io::Result<PollFlags> {
        let mut poll = [PollFd::new(self.stream.as_fd(), events)];
        wait(&mut poll, Deadline::now())?;
        Ok(poll[0].revents().unwrap_or(PollFlags::empty()))
    }

    /// Waits until the ring, unless it is not to be looked at, or the socket has something. Whether the socket has.
    fn wait_to_read(&mut self, at_ring: bool, deadline: Deadline) -> io::Result<bool> {
        let Some(ring) = &mut self.ring else {
            return Ok(true);
        };
        if deadline.has_passed() {
            return match self.is_ready(PollFlags::POLLIN)?.is_empty() {
                true => Err(io::ErrorKind::TimedOut.into()),
                false => Ok(true),
            };
        }
        let before = Instant::now();
        if at_ring && !self.patience.now.is_zero() {
            ring.be(State::Awake);
        }
        let found = self.look_and_sleep(at_ring, before, deadline);
        self.patience.learn(before.elapsed());
        // Who waits by other means is told of everything that comes from now on.
        self.away_or_awake();
        found
    }

    fn away_or_awake(&self) {
        if let Some(ring) = &self.ring {
            let watched = self.watched.load(Ordering::Relaxed);
            ring.be(if watched { State::Away } else { State::Awake });
        }
    }

    fn look_and_sleep(
        &mut self,
        at_ring: bool,
        before: Instant,
        deadline: Deadline,
    ) -> io::Result<bool> {
        let mut rounds = 0;
        loop {
            let Some(ring) = &mut self.ring else {
                return Ok(true);
            };
            for _ in 0..LOOKS {
                if at_ring && ring.has_something() {
                    return Ok(false);
                }
                std::hint::spin_loop();
            }
            if before.elapsed() >= self.patience.now {
                break;
            }
            std::thread::yield_now();
            rounds += 1;
            if !at_ring || rounds % ROUNDS == 0 {
                if !self.is_ready(PollFlags::POLLIN)?.is_empty() {
                    return Ok(true);
                }
                if deadline.has_passed() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
        if let Some(ring) = &mut self.ring {
            ring.sleep();
            if at_ring && ring.has_something() {
                return Ok(false);
            }
        }
        let mut poll = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        wait(&mut poll, deadline)?;
        let ready = poll[0].any().unwrap_or(true);
        if !ready && deadline.has_passed() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(ready)
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

    /// Reads from the socket; `None` if nothing is there.
    fn receive(&mut self, into: Span<'_>) -> io::Result<Option<usize>> {
        let mut passed = Passed::default();
        let count = loop {
            match sys::recv(self.stream.as_fd(), into, &mut passed) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                done => break Some(done?),
            }
        };
        self.keep(passed)?;
        Ok(count)
    }

    /// Reads from where the stream goes on. A read must not reach beyond the frame that it starts in.
    fn read_either(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        let mut readable = false;
        let mut drained = 0;
        loop {
            let Some(ring) = &mut self.ring else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            let next = ring.next(self.read)?;
            let wakes = match next {
                Next::Ring => return self.read_ring(into, deadline),
                // What is there now is what comes next only if it was there before nothing was in the ring.
                Next::Open(_) if !readable => {
                    readable = self.wait_to_read(true, deadline)?;
                    continue;
                }
                Next::Open(wakes) | Next::Socket(wakes) => wakes,
            };
            let mut waste = [0; 64];
            let target = match wakes {
                0 => into,
                // At most as many as there is room for.
                some => Span::from_slice(&mut waste).split_at(some as usize).0,
            };
            match self.receive(target)? {
                None if matches!(next, Next::Socket(_)) => {
                    self.wait_to_read(false, deadline)?;
                }
                None => readable = false,
                Some(count) if wakes == 0 || count == 0 => return Ok(count),
                Some(count) => {
                    if let Some(ring) = &mut self.ring {
                        ring.drained(count);
                    }
                    drained += count;
                    if drained > MOST_WAKES {
                        return Err(broken("wakes without end"));
                    }
                    readable = false;
                }
            }
        }
    }

    /// Reads from the ring, where there is something. A peer that never lets it run empty, with entries of a byte each,
    /// must not keep this end beyond its deadline: that is looked at whenever so many entries did not fill `into`.
    fn read_ring(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        if self.crumbs >= MOST_CRUMBS {
            self.crumbs = 0;
            if deadline.has_passed() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let count = self.ring.as_mut().map_or(0, |ring| ring.read(into));
        self.crumbs = if count < into.len() {
            self.crumbs + 1
        } else {
            0
        };
        Ok(count)
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

#[cfg(test)]
mod orders;

impl Drop for Socket {
    fn drop(&mut self) {
        // So that the peer tries the socket, and hears that nobody is there.
        if let Some(ring) = &self.ring {
            ring.be(State::Away);
        }
    }
}
