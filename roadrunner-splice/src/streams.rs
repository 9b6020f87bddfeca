//! One link over several connections, for large payloads on paths that one connection does not fill.
//!
//! The first connection is the link: its hellos say how many both sides want, and each side's half of a token of 112 random
//! bits. The side that connected then opens the others, proves itself on each as on the first, and says in their hellos whose
//! they are: the token is their name. Nothing else goes over them than their parts of payloads of [`STRIPED_FROM`] bytes and
//! more, each behind the header of the whole and in front of a checksum of its own.

#[cfg(test)]
mod tests;

use crate::checksum::{Checksums, STEP};
use crate::incomplete::{unexpected, Awaited};
use crate::socket::{revents, wait, Socket};
use crate::wire::TcpWire;
use nix::poll::{PollFd, PollFlags};
use roadrunner_core::frame::{FrameError, HEADER_LEN};
use roadrunner_core::stream::{read_all, write_all, Start, Wants};
use roadrunner_core::{Deadline, Span, TransferError};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// Bytes of the smallest payload that goes over all connections of a link that has several. Both sides have to know it.
pub(crate) const STRIPED_FROM: u64 = 1 << 20;
/// The most that a link has.
pub(crate) const MOST: u8 = 16;
/// In a hello where the number of connections is otherwise: this connection belongs to a link that there is.
const JOINS: u8 = u8::MAX;

/// What the two sides of a link know, and no others: the half of the side that connected comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token([u64; 2]);

impl Token {
    /// As the name of a connection that joins the link.
    pub(crate) fn name(self) -> String {
        format!("{:014x}{:014x}", self.0[0], self.0[1])
    }

    fn parse(name: &str) -> Option<Self> {
        let (here, there) = name.is_ascii().then(|| name.split_at_checked(14))??;
        let half = |text: &str| u64::from_str_radix(text, 16).ok();
        let token = Self([half(here)?, half(there)?]);
        (token.name() == name).then_some(token)
    }
}

/// The connections of a link beside its first one, and how they come to be.
#[derive(Debug)]
pub(crate) struct Streams {
    /// How many this end wants, the first included.
    wanted: u8,
    /// This end's half of the token, and the other one's.
    ours: u64,
    theirs: u64,
    /// How many there are to be, once the hellos are said.
    agreed: Option<u8>,
    /// The link that this connection belongs to, if it is not the first of one.
    joins: Option<Token>,
    /// Which links wait for connections, on the side that accepts, until the hellos are said.
    awaited: Option<Awaited>,
    others: Vec<Other>,
    /// Bytes of the first connection's part that are out, of the frame that is being sent, and that are here.
    sent: u64,
    got: u64,
    /// The frame that is being received.
    arriving: Option<Start>,
    /// Connections, 0 being the first, that the last attempts to send and to receive would have waited for. None if that was
    /// something that goes over the first one alone.
    to_send: Vec<usize>,
    to_receive: Vec<usize>,
}

/// A connection that is not the first.
#[derive(Debug)]
struct Other {
    wire: TcpWire,
    /// Bytes of its part that are out.
    sent: u64,
    header: [u8; HEADER_LEN],
    /// Bytes of the header that are here, and of what follows it.
    got_header: u64,
    got: u64,
}

impl Streams {
    /// For a connection of which nobody knows yet whether it will be the only one.
    pub(crate) fn new(wanted: u8) -> io::Result<Self> {
        let mut half = [0; 8];
        if wanted > 1 {
            getrandom::fill(&mut half[1..]).map_err(|error| io::Error::other(error.to_string()))?;
        }
        Ok(Self {
            wanted,
            ours: u64::from_be_bytes(half),
            theirs: 0,
            agreed: None,
            joins: None,
            awaited: None,
            others: Vec::new(),
            sent: 0,
            got: 0,
            arriving: None,
            to_send: Vec::new(),
            to_receive: Vec::new(),
        })
    }

    /// This connection is to be one of the link that knows this token.
    pub(crate) fn join(&mut self, token: Token) {
        self.joins = Some(token);
    }

    /// A connection that joins is to join one of these links.
    pub(crate) fn joined_by(&mut self, awaited: Awaited) {
        self.awaited = Some(awaited);
    }

    /// Whose connection this is, if it is not the first of a link.
    pub(crate) fn joins(&self) -> Option<Token> {
        self.joins
    }

    /// For the hello.
    pub(crate) fn offers(&self) -> u64 {
        if self.joins.is_some() {
            return u64::from(JOINS);
        }
        match self.agreed.unwrap_or(self.wanted) {
            0..=1 => 0,
            count => u64::from(count) | self.ours << 8,
        }
    }

    /// What the hello of `peer` says. One that wants to join a link that waits for none is refused before it is answered:
    /// by an answer it would take its link to be complete.
    pub(crate) fn meet(
        &mut self,
        name: &str,
        offers: u64,
        peer: SocketAddr,
    ) -> Result<(), TransferError> {
        // The lowest of eight bytes.
        let count = offers as u8;
        if count == JOINS {
            let token = Token::parse(name).ok_or(FrameError::Unexpected("a token"))?;
            if self.awaited.as_ref().is_some_and(|all| !all.has(token)) {
                return Err(unexpected(peer));
            }
            self.joins = Some(token);
        } else {
            self.agreed = Some(count.clamp(1, self.wanted.max(1)));
            self.theirs = offers >> 8;
        }
        Ok(())
    }

    /// The hellos are said.
    pub(crate) fn opened(&mut self) {
        self.awaited = None;
    }

    /// Connections that are to join this one, once the hellos are said.
    pub(crate) fn missing(&self) -> usize {
        let agreed = usize::from(self.agreed.unwrap_or(1));
        (agreed - 1).saturating_sub(self.others.len())
    }

    /// What they have to know.
    pub(crate) fn token(&self, connected: bool) -> Token {
        if connected {
            Token([self.ours, self.theirs])
        } else {
            Token([self.theirs, self.ours])
        }
    }

    /// Another connection of the link.
    pub(crate) fn add(&mut self, wire: TcpWire) {
        self.others.push(Other {
            wire,
            sent: 0,
            header: [0; HEADER_LEN],
            got_header: 0,
            got: 0,
        });
    }

    /// How many connections the link has.
    pub(crate) fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// Whether a payload of so many bytes goes over all of them.
    pub(crate) fn divide(&self, len: u64) -> bool {
        !self.others.is_empty() && len >= STRIPED_FROM
    }

    /// The next frame that is received.
    pub(crate) fn expect(&mut self, start: Start) {
        self.arriving = Some(start);
    }

    pub(crate) fn arriving(&self) -> Option<Start> {
        self.arriving
    }

    /// Sends a frame, with this header. `socket` and `checksums` are the first connection's.
    pub(crate) fn carry(
        &mut self,
        socket: &mut Socket,
        mut checksums: Option<&mut Checksums>,
        header: &[u8; HEADER_LEN],
        payload: Span<'_>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        if *sent == 0 {
            self.sent = 0;
            self.others.iter_mut().for_each(|other| other.sent = 0);
        }
        let parts = parts(payload, self.count());
        loop {
            let mut round = Round::default();
            let sums = checksums.as_deref_mut();
            let first = write(socket, sums, header, parts[0], &mut self.sent);
            let mut went = round.note(0, first);
            for (index, other) in self.others.iter_mut().enumerate() {
                let (socket, sums) = other.wire.parts();
                let written = write(socket, sums, header, parts[index + 1], &mut other.sent);
                went = went.and(round.note(index + 1, written));
            }
            *sent = self.sent + self.others.iter().map(|other| other.sent).sum::<u64>();
            went?;
            if round.is_last() {
                return Ok(());
            }
            if deadline.is_over() {
                return Err(TransferError::Timeout);
            }
            if !round.goes_on {
                self.to_send = round.waiting;
                self.wait(socket, &self.to_send, PollFlags::POLLOUT, deadline)?;
            }
        }
    }

    /// Receives a frame whose header has come on the first connection, which `socket` and `checksums` are of.
    pub(crate) fn bring(
        &mut self,
        socket: &mut Socket,
        mut checksums: Option<&mut Checksums>,
        header: &[u8; HEADER_LEN],
        into: Span<'_>,
        got: &mut u64,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        if *got == 0 {
            self.got = 0;
            for other in &mut self.others {
                (other.got_header, other.got) = (0, 0);
            }
        }
        let parts = parts(into, self.count());
        loop {
            let mut round = Round::default();
            let sums = checksums.as_deref_mut();
            let first = read(socket, sums, parts[0], &mut self.got);
            let mut went = round.note(0, first);
            for (index, other) in self.others.iter_mut().enumerate() {
                let read = other.read(header, parts[index + 1]);
                went = went.and(round.note(index + 1, read));
            }
            let others = self.others.iter();
            *got = self.got
                + others
                    .map(|other| other.got_header + other.got)
                    .sum::<u64>();
            // Whichever connection it was that ended.
            let truncated = TransferError::Truncated {
                got: HEADER_LEN as u64 + *got,
                expected: (HEADER_LEN * self.count() + into.len()) as u64,
            };
            let whole = |error| match error {
                TransferError::PeerClosed | TransferError::Truncated { .. } => truncated,
                other => other,
            };
            if let Err(error) = went {
                return Err(whole(error));
            }
            if round.is_last() {
                return Ok(());
            }
            if deadline.is_over() {
                return Err(TransferError::Timeout);
            }
            if !round.goes_on {
                self.to_receive = round.waiting;
                self.wait(socket, &self.to_receive, PollFlags::POLLIN, deadline)
                    .map_err(whole)?;
            }
        }
    }

    /// Waits until one of these connections, 0 being the first, is ready, or the first one is shut down: that is how
    /// whoever waits in vain is woken. He is told so also if he may not wait.
    fn wait(
        &self,
        first: &Socket,
        which: &[usize],
        events: PollFlags,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        let has_passed = deadline.has_passed();
        let mut polled = self.polled(first, |index| match which.contains(&index) {
            true => events,
            false => PollFlags::empty(),
        });
        wait(&mut polled, deadline)
            .map_err(|error| TransferError::from_io("wait for the streams of a link", error))?;
        if !which.contains(&0) && revents(&polled[0]).contains(PollFlags::POLLHUP) {
            return Err(TransferError::PeerClosed);
        }
        if has_passed {
            return Err(TransferError::Timeout);
        }
        Ok(())
    }

    /// The first connection, and those others that are to be watched for something.
    fn polled<'a>(
        &'a self,
        first: &'a Socket,
        events: impl Fn(usize) -> PollFlags,
    ) -> Vec<PollFd<'a>> {
        let mut polled = vec![PollFd::new(first.as_fd(), events(0))];
        for (index, other) in self.others.iter().enumerate() {
            let events = events(index + 1);
            if !events.is_empty() {
                polled.push(PollFd::new(other.wire.as_fd(), events));
            }
        }
        polled
    }

    /// Waits until what the last attempts to send and to receive waited for is ready, as far as that is wanted.
    pub(crate) fn wait_for(
        &self,
        first: &Socket,
        wants: Wants,
        deadline: Deadline,
    ) -> io::Result<()> {
        let concerns =
            |which: &[usize], index| which.contains(&index) || which.is_empty() && index == 0;
        let mut polled = self.polled(first, |index| {
            let mut events = PollFlags::empty();
            let [reads, writes] =
                [&self.to_receive, &self.to_send].map(|which| concerns(which, index));
            events.set(PollFlags::POLLIN, wants.read && reads);
            events.set(PollFlags::POLLOUT, wants.write && writes);
            events
        });
        wait(&mut polled, deadline)
    }

    /// What is sent, or received, next goes over the first connection alone.
    pub(crate) fn sends_alone(&mut self) {
        self.to_send.clear();
    }

    pub(crate) fn receives_alone(&mut self) {
        self.to_receive.clear();
    }
}

/// How far a connection got with its part.
enum Went {
    /// To the end.
    Through,
    /// There may be more that needs no waiting.
    OneStep,
    /// Nothing more goes without waiting.
    Blocked,
}

impl Went {
    fn from(result: Result<bool, TransferError>) -> Result<Self, TransferError> {
        match result {
            Ok(true) => Ok(Self::Through),
            Ok(false) => Ok(Self::OneStep),
            Err(TransferError::Timeout) => Ok(Self::Blocked),
            Err(error) => Err(error),
        }
    }
}

/// How far all of them got, each by no more than a step.
#[derive(Default)]
struct Round {
    /// Those that have to wait.
    waiting: Vec<usize>,
    /// Some need not.
    goes_on: bool,
}

impl Round {
    fn note(
        &mut self,
        index: usize,
        went: Result<Went, TransferError>,
    ) -> Result<(), TransferError> {
        match went? {
            Went::Through => {}
            Went::OneStep => self.goes_on = true,
            Went::Blocked => self.waiting.push(index),
        }
        Ok(())
    }

    fn is_last(&self) -> bool {
        self.waiting.is_empty() && !self.goes_on
    }
}

impl Other {
    /// Reads the header, which has to be that of the frame, and the part behind it, as far as they are here.
    fn read(&mut self, header: &[u8; HEADER_LEN], part: Span<'_>) -> Result<Went, TransferError> {
        let now = Deadline::now();
        let (socket, checksums) = self.wire.parts();
        if self.got_header < HEADER_LEN as u64 {
            let into = Span::from_slice(&mut self.header);
            match read_all(socket, into, 0, &mut self.got_header, now) {
                Err(TransferError::Timeout) => return Ok(Went::Blocked),
                read => read?,
            }
        }
        if self.header != *header {
            return Err(FrameError::Unexpected("a part of another payload").into());
        }
        read(socket, checksums, part, &mut self.got)
    }
}

/// One part for each of `count` connections.
fn parts(payload: Span<'_>, count: usize) -> Vec<Span<'_>> {
    let each = payload.len().div_ceil(count);
    let mut rest = payload;
    let mut next = || {
        let (part, others) = rest.split_at(each.min(rest.len()));
        rest = others;
        part
    };
    (0..count).map(|_| next()).collect()
}

/// Writes what there is room for, but no more than a step.
fn write(
    socket: &mut Socket,
    checksums: Option<&mut Checksums>,
    header: &[u8; HEADER_LEN],
    part: Span<'_>,
    sent: &mut u64,
) -> Result<Went, TransferError> {
    let now = Deadline::now();
    Went::from(match checksums {
        Some(checksums) => checksums.write_step(socket, header, part, sent, now),
        None => {
            let step = up_to_step(part, sent.saturating_sub(HEADER_LEN as u64));
            write_all(socket, header, step, sent, now).map(|()| step.len() == part.len())
        }
    })
}

/// Reads what is here, but no more than a step.
fn read(
    socket: &mut Socket,
    checksums: Option<&mut Checksums>,
    part: Span<'_>,
    got: &mut u64,
) -> Result<Went, TransferError> {
    let now = Deadline::now();
    Went::from(match checksums {
        Some(checksums) => checksums.bring_step(socket, part, got, now),
        None => {
            let step = up_to_step(part, *got);
            read_all(socket, step, HEADER_LEN, got, now).map(|()| step.len() == part.len())
        }
    })
}

/// A part up to the end of the step after so many bytes of it.
fn up_to_step(part: Span<'_>, done: u64) -> Span<'_> {
    // Less than the length of the part.
    part.split_at((done as usize + STEP).min(part.len())).0
}
