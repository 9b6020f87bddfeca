//! A [`Wire`] over a connected UNIX stream socket.

use crate::foreign::Foreign;
use crate::options::{Options, Trusts};
use crate::ring::{Ring, SIZES};
use crate::segments::{surplus, Segments};
use crate::socket::{Route, Socket};
use crate::sys::Shared;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use roadrunner_core::frame::{FrameError, Header};
use roadrunner_core::stream::{write_all, write_frame, Carried, Start, Wire};
use roadrunner_core::{Deadline, Method, Payload, Region, Sink, Span, TransferError};
use roadrunner_mem::{Pump, Segment, SharedPayload, Slots, Trust};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    fn of(socket: &Socket) -> io::Result<Self> {
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
/// It belongs to one function: pages of a payload that was given away and spliced may come back, with what was in them, in
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
    /// Bytes of the smallest payload that is copied through the ring, if any is.
    ring_from: Option<u64>,
    ring: Offer,
    ring_size: Option<u32>,
    /// The size of the ring that was joined.
    joined: Option<u32>,
    /// What the operator of this end said, and what that means for this link, as far as it is known.
    trusts: Trusts,
    trusted: bool,
    receives_slots: bool,
    /// The way is not prescribed.
    chooses: bool,
    segment_auto: u64,
    /// Where payloads in segments are received into, during a call that brings slots.
    slots: Option<Slots>,
}

/// How far it is with the ring.
#[derive(Debug)]
enum Offer {
    /// There will be none, or there is one by now.
    Settled,
    /// One that the peer passes is joined.
    Joins,
    /// This one is passed, and is there if the peer joins it.
    Passed(Box<Ring>, u32),
}

/// Bits of a hello: a ring is passed, or was joined; and its size, as a power of two of bytes of a lane.
const RING: u64 = 1;
const RING_SIZE: u32 = 8;
const RING_SIZE_MASK: u64 = 0xFF;
/// The operator of this end trusts the peer's function.
const TRUSTED: u64 = 2;
/// Payloads in segments are mapped here.
const RECEIVES_SLOTS: u64 = 4;

impl UnixWire {
    /// Takes over a connected socket, for example one of a pair that was passed to a child. The peer's uid is checked
    /// before a byte is looked at; the socket becomes non-blocking. When the wire is dropped nothing more can be sent to the
    /// socket, even if another process has it as well.
    ///
    /// [`Link::connect`](crate::Link::connect) or [`Link::accept`](crate::Link::accept) makes a link of it.
    ///
    /// # Errors
    /// [`Refused`](TransferError::Refused) if the peer runs as another user than `options` allow,
    /// [`Io`](TransferError::Io) if the socket cannot be set up.
    pub fn new(socket: UnixStream, options: &Options) -> Result<Self, TransferError> {
        let socket = Socket::new(socket, options.spin_time());
        let set_up = || -> io::Result<Peer> {
            socket.stream().set_nonblocking(true)?;
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
            socket,
            peer,
            pump: options.pump(),
            segments: Segments::new(options.limit_bytes(), options.audience_or_new()),
            segment_from: options.segment_bytes(),
            ring_from: options.ring_bytes(),
            ring: match options.ring_size() {
                Some(_) => Offer::Joins,
                None => Offer::Settled,
            },
            ring_size: options.ring_size(),
            joined: None,
            trusted: options.trust().is_unconditional(),
            trusts: options.trust().clone(),
            receives_slots: options.has_slots(),
            chooses: options.chooses(),
            segment_auto: options.segment_auto(),
            slots: None,
        })
    }

    /// Makes a ring and passes it with the hello, unless there is to be none or the system has none to give.
    pub(crate) fn offer_ring(&mut self) {
        let Some(log) = self.ring_size else { return };
        let make = || -> io::Result<(Ring, OwnedFd)> {
            let segment = Segment::new(Ring::len(log))?;
            let ring = Ring::start(Shared::map(&segment)?, log);
            Ok((ring, segment.as_fd().try_clone_to_owned()?))
        };
        // Without, frames go through the socket.
        self.ring = Offer::Settled;
        if let Ok((ring, descriptor)) = make() {
            self.socket.pass_next(descriptor);
            self.ring = Offer::Passed(Box::new(ring), log);
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Joins the ring that came with the peer's hello.
    fn join_ring(&mut self, log: u32, descriptor: Foreign) -> Result<Option<Ring>, TransferError> {
        if !SIZES.contains(&log) {
            return Err(FrameError::Field("size of the ring").into());
        }
        let segment = descriptor.into_segment(Ring::len(log) as u64)?;
        match Shared::map(&segment) {
            Ok(shared) => Ok(Some(Ring::join(shared, log)?)),
            // Sealed by the peer, so that nobody can write to it any more; everything else is this system's trouble.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(
                TransferError::Refused(format!("a passed ring cannot be written to: {error}")),
            ),
            Err(_) => Ok(None),
        }
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
        let through_ring = self.ring_from.is_some_and(|from| payload.len() >= from);
        if through_ring && *sent == 0 && self.socket.streams(deadline) {
            let carried = Carried {
                method: Method::Copy,
                copies: u8::from(!start.is_empty()),
                acknowledge: false,
            };
            let (header, span) = (start.header(carried), payload.span()?);
            return self.socket.routed(Route::Ring, |socket| {
                write_all(socket, &header, span, sent, deadline).map(|()| carried)
            });
        }
        // On a strict link the pages do not come back, and to take others up anew costs more than splicing saves.
        let splices = !self.chooses || self.segments.trust.is_some();
        if let Some(pump) = self.pump.as_mut().filter(|_| splices) {
            let (written, before) = (self.socket.written(), *sent);
            let spliced = self.socket.routed(Route::Socket, |socket| {
                pump.carry(socket, start, payload, None, sent, deadline)
            });
            // What was spliced did not pass the socket's books.
            self.socket.set_written(written + (*sent - before));
            if let Some(carried) = spliced? {
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
            Some(slots) => slots.receive(payload, sink, self.segments.trust)?,
            None => payload.copy_out(sink)?,
        };
        let method = if copies > 0 { Method::Copy } else { method };
        Ok(Some((region, method, copies)))
    }

    fn offers(&self) -> u64 {
        let size = match (&self.ring, self.joined) {
            (Offer::Passed(_, log), _) => Some(*log),
            (_, joined) => joined,
        };
        let bit = |is: bool, bit| if is { bit } else { 0 };
        size.map_or(0, |log| RING | u64::from(log) << RING_SIZE)
            | bit(self.trusted, TRUSTED)
            | bit(self.receives_slots, RECEIVES_SLOTS)
    }

    fn meet(&mut self, name: &str, theirs: u64) -> Result<(), TransferError> {
        self.trusted = self.trusts.includes(name);
        // Not once more, if this is called again.
        if self.trusted && theirs & TRUSTED != 0 && self.segments.trust.is_none() {
            self.segments.trust = Some(Trust::new());
        }
        if self.chooses && theirs & RECEIVES_SLOTS != 0 {
            self.segment_from = Some(self.segment_auto);
        }
        let passed = self.socket.take_passed();
        let said = (theirs & RING != 0).then_some((theirs >> RING_SIZE & RING_SIZE_MASK) as u32);
        match (
            std::mem::replace(&mut self.ring, Offer::Settled),
            said,
            passed,
        ) {
            // Not asked again for what was joined already.
            (Offer::Settled, ..) if self.joined.is_some() => Ok(()),
            (Offer::Passed(ring, ours), Some(log), None) if log == ours => {
                self.socket.add(*ring);
                Ok(())
            }
            (Offer::Joins, Some(log), Some(descriptor)) => {
                if let Some(ring) = self.join_ring(log, descriptor)? {
                    self.socket.add(ring);
                    self.joined = Some(log);
                }
                Ok(())
            }
            // Without a ring; one that was passed and is not wanted is closed.
            (Offer::Settled, Some(_), _) | (_, None, None) => Ok(()),
            (_, None, Some(_)) => Err(surplus().into()),
            (_, Some(_), _) => Err(FrameError::Unexpected("a ring that was not passed").into()),
        }
    }

    fn heard(&mut self, header: Header) -> Result<(), FrameError> {
        self.segments.heard(header)
    }

    fn due(&mut self, frames: &mut Vec<u8>) {
        self.segments.due(frames);
    }

    fn acknowledged(&mut self, sequence: u64) {
        if let Some(pump) = &mut self.pump {
            pump.acknowledge(sequence, self.segments.trust.is_some());
        }
    }
}

/// From when it is asked for on, whatever comes makes the descriptor readable.
impl AsFd for UnixWire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.watch();
        self.socket.as_fd()
    }
}
