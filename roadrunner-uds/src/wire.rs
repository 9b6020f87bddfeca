//! A [`Wire`] over a connected UNIX stream socket.

use crate::options::Options;
use crate::segments::{surplus, Segments};
use crate::socket::Socket;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use roadrunner_core::frame::{FrameError, Header};
use roadrunner_core::stream::{write_frame, Carried, Start, Wire};
use roadrunner_core::{Deadline, Method, Payload, Region, Sink, Span, TransferError};
use roadrunner_mem::{Pump, SharedPayload, Slots};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::{fmt, io};

/// The process at the other end, as the kernel knows it (`SO_PEERCRED`, unix(7)): the one that called `connect` or
/// `listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pid: u32,
    uid: u32,
}

impl Peer {
    fn of(socket: &UnixStream) -> io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        Ok(Self {
            pid: u32::try_from(credentials.pid()).unwrap_or(0),
            uid: credentials.uid(),
        })
    }

    /// Its process id, 0 if it is not visible from here (another pid namespace).
    #[must_use]
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// Its effective user id.
    #[must_use]
    pub fn uid(self) -> u32 {
        self.uid
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of uid {}", self.pid, self.uid)
    }
}

/// A connected UNIX stream socket whose peer may be there. Payloads go straight from and into linear memory.
///
/// It belongs to one function: pages of a payload that was given away and spliced come back, with what was in them, in
/// exchange for those of a later payload from the same memory.
#[derive(Debug)]
pub struct UnixWire {
    socket: Socket,
    peer: Peer,
    /// Splices what it can, if that is asked for.
    pump: Option<Pump>,
    segments: Segments,
    /// Bytes of the smallest payload that is copied into a segment, if any is.
    segment_from: Option<u64>,
    /// Where payloads in segments are received into, during a call that brings slots.
    slots: Option<Slots>,
}

impl UnixWire {
    /// Takes over a connected socket, for example one of a pair that was passed to a child. The peer's uid is checked
    /// before a byte is read; the socket becomes non-blocking.
    ///
    /// [`Link::connect`](crate::Link::connect) or [`Link::accept`](crate::Link::accept) makes a link of it.
    ///
    /// # Errors
    /// [`Refused`](TransferError::Refused) if the peer runs as another user than `options` allow,
    /// [`Io`](TransferError::Io) if the socket cannot be set up.
    pub fn new(socket: UnixStream, options: &Options) -> Result<Self, TransferError> {
        let set_up = || -> io::Result<Peer> {
            socket.set_nonblocking(true)?;
            let bytes = options.buffer_bytes();
            setsockopt(&socket, sockopt::SndBuf, &bytes)?;
            setsockopt(&socket, sockopt::RcvBuf, &bytes)?;
            Peer::of(&socket)
        };
        let peer = set_up().map_err(|source| TransferError::Io {
            doing: "set up the socket",
            source,
        })?;
        let allowed = options.allowed_uid();
        if peer.uid() != allowed {
            return Err(TransferError::Refused(format!(
                "the peer is {peer}, and only uid {allowed} is allowed"
            )));
        }
        Ok(Self {
            socket: Socket::new(socket),
            peer,
            pump: options.pump(),
            segments: Segments::new(options.limit_bytes()),
            segment_from: options.segment_bytes(),
            slots: None,
        })
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Passes a payload that is in a segment already.
    pub(crate) fn pass(
        &mut self,
        start: Start,
        payload: &SharedPayload,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Carried, TransferError> {
        self.segments
            .pass(&mut self.socket, start, payload, sent, deadline)
    }

    pub(crate) fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Lends the slots that payloads are received into, or takes them back.
    pub(crate) fn swap_slots(&mut self, slots: Option<Slots>) -> Option<Slots> {
        std::mem::replace(&mut self.slots, slots)
    }
}

impl Wire for UnixWire {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.socket.read(into, deadline)
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.socket.write(head, body, deadline)
    }

    fn carry(
        &mut self,
        start: Start,
        payload: &mut Payload<'_>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Carried, TransferError> {
        let passes = self.segment_from.is_some_and(|from| payload.len() >= from);
        // What is partly sent by another method goes on by it.
        if passes && *sent == 0 && !self.segments.are_full() {
            if let Some(copy) = self.segments.copy_in(payload) {
                return self.pass(start, &copy, sent, deadline);
            }
        }
        if let Some(pump) = &mut self.pump {
            let spliced = pump.carry(&mut self.socket, start, payload, None, sent, deadline)?;
            if let Some(carried) = spliced {
                return Ok(carried);
            }
        }
        write_frame(self, start, payload.span()?, sent, deadline)
    }

    fn take(
        &mut self,
        start: Start,
        carried: Carried,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Option<(Region, Method, u8)>, TransferError> {
        if !matches!(carried.method, Method::Map | Method::Slot) {
            return match self.socket.take_passed() {
                None => Ok(None),
                Some(_) => Err(surplus().into()),
            };
        }
        let payload = self
            .segments
            .receive(&mut self.socket, start, carried, deadline)?;
        let method = payload.method();
        let (region, copies) = match &mut self.slots {
            Some(slots) => slots.receive(payload, sink, None)?,
            None => payload.copy_out(sink)?,
        };
        let method = if copies > 0 { Method::Copy } else { method };
        Ok(Some((region, method, copies)))
    }

    fn heard(&mut self, header: Header) -> Result<(), FrameError> {
        self.segments.heard(header)
    }

    fn due(&mut self, frames: &mut Vec<u8>) {
        self.segments.due(frames);
    }

    fn acknowledged(&mut self, sequence: u64) {
        if let Some(pump) = &mut self.pump {
            pump.acknowledge(sequence);
        }
    }
}

impl AsFd for UnixWire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
