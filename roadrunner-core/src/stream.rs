//! A link over any byte stream: the [`Transfer`] contract on top of a [`Wire`] that does the I/O.
//!
//! The crates for UNIX sockets and for TCP each bring a wire; a test brings one that breaks in every way. The state
//! machine is this one for all of them.
//!
//! A program with an event loop of its own opens a link by an [`Opening`] and uses it by
//! [`try_send`](StreamLink::try_send) and [`try_recv`](StreamLink::try_recv), which never wait.

use crate::deadline::Deadline;
use crate::error::TransferError;
use crate::frame::{Header, Kind};
use crate::memory::Sink;
use crate::payload::Payload;
use crate::receipt::{Delivery, Receipt};
use crate::region::{Region, Span};
use crate::transfer::Transfer;
use receiving::{Arriving, Incoming, MOST_UNSAID};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

mod opening;
mod receiving;
mod wire;

pub use opening::Opening;
pub use wire::{read_all, write_all, write_frame, Carried, Start, Wire, INLINE_LIMIT};

/// What a descriptor has to be ready for: to be read, to be written to, or either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Wants {
    /// To be read.
    pub read: bool,
    /// To be written to.
    pub write: bool,
}

impl Wants {
    const WRITE: Self = Self {
        read: false,
        write: true,
    };
}

/// One end of a link over a byte stream.
#[derive(Debug)]
pub struct StreamLink<W> {
    wire: W,
    name: String,
    limit: u64,
    next_out: u64,
    next_in: u64,
    unacknowledged: VecDeque<u64>,
    /// A payload that is partly sent.
    sending: Option<Sending>,
    /// Frames without a payload that are not sent yet.
    unsaid: Vec<u8>,
    incoming: Incoming,
    /// A payload that is partly here.
    arriving: Option<Arriving>,
    sent_end: bool,
    got_end: bool,
    /// What the last operation was waiting for when it timed out; nothing if it did not.
    wants: Wants,
    /// The last receive waited for more to come.
    drained: bool,
    broken: bool,
}

/// A payload of which `sent` bytes of its frame are out, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sending {
    base: usize,
    region: Region,
    sent: u64,
}

impl<W: Wire> StreamLink<W> {
    /// Opens a link named `name` from the side that connected, taking payloads of up to `limit` bytes.
    ///
    /// # Errors
    /// [`Timeout`](TransferError::Timeout), [`PeerClosed`](TransferError::PeerClosed),
    /// [`Protocol`](TransferError::Protocol) if the peer speaks something else.
    pub fn connect(
        wire: W,
        name: &str,
        limit: u64,
        deadline: Deadline,
    ) -> Result<Self, TransferError> {
        Opening::connect(wire, name, limit)?.open(deadline)
    }

    /// Opens a link from the side that accepted; its name is the one that the peer says.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn accept(wire: W, limit: u64, deadline: Deadline) -> Result<Self, TransferError> {
        Opening::accept(wire, limit).open(deadline)
    }

    fn fresh(wire: W, name: String, limit: u64) -> Self {
        Self {
            wire,
            name,
            limit,
            next_out: 0,
            next_in: 0,
            unacknowledged: VecDeque::new(),
            sending: None,
            unsaid: Vec::new(),
            incoming: Incoming::default(),
            arriving: None,
            sent_end: false,
            got_end: false,
            wants: Wants::default(),
            drained: false,
            broken: false,
        }
    }

    /// The name that the connecting side gave the link. It comes from the peer.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the longest payload that both sides take.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The stream beneath.
    #[must_use]
    pub fn wire(&self) -> &W {
        &self.wire
    }

    /// The stream beneath, for the transport that made it. What is read or written here is lost to the link.
    #[must_use]
    pub fn wire_mut(&mut self) -> &mut W {
        &mut self.wire
    }

    /// The stream beneath, without the link.
    #[must_use]
    pub fn into_wire(self) -> W {
        self.wire
    }

    /// Whether the header of a payload has been read already, or what follows from the descriptor
    /// ([`Wire::holds`]), so that [`recv`](Transfer::recv) has something to do although the descriptor may not be
    /// readable. False once it has found that more has to come.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.incoming.data.is_some() && !self.incoming.lacks || self.wire.holds()
    }

    /// Whether the header of a payload has been read, so that what comes next belongs to that payload:
    /// [`listen`](Self::listen) hears nothing before it is received.
    #[must_use]
    pub fn has_body_ahead(&self) -> bool {
        self.incoming.data.is_some() || self.arriving.is_some()
    }

    /// Whether the peer has said that nothing follows, so that [`recv`](Transfer::recv) says so at once.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.got_end
    }

    /// What to wait for before what could not be done without waiting is tried again: what the last operation would have
    /// waited for. Nothing if it did what it was to do: there may be more that needs no waiting.
    #[must_use]
    pub fn wants(&self) -> Wants {
        self.wants
    }

    /// Whether the last receive took all there was and waits for more. If it did not, the descriptor may be readable for
    /// what nobody takes now: whoever waits for something else is not to wait for that.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Sends a payload as far as that goes without waiting. `None` if it is not out yet: call again with the same
    /// payload, unchanged, when the descriptor is ready for what [`wants`](Self::wants) says. Only then, or if
    /// nothing of it was sent when the link is dropped, is the payload free to be used again.
    ///
    /// # Errors
    /// As [`send`](Transfer::send). An error of the kind [`InvalidInput`](io::ErrorKind::InvalidInput) if another payload
    /// is partly sent, which may still be completed.
    pub fn try_send(&mut self, payload: Payload<'_>) -> Result<Option<Receipt>, TransferError> {
        self.try_send_until(payload, Deadline::now())
    }

    /// Sends a payload as [`try_send`](Self::try_send) does, as a part of an operation that ends at `end`: then also if the
    /// peer takes more and more.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub fn try_send_until(
        &mut self,
        payload: Payload<'_>,
        end: Deadline,
    ) -> Result<Option<Receipt>, TransferError> {
        or_wait(self.go_on_sending(payload, end.without_waiting()))
    }

    /// Receives the next payload as far as that goes without waiting. `None` if it is not here yet: call again, with the
    /// same sink, when the descriptor is ready for what [`wants`](Self::wants) says.
    ///
    /// In between a region of the sink may be reserved and partly filled; [`abandon`](Self::abandon) releases it.
    ///
    /// # Errors
    /// As [`recv`](Transfer::recv).
    pub fn try_recv(&mut self, sink: &mut dyn Sink) -> Result<Option<Delivery>, TransferError> {
        self.try_recv_until(sink, Deadline::now())
    }

    /// Receives the next payload as [`try_recv`](Self::try_recv) does, as a part of an operation that ends at `end`: then also
    /// if more and more comes.
    ///
    /// # Errors
    /// As [`recv`](Transfer::recv).
    pub fn try_recv_until(
        &mut self,
        sink: &mut dyn Sink,
        end: Deadline,
    ) -> Result<Option<Delivery>, TransferError> {
        let received = self.go_on_receiving(sink, end.without_waiting());
        self.note(&received);
        or_wait(received)
    }

    /// Closes this end, as [`close`](Transfer::close) does, as far as that goes without waiting. `false` if the end is not
    /// out or not everything is acknowledged yet: call again when the descriptor is ready for what
    /// [`wants`](Self::wants) says.
    ///
    /// # Errors
    /// As [`close`](Transfer::close).
    pub fn try_close(&mut self) -> Result<bool, TransferError> {
        or_wait(self.close(Deadline::now())).map(|closed| closed.is_some())
    }

    /// Gives up a payload that [`try_recv`](Self::try_recv) has begun to receive into this sink. If there is one the link is
    /// broken.
    pub fn abandon(&mut self, sink: &mut dyn Sink) {
        if let Some(arriving) = self.arriving.take() {
            sink.release(arriving.region);
            self.broken = true;
        }
    }

    /// Takes in what the peer says beside payloads: waits for a word, until the deadline, and for no more. False if there
    /// was none, or if a payload has to be received before anything else can be heard.
    ///
    /// # Errors
    /// As [`recv`](Transfer::recv).
    pub fn listen(&mut self, deadline: Deadline) -> Result<bool, TransferError> {
        if self.broken {
            return Err(TransferError::Broken);
        }
        match self.say(Deadline::now()) {
            Err(TransferError::Timeout | TransferError::PeerClosed) => {}
            said => self.judge(said)?,
        }
        if self.has_body_ahead() {
            return Ok(false);
        }
        let taken = self.take_frame(deadline);
        self.note(&taken);
        let heard = or_wait(self.judge(taken))?;
        Ok(heard.is_some() && !self.has_body_ahead())
    }

    /// Sends a frame whose payload of `len` bytes the wire has by other means: `carry` does what [`Wire::carry`] does, until
    /// the deadline that it is given.
    ///
    /// # Errors
    /// As [`send`](Transfer::send).
    pub fn send_by(
        &mut self,
        len: u64,
        deadline: Deadline,
        carry: impl FnOnce(&mut W, Start, &mut u64, Deadline) -> Result<Carried, TransferError>,
    ) -> Result<Receipt, TransferError> {
        let deadline = deadline.begin();
        if self.broken {
            return Err(TransferError::Broken);
        }
        if self.sending.is_some() {
            return Err(another_is_partly_sent());
        }
        self.start_send(len, deadline)?;
        let start = Start {
            sequence: self.next_out,
            len,
        };
        let mut sent = 0;
        self.wants = Wants::WRITE;
        match carry(&mut self.wire, start, &mut sent, deadline) {
            Ok(carried) => Ok(self.sent(start, carried)),
            Err(error) => {
                self.broken |= sent > 0;
                self.judge(Err(error))
            }
        }
    }

    fn sent(&mut self, start: Start, carried: Carried) -> Receipt {
        self.wants = Wants::default();
        self.next_out += 1;
        if carried.acknowledge {
            self.unacknowledged.push_back(start.sequence);
        }
        Receipt::new(start.len, carried.method, carried.copies)
    }

    /// Sends frames without a payload that are due, if they do not have to wait for the payload that is partly sent.
    fn say(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        if self.unsaid.len() < MOST_UNSAID {
            self.wire.due(&mut self.unsaid);
        }
        if self.unsaid.is_empty() {
            return Ok(());
        }
        self.wants = Wants::WRITE;
        if self.sending.is_some() {
            return Err(TransferError::Timeout);
        }
        let mut sent = 0;
        let said = write_all(
            &mut self.wire,
            &self.unsaid,
            Span::empty(),
            &mut sent,
            deadline,
        );
        // Never more than there were.
        self.unsaid.drain(..sent as usize);
        said
    }

    /// Takes acknowledgements until no more than `left` payloads are without one.
    fn settle(&mut self, left: usize, deadline: Deadline) -> Result<(), TransferError> {
        // Behind the header of a payload lies its body: acknowledgements beyond it have to wait for recv.
        while !self.has_body_ahead() && !self.unacknowledged.is_empty() {
            let wait = if self.unacknowledged.len() > left {
                deadline
            } else {
                Deadline::now()
            };
            match self.take_frame(wait) {
                Err(TransferError::Timeout) => break,
                other => other?,
            }
        }
        if self.unacknowledged.len() > left {
            self.wants = self.reading();
            return Err(TransferError::Timeout);
        }
        Ok(())
    }

    fn start_send(&mut self, len: u64, deadline: Deadline) -> Result<(), TransferError> {
        if self.sent_end {
            return Err(TransferError::Closed);
        }
        if len > self.limit {
            return Err(TransferError::TooLarge {
                len,
                limit: self.limit,
            });
        }
        let said = self.say(deadline);
        self.judge(said)?;
        let left = self.wire.window().saturating_sub(1);
        match self.settle(left, deadline) {
            // It lies behind a payload that this end has to receive first. Nobody can wait for that here.
            Err(TransferError::Timeout) if self.has_body_ahead() => Ok(()),
            settled => self.judge(settled),
        }
    }

    /// Sends a payload, or goes on with it. If the deadline passes with some of it sent, `sending` says so.
    fn go_on_sending(
        &mut self,
        mut payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        if self.broken {
            return Err(TransferError::Broken);
        }
        let mut now = Sending {
            base: payload.memory().base().as_ptr() as usize,
            region: payload.region(),
            sent: 0,
        };
        match self.sending {
            Some(Sending { sent, .. }) => now.sent = sent,
            None => self.start_send(payload.len(), deadline)?,
        }
        if self.sending.is_some_and(|earlier| earlier != now) {
            return Err(another_is_partly_sent());
        }
        let start = Start {
            sequence: self.next_out,
            len: payload.len(),
        };
        self.wants = Wants::WRITE;
        match self
            .wire
            .carry(start, &mut payload, &mut now.sent, deadline)
        {
            Ok(carried) => {
                self.sending = None;
                Ok(self.sent(start, carried))
            }
            Err(error) => {
                self.sending = (now.sent > 0).then_some(now);
                self.judge(Err(error))
            }
        }
    }

    /// What the end of a receive tells about the next wait.
    fn note<T>(&mut self, received: &Result<T, TransferError>) {
        if received.is_ok() {
            self.wants = Wants::default();
        }
        // Waiting for room to say something is not waiting for more.
        self.drained = matches!(received, Err(TransferError::Timeout)) && self.wants.read;
    }

    /// Anything but a deadline leaves the link broken.
    fn judge<T>(&mut self, result: Result<T, TransferError>) -> Result<T, TransferError> {
        self.broken |= !matches!(result, Ok(_) | Err(TransferError::Timeout));
        result
    }
}

fn another_is_partly_sent() -> TransferError {
    TransferError::Io {
        doing: "send a payload while another is partly sent",
        source: io::ErrorKind::InvalidInput.into(),
    }
}

/// `None` for what would have to wait.
fn or_wait<T>(result: Result<T, TransferError>) -> Result<Option<T>, TransferError> {
    match result {
        Err(TransferError::Timeout) => Ok(None),
        other => other.map(Some),
    }
}

impl<W: Wire> Transfer for StreamLink<W> {
    fn send(&mut self, payload: Payload<'_>, deadline: Deadline) -> Result<Receipt, TransferError> {
        let sent = self.go_on_sending(payload, deadline.begin());
        self.broken |= matches!(sent, Err(TransferError::Timeout)) && self.sending.is_some();
        sent
    }

    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError> {
        let received = self.go_on_receiving(sink, deadline.begin());
        self.note(&received);
        if matches!(received, Err(TransferError::Timeout)) {
            self.abandon(sink);
        }
        received
    }

    /// Waits, beyond what the contract asks, for the acknowledgements of what was sent: a TCP socket that is dropped with
    /// one of them unread resets the connection, and the peer would lose what it has not read yet.
    fn close(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        if self.broken {
            return Err(TransferError::Broken);
        }
        if !self.sent_end {
            let end = Header {
                kind: Kind::End,
                sequence: 0,
                length: 0,
            };
            self.unsaid.extend(end.encode());
            self.sent_end = true;
        }
        let said = self.say(deadline);
        self.judge(said)?;
        match self.settle(0, deadline) {
            Err(TransferError::Timeout) if self.has_body_ahead() => {}
            settled => self.judge(settled)?,
        }
        self.wants = Wants::default();
        Ok(())
    }

    fn is_open(&self) -> bool {
        !self.broken
    }
}

impl<W: AsFd> AsFd for StreamLink<W> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }
}

#[cfg(test)]
mod tests;
