//! A ring in memory that both processes of a link map, beside its socket: for frames to an end that is awake, without a
//! system call.
//!
//! The side that connects makes it, a sealed memfd, and passes it with its hello. It holds a lane for each direction:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | `RRring`, 0, version 1 |
//! | 64.. | the words of the lane of the side that connected, then those of the other's: 4 of 64 bytes each |
//! | 4096.. | the bytes of the one lane, then those of the other |
//!
//! The words of a lane, numbers in the machine's order: *tail*, bytes of entries put in so far, and *wakes*, bytes sent
//! through the socket to wake the receiver, both written by its sender; *head*, bytes of entries taken out so far, and
//! *state*, what the receiver does now, both written by the receiver.
//!
//! An entry takes whole lines of 64 bytes. It starts with 16 bytes: where in the link's stream of bytes it belongs (8), how
//! many bytes of it follow (4), and the wakes before it (4). What lies between two entries in the stream comes by the socket. So
//! the stream is the same with a ring and without, and what comes out of it is judged as every stream is.
//!
//! **The peer may write whatever it likes, whenever it likes.** Each word is loaded once and checked before it is used; the
//! own positions are never read back. Bytes are copied out once and looked at there.

use crate::sys::Shared;
use roadrunner_core::frame::FrameError;
use roadrunner_core::Span;
use roadrunner_mem::PAGE_SIZE;
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{fence, AtomicU64, Ordering};

const MAGIC: u64 = u64::from_ne_bytes(*b"RRring\0\0");
const VERSION: u8 = 1;
const VERSION_AT: u32 = 56;
/// What is read or written as one, so that sender and receiver share no line by accident.
const LINE: usize = 64;
const WORDS: usize = 4 * LINE;
const HEAD_LEN: usize = 16;
/// Wakes that may be ahead of what was read of the socket: more than its buffer holds.
const MOST_WAKES: u64 = 1 << 16;

/// Bytes of a lane, as a power of two.
pub(crate) const SIZES: RangeInclusive<u32> = 12..=24;

/// What a receiver does, as it says in its lane. Beside it is how often it has gone to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It may wait for the socket, or do something else.
    Away = 0,
    /// It will look at the ring before it waits.
    Awake = 1,
    /// It waits for the socket, to be woken.
    Asleep = 2,
}

const STATE_BITS: u32 = 2;

/// One end of a ring.
#[derive(Debug)]
pub(crate) struct Ring {
    shared: Shared,
    /// Bytes of each lane.
    size: usize,
    ours: Lane,
    theirs: Lane,
    /// Bytes of entries put in, and known to have been taken out.
    put: u64,
    taken: u64,
    /// Wakes sent, and for which sleep of the peer the last one was.
    wakes: u64,
    woken_for: Option<u64>,
    /// Bytes of entries taken out.
    got: u64,
    /// The entry that is being read.
    open: Option<Open>,
    /// Wakes read from the socket.
    drained: u64,
    sleeps: u64,
    /// The state that the peer was told last.
    said: AtomicU64,
}

/// Where the words and the bytes of a lane are.
#[derive(Debug, Clone, Copy)]
struct Lane {
    tail: usize,
    wakes: usize,
    head: usize,
    state: usize,
    bytes: usize,
}

impl Lane {
    fn new(number: usize, size: usize) -> Self {
        let words = LINE + number * WORDS;
        Self {
            tail: words,
            wakes: words + 8,
            head: words + LINE,
            state: words + 2 * LINE,
            bytes: PAGE_SIZE + number * size,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Open {
    /// What is left of it.
    from: u64,
    left: usize,
    /// Where the next entry starts.
    end: u64,
}

/// Where the next bytes of the stream come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// From the ring: there are some.
    Ring,
    /// From the socket, behind so many wakes.
    Socket(u64),
    /// From the socket behind so many wakes, if something was there before this was asked for; else nobody knows yet.
    Open(u64),
}

impl Ring {
    /// Bytes of the memory of a ring with lanes of 2^`log` bytes.
    pub(crate) fn len(log: u32) -> usize {
        PAGE_SIZE + (2 << log)
    }

    /// Starts a ring in new memory, as the side that connected.
    pub(crate) fn start(shared: Shared, log: u32) -> Self {
        let version = u64::from(VERSION) << VERSION_AT;
        shared.word(0).store(MAGIC | version, Ordering::Relaxed);
        Self::of(shared, log, true)
    }

    /// The other end of a ring that the peer started.
    ///
    /// # Errors
    /// [`FrameError`] if it did not, or in a version that this end does not know.
    pub(crate) fn join(shared: Shared, log: u32) -> Result<Self, FrameError> {
        let word = shared.word(0).load(Ordering::Relaxed);
        if word & !(0xFF << VERSION_AT) != MAGIC {
            return Err(FrameError::Unexpected("a ring that is none"));
        }
        match (word >> VERSION_AT) as u8 {
            VERSION => Ok(Self::of(shared, log, false)),
            other => Err(FrameError::Version(other)),
        }
    }

    fn of(shared: Shared, log: u32, connected: bool) -> Self {
        let size = 1 << log;
        let lanes = [Lane::new(0, size), Lane::new(1, size)];
        Self {
            shared,
            size,
            ours: lanes[usize::from(!connected)],
            theirs: lanes[usize::from(connected)],
            put: 0,
            taken: 0,
            wakes: 0,
            woken_for: None,
            got: 0,
            open: None,
            drained: 0,
            sleeps: 0,
            said: AtomicU64::new(State::Away as u64),
        }
    }

    fn load(&self, word: usize) -> u64 {
        self.shared.word(word).load(Ordering::Acquire)
    }

    /// Where the bytes of the stream from `position` on come from.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) for what no peer of this version writes.
    pub(crate) fn next(&mut self, position: u64) -> io::Result<Next> {
        if self.open.is_some() {
            return Ok(Next::Ring);
        }
        // Before the tail: all of them were for entries that are there by then, and that have been read if there are no
        // more. So they lie in front of whatever the socket has.
        let wakes = self.load(self.theirs.wakes);
        let ahead = self.load(self.theirs.tail).wrapping_sub(self.got);
        if ahead == 0 {
            return Ok(Next::Open(self.undrained(wakes)?));
        }
        if ahead > self.size as u64 || ahead % LINE as u64 != 0 {
            return Err(garbage("a tail that is out of the ring"));
        }
        let (start, len, wakes) = self.head();
        if start > position {
            let new = wakes.wrapping_sub(self.drained as u32);
            return Ok(Next::Socket(self.undrained(self.drained + u64::from(new))?));
        }
        let room = lines(len);
        if start < position || len == 0 || room > ahead {
            return Err(garbage("an entry that belongs nowhere"));
        }
        self.open = Some(Open {
            from: self.got + HEAD_LEN as u64,
            left: len,
            end: self.got + room,
        });
        Ok(Next::Ring)
    }

    /// What the next entry says of itself, if there is one.
    fn head(&self) -> (u64, usize, u32) {
        let mut head = [0; HEAD_LEN];
        // Whole lines: it does not wrap.
        let at = self.theirs.bytes + self.at(self.got);
        self.shared.span(at, HEAD_LEN).copy_to_slice(&mut head);
        let [a, b, c, d, e, f, g, h, l0, l1, l2, l3, w0, w1, w2, w3] = head;
        (
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            u32::from_ne_bytes([l0, l1, l2, l3]) as usize,
            u32::from_ne_bytes([w0, w1, w2, w3]),
        )
    }

    fn undrained(&self, wakes: u64) -> io::Result<u64> {
        match wakes.checked_sub(self.drained) {
            Some(new @ 0..=MOST_WAKES) => Ok(new),
            _ => Err(garbage("wakes that nobody sent")),
        }
    }

    /// So many wakes have been read from the socket.
    pub(crate) fn drained(&mut self, count: usize) {
        self.drained += count as u64;
    }

    /// Takes bytes out: as many as there are in the entry that is open, and room for in `into`.
    pub(crate) fn read(&mut self, into: Span<'_>) -> usize {
        let Some(open) = &mut self.open else { return 0 };
        let count = into.len().min(open.left);
        let at = open.from as usize % self.size;
        let (first, rest) = into.split_at(count).0.split_at(self.size - at);
        first.copy_from(self.shared.span(self.theirs.bytes + at, first.len()));
        rest.copy_from(self.shared.span(self.theirs.bytes, rest.len()));
        open.from += count as u64;
        open.left -= count;
        if open.left == 0 {
            self.got = open.end;
            self.open = None;
            let head = self.shared.word(self.theirs.head);
            head.store(self.got, Ordering::Release);
        }
        count
    }

    /// Whether there is something to be read.
    pub(crate) fn has_something(&self) -> bool {
        self.open.is_some() || self.load(self.theirs.tail) != self.got
    }

    /// Whether [`next`](Self::next) would go on without the socket: what lies behind something that the socket has yet to
    /// bring does not count.
    pub(crate) fn has_next(&self, position: u64) -> bool {
        self.has_something() && (self.open.is_some() || self.head().0 <= position)
    }

    /// Says what this end does.
    pub(crate) fn be(&self, state: State) {
        let value = self.sleeps << STATE_BITS | state as u64;
        if self.said.swap(value, Ordering::Relaxed) == value {
            return;
        }
        let word = self.shared.word(self.theirs.state);
        word.store(value, Ordering::SeqCst);
        // What is looked for after this is not looked for before: see `sleep`.
        fence(Ordering::SeqCst);
    }

    /// Says that this end sleeps; it may, if [nothing is there](Self::has_something) after that.
    ///
    /// No wake is lost. This end stores its state and then loads the tail; the sender stores the tail and then loads the
    /// state ([`put`](Self::put), [`must_wake`](Self::must_wake)); between the two there is a sequentially consistent
    /// fence on either side. So at least one of them sees what the other stored (tests: `no_wake_is_lost` tries all
    /// orders): either the entry is seen here, or the sender sends a byte through the socket, which ends the wait.
    pub(crate) fn sleep(&mut self) {
        self.sleeps += 1;
        self.be(State::Asleep);
    }

    /// What the peer does, as far as it says.
    pub(crate) fn peer(&self) -> State {
        match self.load(self.ours.state) & ((1 << STATE_BITS) - 1) {
            1 => State::Awake,
            2 => State::Asleep,
            _ => State::Away,
        }
    }

    /// Bytes that an entry could have now.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(crate) fn room(&mut self, wanted: usize) -> io::Result<usize> {
        let room = |taken: u64| self.size as u64 - (self.put - taken);
        if room(self.taken) < lines(wanted) {
            let taken = self.load(self.ours.head);
            // In mid-line there would be less room than an entry of these bytes takes.
            if taken < self.taken || taken > self.put || taken % LINE as u64 != 0 {
                return Err(garbage("a head that is out of the ring"));
            }
            self.taken = taken;
        }
        let room = self.size as u64 - (self.put - self.taken);
        Ok((room as usize).saturating_sub(HEAD_LEN))
    }

    /// Bytes that are put in at once at most: the receiver takes out one piece while the next is put in.
    pub(crate) fn piece(&self) -> usize {
        self.size / 4
    }

    /// Puts in an entry for what is at `position` of the stream; there must be [`room`](Self::room) for it.
    pub(crate) fn put(&mut self, position: u64, head: &[u8], body: Span<'_>) {
        let len = head.len() + body.len();
        let lines = lines(len);
        debug_assert!(len > 0 && self.put + lines - self.taken <= self.size as u64);
        let mut start = [0; HEAD_LEN];
        start[..8].copy_from_slice(&position.to_ne_bytes());
        // Not longer than the lane; wakes are compared modulo 2^32.
        start[8..12].copy_from_slice(&(len as u32).to_ne_bytes());
        start[12..].copy_from_slice(&(self.wakes as u32).to_ne_bytes());
        let mut at = self.put;
        for piece in [&start[..], head] {
            let (first, rest) = self.places(at, piece.len());
            let copied = first.copy_from_slice(piece);
            rest.copy_from_slice(&piece[copied..]);
            at += piece.len() as u64;
        }
        let (first, rest) = self.places(at, body.len());
        let copied = first.copy_past_caches_from(body);
        rest.copy_past_caches_from(body.split_at(copied).1);
        self.put += lines;
        let tail = self.shared.word(self.ours.tail);
        tail.store(self.put, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Whether the peer sleeps, or may, and has not been woken since: to be asked after [`put`](Self::put).
    pub(crate) fn must_wake(&self) -> bool {
        let state = self.load(self.ours.state);
        let awake = state & ((1 << STATE_BITS) - 1) == State::Awake as u64;
        !awake && self.woken_for != Some(state)
    }

    /// A byte is about to be sent to wake the peer.
    pub(crate) fn wakes(&mut self) {
        let state = self.load(self.ours.state);
        let asleep = state & ((1 << STATE_BITS) - 1) == State::Asleep as u64;
        // Somebody who waits for the socket by himself does not say when.
        self.woken_for = asleep.then_some(state);
        self.wakes += 1;
        let word = self.shared.word(self.ours.wakes);
        word.store(self.wakes, Ordering::Release);
    }

    fn at(&self, position: u64) -> usize {
        position as usize % self.size
    }

    /// Where bytes from `position` on go: up to the end of the lane, and from its start on.
    fn places(&self, position: u64, len: usize) -> (Span<'_>, Span<'_>) {
        let at = self.at(position);
        let first = len.min(self.size - at);
        (
            self.shared.span(self.ours.bytes + at, first),
            self.shared.span(self.ours.bytes, len - first),
        )
    }
}

/// Bytes of an entry for `len` bytes.
fn lines(len: usize) -> u64 {
    (HEAD_LEN + len).next_multiple_of(LINE) as u64
}

fn garbage(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, FrameError::Unexpected(what))
}

#[cfg(test)]
mod tests;
