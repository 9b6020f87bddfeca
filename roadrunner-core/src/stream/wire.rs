//! What does the I/O beneath a link, and the frames that it carries.

use crate::deadline::Deadline;
use crate::error::TransferError;
use crate::frame::{Checksums, FrameError, Header, Kind, HEADER_LEN};
use crate::memory::Sink;
use crate::payload::Payload;
use crate::receipt::Method;
use crate::region::{Region, Span};
use std::io;

/// A reliable, ordered stream of bytes in both directions, with deadlines.
///
/// Every operation tries at least once before it looks at the clock, and retries `EINTR` itself. One of many steps ends at
/// its deadline also if none of them has to wait, if [`Deadline::is_over`] says so.
pub trait Wire {
    /// Reads at least one byte into `into` (which is not empty), or returns 0 at the end of the stream.
    ///
    /// # Errors
    /// [`TimedOut`](io::ErrorKind::TimedOut) if no byte came by the deadline; others as the system says.
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize>;

    /// Whether bytes have been read from the descriptor that [`read`](Self::read) has yet to return, so that it does not have
    /// to wait although the descriptor may not be readable. By default there are none.
    fn holds(&self) -> bool {
        false
    }

    /// Writes at least one byte of `head` followed by `body`, in as few system calls as possible, and says how many
    /// bytes. At least one of the two is not empty. The bytes are the kernel's own when this returns.
    ///
    /// # Errors
    /// [`TimedOut`](io::ErrorKind::TimedOut) if no byte could be written by the deadline; others as the system says.
    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize>;

    /// Sends a frame: the header from [`Start::header`], then the payload, by the method of the wire's choice. `sent`
    /// counts the bytes that the peer may have seen, also when this fails. If it fails with none sent, a given payload
    /// is where it was.
    ///
    /// After [`Timeout`](TransferError::Timeout) with some sent it may be called again for the same frame, `sent` being
    /// what it was, to go on from there.
    ///
    /// The default writes, [`Inline`](Method::Inline) or as [`Write`](Method::Write) by size.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn carry(
        &mut self,
        start: Start,
        payload: &mut Payload<'_>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Carried, TransferError> {
        write_frame(self, start, payload.span()?, sent, deadline)
    }

    /// Brings the payload of a frame whose header has been read into `region` of the sink's memory, which has its length,
    /// and says how many times the CPU copied it on this side, the kernel's copies included. `got` counts the bytes
    /// that have come.
    ///
    /// After [`Timeout`](TransferError::Timeout) it may be called again for the same frame, `got` being what it was, to
    /// go on from there.
    ///
    /// The default reads the bytes from the stream, whatever the method is.
    ///
    /// # Errors
    /// [`Truncated`](TransferError::Truncated) at the end of the stream, [`Corrupted`](TransferError::Corrupted) if the
    /// checksum is wrong, [`OutOfBounds`](TransferError::OutOfBounds) if the region does not lie within the memory, others as [`read`](Self::read).
    fn bring(
        &mut self,
        _carried: Carried,
        sink: &mut dyn Sink,
        region: Region,
        got: &mut u64,
        deadline: Deadline,
    ) -> Result<u8, TransferError> {
        read_all(self, region.span(sink.memory())?, HEADER_LEN, got, deadline)?;
        // Out of the socket's buffer; an empty payload is copied by nobody.
        Ok(u8::from(!region.is_empty()))
    }

    /// Takes a payload that does not follow its header in the stream: where it is now, by which method it came, and how many
    /// times the CPU copied it on this side. `None`, which is the default, if it follows:
    /// [`bring`](Self::bring) has to read it.
    ///
    /// After [`Timeout`](TransferError::Timeout) it may be called again for the same frame. After any other error nothing
    /// in the sink is reserved.
    ///
    /// # Errors
    /// What the sink returned; others as [`read`](Self::read).
    fn take(
        &mut self,
        _start: Start,
        _carried: Carried,
        _sink: &mut dyn Sink,
        _deadline: Deadline,
    ) -> Result<Option<(Region, Method, u8)>, TransferError> {
        Ok(None)
    }

    /// What this end says about checksums before there is a link. The default has none.
    fn checksums(&self) -> Checksums {
        Checksums::Unable
    }

    /// The link is opened, with checksums or without: [`carry`](Self::carry) and [`bring`](Self::bring) send and check
    /// them.
    fn opened(&mut self, _checksums: bool) {}

    /// What this end can do beside what every link can, for its hello: a set of bits whose meaning is the transport's. On
    /// the side that accepts it is asked for after [`meet`](Self::meet). By default nothing.
    fn offers(&self) -> u64 {
        0
    }

    /// The peer's hello is here, for a link of this name. Of what it offers this end ignores what it does not know. It may be
    /// called again, with the same, before the link is open.
    ///
    /// # Errors
    /// What is wrong with an offer.
    fn meet(&mut self, _name: &str, _offers: u64) -> Result<(), TransferError> {
        Ok(())
    }

    /// Something that the peer said beside payloads and that is about segments: [`Kind::Release`] or
    /// [`Kind::Retirement`].
    ///
    /// # Errors
    /// [`Unexpected`](FrameError::Unexpected) if it makes no sense; the default knows no segments.
    fn heard(&mut self, _header: Header) -> Result<(), FrameError> {
        Err(FrameError::Unexpected("a word about segments"))
    }

    /// Adds to `frames` what is to be said beside payloads. Called before something is sent or received.
    fn due(&mut self, _frames: &mut Vec<u8>) {}

    /// The peer has received the payload of this sequence number, which was carried with `acknowledge` set.
    fn acknowledged(&mut self, _sequence: u64) {}

    /// How many payloads may be unacknowledged at a time. At least 1. Beyond it `send` waits; unless the acknowledgement
    /// lies behind a payload that this end has to receive first: then [`carry`](Self::carry) has to do without another.
    fn window(&self) -> usize {
        1
    }
}

/// Payloads of up to this many bytes go in one piece with their header.
pub const INLINE_LIMIT: u64 = 16 << 10;

/// What a frame starts with, before it is known how it will be carried.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub(super) sequence: u64,
    pub(super) len: u64,
}

impl Start {
    /// The number of the payload on this link.
    #[must_use]
    pub fn sequence(self) -> u64 {
        self.sequence
    }

    /// Bytes of the payload.
    #[must_use]
    pub fn len(self) -> u64 {
        self.len
    }

    /// Whether the payload has no byte.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The header for a frame that is carried like this.
    #[must_use]
    pub fn header(self, carried: Carried) -> [u8; HEADER_LEN] {
        let Carried {
            method,
            copies,
            acknowledge,
        } = carried;
        Header {
            kind: Kind::Data {
                method,
                copies,
                acknowledge,
            },
            sequence: self.sequence,
            length: self.len,
        }
        .encode()
    }
}

/// How a frame was carried.
#[derive(Debug, Clone, Copy)]
pub struct Carried {
    /// The method.
    pub method: Method,
    /// Copies made on the sender's side, the kernel's included.
    pub copies: u8,
    /// Whether the receiver is to acknowledge it.
    pub acknowledge: bool,
}

impl Carried {
    /// As a frame is carried that is written: [`Inline`](Method::Inline) or as [`Write`](Method::Write) by size.
    #[must_use]
    pub fn written(start: Start) -> Self {
        Self {
            method: if start.len() <= INLINE_LIMIT {
                Method::Inline
            } else {
                Method::Write
            },
            // Into the socket's buffer; an empty payload is copied by nobody.
            copies: u8::from(!start.is_empty()),
            acknowledge: false,
        }
    }
}

/// Sends a frame by writing it, [`Inline`](Method::Inline) or as [`Write`](Method::Write) by size: what [`Wire::carry`]
/// does unless the wire has a better way, and what a wire that has one does when it cannot be taken.
///
/// # Errors
/// As [`Wire::write`].
pub fn write_frame<W: Wire + ?Sized>(
    wire: &mut W,
    start: Start,
    payload: Span<'_>,
    sent: &mut u64,
    deadline: Deadline,
) -> Result<Carried, TransferError> {
    let carried = Carried::written(start);
    write_all(wire, &start.header(carried), payload, sent, deadline)?;
    Ok(carried)
}

/// Whether an operation of so many bytes is over though it gets on: few bytes do not take long.
fn is_over(bytes: u64, deadline: Deadline) -> bool {
    bytes > INLINE_LIMIT && deadline.is_over()
}

/// Writes what follows the first `sent` bytes of `head` and `body`, counting in `sent` what the peer may have seen.
///
/// # Errors
/// As [`Wire::write`]; [`Timeout`](TransferError::Timeout) also if the deadline passes while the peer takes more and more.
pub fn write_all<W: Wire + ?Sized>(
    wire: &mut W,
    head: &[u8],
    body: Span<'_>,
    sent: &mut u64,
    deadline: Deadline,
) -> Result<(), TransferError> {
    let all = (head.len() + body.len()) as u64;
    while *sent < all {
        // Less than the length of both.
        let done = *sent as usize;
        let of_head = done.min(head.len());
        let (_, body) = body.split_at(done - of_head);
        let written = wire
            .write(&head[of_head..], body, deadline)
            .map_err(|error| TransferError::from_io("write to the link", error))?;
        *sent += written as u64;
        if *sent < all && is_over(all, deadline) {
            return Err(TransferError::Timeout);
        }
    }
    Ok(())
}

/// Fills what follows the first `got` bytes of `into`, counting in `got` what has come. They follow `before` bytes of
/// the same frame.
///
/// # Errors
/// At the end of the stream [`PeerClosed`](TransferError::PeerClosed) if nothing of the frame has come, and
/// [`Truncated`](TransferError::Truncated) if something has; [`Timeout`](TransferError::Timeout) also if the deadline passes
/// while more and more comes; others as [`Wire::read`].
pub fn read_all<W: Wire + ?Sized>(
    wire: &mut W,
    into: Span<'_>,
    before: usize,
    got: &mut u64,
    deadline: Deadline,
) -> Result<(), TransferError> {
    let expected = into.len() as u64;
    while *got < expected {
        // Less than the length of a span.
        let (_, rest) = into.split_at(*got as usize);
        let count = match wire.read(rest, deadline) {
            Ok(count) => count,
            Err(error) => match TransferError::from_io("read from the link", error) {
                // Reset instead of shut down: to the receiver the same.
                TransferError::PeerClosed => 0,
                other => return Err(other),
            },
        };
        if count == 0 {
            let before = before as u64;
            return Err(match before + *got {
                0 => TransferError::PeerClosed,
                got => TransferError::Truncated {
                    got,
                    expected: before + expected,
                },
            });
        }
        *got += count as u64;
        if *got < expected && is_over(expected, deadline) {
            return Err(TransferError::Timeout);
        }
    }
    Ok(())
}
