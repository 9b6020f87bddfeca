//! A link over any byte stream: the [`Transfer`] contract on top of a [`Wire`] that does the I/O.
//!
//! The crates for UNIX sockets and for TCP each bring a wire; a test brings one that breaks in every way. The state
//! machine is this one for all of them.

use crate::deadline::Deadline;
use crate::error::TransferError;
use crate::frame::{FrameError, Header, Hello, Kind, HEADER_LEN};
use crate::memory::{preferred_alignment, Sink};
use crate::payload::Payload;
use crate::receipt::{Delivery, Receipt};
use crate::region::{Region, Span};
use crate::transfer::Transfer;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

mod wire;

pub use wire::{write_all, write_frame, Carried, Start, Wire, INLINE_LIMIT};

/// One end of a link over a byte stream.
#[derive(Debug)]
pub struct StreamLink<W> {
    wire: W,
    name: String,
    limit: u64,
    next_out: u64,
    next_in: u64,
    unacknowledged: VecDeque<u64>,
    incoming: Incoming,
    sent_end: bool,
    got_end: bool,
    broken: bool,
}

/// The header that is coming in: bytes of it, or all of it while its payload waits to be received.
#[derive(Debug, Default)]
struct Incoming {
    bytes: [u8; HEADER_LEN],
    filled: usize,
    data: Option<(Header, Carried)>,
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
        let hello = Hello::new(limit, name)?;
        let mut link = Self::fresh(wire, name.to_owned(), limit);
        link.write(&hello.encode(), deadline)?;
        let theirs = link.read_hello(deadline)?;
        link.limit = limit.min(theirs.limit());
        Ok(link)
    }

    /// Opens a link from the side that accepted; its name is the one that the peer says.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn accept(wire: W, limit: u64, deadline: Deadline) -> Result<Self, TransferError> {
        let mut link = Self::fresh(wire, String::new(), limit);
        let theirs = link.read_hello(deadline)?;
        link.write(&Hello::new(limit, theirs.name())?.encode(), deadline)?;
        link.limit = limit.min(theirs.limit());
        link.name = theirs.name().to_owned();
        Ok(link)
    }

    fn fresh(wire: W, name: String, limit: u64) -> Self {
        Self {
            wire,
            name,
            limit,
            next_out: 0,
            next_in: 0,
            unacknowledged: VecDeque::new(),
            incoming: Incoming::default(),
            sent_end: false,
            got_end: false,
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

    /// Whether the header of a payload has been read already, so that [`recv`](Transfer::recv) has something to do
    /// although the descriptor may not be readable.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.incoming.data.is_some()
    }

    fn write(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), TransferError> {
        let mut sent = 0;
        write_all(&mut self.wire, bytes, Span::empty(), &mut sent, deadline)
    }

    fn read_hello(&mut self, deadline: Deadline) -> Result<Hello, TransferError> {
        let mut bytes = [0; HEADER_LEN];
        self.read_exact(Span::from_slice(&mut bytes), 0, deadline)?;
        let header = Header::decode(&bytes)?;
        let mut body = vec![0; Hello::body_len(&header)?];
        self.read_exact(Span::from_slice(&mut body), HEADER_LEN, deadline)?;
        Ok(Hello::decode_body(&body)?)
    }

    /// Fills `into`, after `before` bytes of the same frame.
    fn read_exact(
        &mut self,
        mut into: Span<'_>,
        before: usize,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        let expected = (before + into.len()) as u64;
        while !into.is_empty() {
            let got = match self.wire.read(into, deadline) {
                Ok(count) => count,
                Err(error) => match TransferError::from_io("read from the link", error) {
                    // Reset instead of shut down: to the receiver the same.
                    TransferError::PeerClosed => 0,
                    other => return Err(other),
                },
            };
            if got == 0 {
                let got = expected - into.len() as u64;
                return Err(match got {
                    0 => TransferError::PeerClosed,
                    _ => TransferError::Truncated { got, expected },
                });
            }
            into = into.split_at(got).1;
        }
        Ok(())
    }

    /// Reads one header, or goes on reading one that an earlier call did not get whole.
    fn read_header(&mut self, deadline: Deadline) -> Result<Header, TransferError> {
        while self.incoming.filled < HEADER_LEN {
            let rest = Span::from_slice(&mut self.incoming.bytes[self.incoming.filled..]);
            let error = match self.wire.read(rest, deadline) {
                Ok(0) => TransferError::PeerClosed,
                Ok(count) => {
                    self.incoming.filled += count;
                    continue;
                }
                Err(error) => TransferError::from_io("read from the link", error),
            };
            return Err(match error {
                TransferError::PeerClosed if self.incoming.filled > 0 => TransferError::Truncated {
                    got: self.incoming.filled as u64,
                    expected: HEADER_LEN as u64,
                },
                other => other,
            });
        }
        self.incoming.filled = 0;
        Ok(Header::decode(&self.incoming.bytes)?)
    }

    /// Takes in one frame that is not the body of a payload. A payload's header is kept in `incoming.data`.
    fn take_frame(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        let header = self.read_header(deadline)?;
        if self.got_end && !matches!(header.kind, Kind::Acknowledgement) {
            return Err(FrameError::Unexpected("a frame after the end").into());
        }
        match header.kind {
            Kind::Hello => Err(FrameError::Unexpected("a second hello").into()),
            Kind::End => {
                self.got_end = true;
                Ok(())
            }
            Kind::Acknowledgement => {
                if self.unacknowledged.pop_front() != Some(header.sequence) {
                    return Err(
                        FrameError::Unexpected("an acknowledgement of what was not sent").into(),
                    );
                }
                self.wire.acknowledged(header.sequence);
                Ok(())
            }
            Kind::Data {
                method,
                copies,
                acknowledge,
            } => {
                if header.sequence != self.next_in {
                    return Err(FrameError::Unexpected("a payload out of order").into());
                }
                if header.length > self.limit {
                    return Err(TransferError::TooLarge {
                        len: header.length,
                        limit: self.limit,
                    });
                }
                self.next_in += 1;
                let carried = Carried {
                    method,
                    copies,
                    acknowledge,
                };
                self.incoming.data = Some((header, carried));
                Ok(())
            }
        }
    }

    /// Takes acknowledgements until no more than `left` payloads are without one.
    fn settle(&mut self, left: usize, deadline: Deadline) -> Result<(), TransferError> {
        // Behind the header of a payload lies its body: acknowledgements beyond it have to wait for recv.
        while self.incoming.data.is_none() && !self.unacknowledged.is_empty() {
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
        let left = self.wire.window().saturating_sub(1);
        match self.settle(left, deadline) {
            // It lies behind a payload that this end has to receive first. Nobody can wait for that here.
            Err(TransferError::Timeout) if self.has_pending() => Ok(()),
            settled => self.judge(settled),
        }
    }

    fn recv_body(
        &mut self,
        sink: &mut dyn Sink,
        region: Region,
        len: u64,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        let span = region.span(sink.memory())?;
        if span.len() as u64 != len {
            return Err(TransferError::NoRoom {
                len,
                reason: format!("{} bytes were reserved", span.len()),
            });
        }
        self.read_exact(span, HEADER_LEN, deadline)
    }

    fn recv_payload(
        &mut self,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        let (header, carried) = loop {
            if let Some(data) = self.incoming.data.take() {
                break data;
            }
            if self.got_end {
                return Err(TransferError::Closed);
            }
            let taken = self.take_frame(deadline);
            self.judge(taken)?;
        };
        // From here on the body is on its way: whatever goes wrong, the stream is out of step.
        self.broken = true;
        let len = header.length;
        let region = sink.reserve(len, preferred_alignment(len))?;
        if let Err(error) = self.recv_body(sink, region, len, deadline) {
            sink.release(region);
            return Err(error);
        }
        self.broken = false;
        if carried.acknowledge {
            let acknowledgement = Header {
                kind: Kind::Acknowledgement,
                sequence: header.sequence,
                length: 0,
            };
            // The payload is here, whole; a peer that cannot be told so is the next operation's trouble. One that is gone
            // may have left more, and its end, before it went.
            let told = self.write(&acknowledgement.encode(), deadline);
            self.broken = !matches!(told, Ok(()) | Err(TransferError::PeerClosed));
        }
        let copies = carried.copies.saturating_add(u8::from(len > 0));
        Ok(Delivery::new(
            region,
            Receipt::new(len, carried.method, copies),
        ))
    }

    /// Anything but a deadline between two frames leaves the link broken.
    fn judge<T>(&mut self, result: Result<T, TransferError>) -> Result<T, TransferError> {
        self.broken |= !matches!(result, Ok(_) | Err(TransferError::Timeout));
        result
    }
}

impl<W: Wire> Transfer for StreamLink<W> {
    fn send(
        &mut self,
        mut payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        if self.broken {
            return Err(TransferError::Broken);
        }
        self.start_send(payload.len(), deadline)?;
        let start = Start {
            sequence: self.next_out,
            len: payload.len(),
        };
        let mut sent = 0;
        match self.wire.carry(start, &mut payload, &mut sent, deadline) {
            Ok(carried) => {
                self.next_out += 1;
                if carried.acknowledge {
                    self.unacknowledged.push_back(start.sequence);
                }
                Ok(Receipt::new(start.len, carried.method, carried.copies))
            }
            Err(error) => {
                self.broken |= sent > 0;
                self.judge(Err(error))
            }
        }
    }

    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError> {
        if self.broken {
            return Err(TransferError::Broken);
        }
        self.recv_payload(sink, deadline)
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
            let mut sent = 0;
            let written = write_all(
                &mut self.wire,
                &end.encode(),
                Span::empty(),
                &mut sent,
                deadline,
            );
            self.broken |= written.is_err() && sent > 0;
            self.judge(written)?;
            self.sent_end = true;
        }
        match self.settle(0, deadline) {
            Err(TransferError::Timeout) if self.has_pending() => Ok(()),
            settled => self.judge(settled),
        }
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
