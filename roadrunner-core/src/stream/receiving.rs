//! The receiving half of a link.

use super::wire::{read_all, Carried, Start, Wire};
use super::{StreamLink, Wants};
use crate::deadline::Deadline;
use crate::error::TransferError;
use crate::frame::{FrameError, Header, Kind, HEADER_LEN};
use crate::memory::{preferred_alignment, Sink};
use crate::receipt::{Delivery, Receipt};
use crate::region::{Region, Span};

/// Acknowledgements that may wait until they can be sent; with more, nothing is received. More than any peer of this
/// workspace leaves unacknowledged: two ends that both have a long payload half out can say none of them, and each goes on
/// only if the other one receives all the same.
pub(super) const MOST_UNSAID: usize = 512 * HEADER_LEN;

/// The header that is coming in: bytes of it, or all of it while its payload waits to be received.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: [u8; HEADER_LEN],
    filled: u64,
    pub(super) data: Option<(Header, Carried)>,
    /// The wire has looked at that payload and found that more has to come.
    pub(super) lacks: bool,
}

/// A payload for which a region is reserved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arriving {
    sequence: u64,
    carried: Carried,
    pub(super) region: Region,
    got: u64,
}

impl<W: Wire> StreamLink<W> {
    /// To be read; and to be written to, if there is something to say.
    pub(super) fn reading(&self) -> Wants {
        Wants {
            read: true,
            write: !self.unsaid.is_empty() && self.sending.is_none(),
        }
    }

    /// Reads one header, or goes on reading one that an earlier call did not get whole.
    fn read_header(&mut self, deadline: Deadline) -> Result<Header, TransferError> {
        self.wants = self.reading();
        let Incoming { bytes, filled, .. } = &mut self.incoming;
        read_all(&mut self.wire, Span::from_slice(bytes), 0, filled, deadline)?;
        *filled = 0;
        Ok(Header::decode(bytes)?)
    }

    /// Takes in one frame that is not the body of a payload. A payload's header is kept in `incoming.data`.
    pub(super) fn take_frame(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        let header = self.read_header(deadline)?;
        let payload = matches!(header.kind, Kind::Data { .. } | Kind::End);
        if self.got_end && payload {
            return Err(FrameError::Unexpected("a payload after the end").into());
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
            Kind::Release | Kind::Retirement => Ok(self.wire.heard(header)?),
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
                self.incoming.lacks = false;
                Ok(())
            }
        }
    }

    /// Waits for the header of the next payload.
    fn next_payload(&mut self, deadline: Deadline) -> Result<(Header, Carried), TransferError> {
        // A peer that takes no acknowledgement gets no further.
        let most = if self.unsaid.len() < MOST_UNSAID {
            Deadline::now()
        } else {
            deadline
        };
        match self.say(most) {
            Err(TransferError::Timeout) if self.unsaid.len() < MOST_UNSAID => {}
            // It may have left more, and its end, before it went.
            Err(TransferError::PeerClosed) => {}
            said => self.judge(said)?,
        }
        loop {
            if let Some(data) = self.incoming.data.take() {
                return Ok(data);
            }
            if self.got_end {
                return Err(TransferError::Closed);
            }
            let taken = self.take_frame(deadline);
            self.judge(taken)?;
        }
    }

    /// Takes a payload that does not follow in the stream.
    fn take(
        &mut self,
        header: Header,
        carried: Carried,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Option<Delivery>, TransferError> {
        let start = Start {
            sequence: header.sequence,
            len: header.length,
        };
        self.wants = self.reading();
        match self.wire.take(start, carried, sink, deadline) {
            Ok(taken) => Ok(taken.map(|(region, method, copies)| {
                let copies = carried.copies.saturating_add(copies);
                Delivery::new(region, Receipt::new(header.length, method, copies))
            })),
            Err(error) => {
                self.incoming.data = Some((header, carried));
                self.incoming.lacks = matches!(error, TransferError::Timeout);
                self.judge(Err(error))
            }
        }
    }

    /// Reserves a place for a payload.
    fn reserve(
        &mut self,
        header: Header,
        carried: Carried,
        sink: &mut dyn Sink,
    ) -> Result<Arriving, TransferError> {
        let len = header.length;
        // The body is on its way: whatever goes wrong, the stream is out of step.
        let region = sink
            .reserve(len, preferred_alignment(len))
            .inspect_err(|_| self.broken = true)?;
        let checked = match region.span(sink.memory()) {
            Ok(span) if span.len() as u64 == len => Ok(()),
            Ok(span) => Err(TransferError::NoRoom {
                len,
                reason: format!("{} bytes were reserved", span.len()),
            }),
            Err(error) => Err(error),
        };
        if let Err(error) = checked {
            sink.release(region);
            self.broken = true;
            return Err(error);
        }
        Ok(Arriving {
            sequence: header.sequence,
            carried,
            region,
            got: 0,
        })
    }

    /// Receives a payload, or goes on with it. If the deadline passes with a region reserved, `arriving` says so.
    pub(super) fn go_on_receiving(
        &mut self,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        if self.broken {
            // Another operation broke it in the midst of a payload.
            self.abandon(sink);
            return Err(TransferError::Broken);
        }
        let mut arriving = match self.arriving.take() {
            Some(arriving) => arriving,
            None => {
                let (header, carried) = self.next_payload(deadline)?;
                if let Some(delivery) = self.take(header, carried, sink, deadline)? {
                    return Ok(delivery);
                }
                self.reserve(header, carried, sink)?
            }
        };
        self.wants = self.reading();
        let Arriving {
            carried, region, ..
        } = arriving;
        let brought = self
            .wire
            .bring(carried, sink, region, &mut arriving.got, deadline);
        let copies = match brought {
            Ok(copies) => copies,
            Err(error) => {
                self.arriving = Some(arriving);
                if !matches!(error, TransferError::Timeout) {
                    self.abandon(sink);
                }
                return Err(error);
            }
        };
        if carried.acknowledge {
            let acknowledgement = Header {
                kind: Kind::Acknowledgement,
                sequence: arriving.sequence,
                length: 0,
            };
            self.unsaid.extend(acknowledgement.encode());
            // The payload is here, whole; a peer that cannot be told so is the next operation's trouble. One that is gone
            // may have left more, and its end, before it went.
            match self.say(deadline) {
                Ok(()) | Err(TransferError::Timeout | TransferError::PeerClosed) => {}
                Err(_) => self.broken = true,
            }
        }
        let copies = carried.copies.saturating_add(copies);
        Ok(Delivery::new(
            region,
            Receipt::new(region.len(), carried.method, copies),
        ))
    }
}
