//! Where bytes come from, and the waits for them.

use super::{broken, wait, Socket, LOOKS};
use crate::ring::{Next, State};
use crate::sys::{self, Passed};
use nix::poll::{PollFd, PollFlags};
use roadrunner_core::{Deadline, Span};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// How often others are let to the processor before the socket is looked at.
const ROUNDS: u32 = 8;
/// Wakes that are read at a time at most: there is one for each time that this end slept.
const MOST_WAKES: usize = 1 << 10;
/// Entries of a ring that may be read one after the other without a look at the clock.
const MOST_CRUMBS: u32 = 64;

impl Socket {
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

    pub(super) fn away_or_awake(&self) {
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
    pub(super) fn keep(&mut self, passed: Passed) -> io::Result<()> {
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
    pub(super) fn read_either(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
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
}
