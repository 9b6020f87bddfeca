//! Which way bytes go out, and the waits for room there.

use super::{Route, Socket, Way, LOOKS};
use crate::ring::State;
use crate::sys;
use nix::poll::PollFlags;
use roadrunner_core::frame::HEADER_LEN;
use roadrunner_core::stream::INLINE_LIMIT;
use roadrunner_core::{Deadline, Span};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Bytes of frames that go through the ring by themselves: all without a payload, and those with a small one.
const QUICK: usize = INLINE_LIMIT as usize + HEADER_LEN;
/// How often a peer that is written to through a ring is looked at: it may be gone.
const VISIT: Duration = Duration::from_micros(100);
/// Pauses while a ring is full.
const FIRST_NAP: Duration = Duration::from_micros(50);
const LONGEST_NAP: Duration = Duration::from_millis(1);

impl Socket {
    /// Writes at least one byte of the two, one way or the other.
    pub(super) fn put(
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
    pub(super) fn fits(&mut self, len: usize) -> io::Result<bool> {
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
    pub(super) fn wake(&mut self) -> io::Result<()> {
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
}
