//! Links, and the side that connects.

use crate::address::Address;
use crate::bind::try_connect;
use crate::options::Options;
use crate::wire::UnixWire;
use roadrunner_core::stream::{StreamLink, Wants};
use roadrunner_core::{Deadline, Delivery, Payload, Receipt, Sink, Transfer, TransferError};
use roadrunner_mem::{Audience, Served, SharedPayload, SlotTransfer, Slots, Trust};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::{io, thread};

/// One end of a link between two processes of one host. [`wire`](Self::wire) says who is at the other end.
///
/// It belongs to one function: pages of a payload that was given away and spliced may come back, with what was in them, in
/// exchange for those of a later payload from the same memory.
#[derive(Debug)]
pub struct Link(StreamLink<UnixWire>);

impl Link {
    /// Opens a link named `name` from the side that connected, taking payloads of up to `limit` bytes.
    ///
    /// # Errors
    /// As [`StreamLink::connect`].
    pub fn connect(
        mut wire: UnixWire,
        name: &str,
        limit: u64,
        deadline: Deadline,
    ) -> Result<Self, TransferError> {
        wire.offer_ring();
        StreamLink::connect(wire, name, limit, deadline).map(Self)
    }

    /// Opens a link from the side that accepted; its name is the one that the peer says.
    ///
    /// # Errors
    /// As [`StreamLink::connect`].
    pub fn accept(wire: UnixWire, limit: u64, deadline: Deadline) -> Result<Self, TransferError> {
        StreamLink::accept(wire, limit, deadline).map(Self)
    }

    pub(crate) fn of(link: StreamLink<UnixWire>) -> Self {
        Self(link)
    }

    /// Nobody waits for the descriptor.
    pub(crate) fn unwatch(&self) {
        self.wire().socket().unwatch();
    }

    /// The name that the connecting side gave the link. It comes from the peer.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Bytes of the longest payload that both sides take.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.0.limit()
    }

    /// The stream beneath.
    #[must_use]
    pub fn wire(&self) -> &UnixWire {
        self.0.wire()
    }

    /// Whether [`recv`](Transfer::recv) has something to do although the descriptor may not be readable: the header of a
    /// payload has been read already, or something is in the ring. To be asked before the descriptor is waited for.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.0.has_pending() || self.wire().socket().has_something()
    }

    /// What to wait for before what could not be done without waiting is tried again.
    #[must_use]
    pub fn wants(&self) -> Wants {
        self.0.wants()
    }

    /// Whether the last receive took all there was and waits for more; see [`StreamLink::is_drained`].
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.0.is_drained()
    }

    /// Sends a payload as far as that goes without waiting; see [`StreamLink::try_send`].
    ///
    /// # Errors
    /// As [`StreamLink::try_send`].
    pub fn try_send(&mut self, payload: Payload<'_>) -> Result<Option<Receipt>, TransferError> {
        self.hear_releases()?;
        self.0.try_send(payload)
    }

    /// Receives the next payload as far as that goes without waiting; see [`StreamLink::try_recv`].
    ///
    /// # Errors
    /// As [`recv`](Transfer::recv).
    pub fn try_recv(&mut self, sink: &mut dyn Sink) -> Result<Option<Delivery>, TransferError> {
        self.0.try_recv(sink)
    }

    /// Closes this end as far as that goes without waiting; see [`StreamLink::try_close`].
    ///
    /// # Errors
    /// As [`close`](Transfer::close).
    pub fn try_close(&mut self) -> Result<bool, TransferError> {
        self.0.try_close()
    }

    /// Gives up a payload that [`try_recv`](Self::try_recv) has begun to receive; see [`StreamLink::abandon`].
    pub fn abandon(&mut self, sink: &mut dyn Sink) {
        self.0.abandon(sink);
    }

    /// Takes in what the peer says beside payloads, such as which segments it is done with, until it has said something or
    /// the deadline passes; see [`StreamLink::listen`].
    ///
    /// # Errors
    /// As [`recv`](Transfer::recv).
    pub fn listen(&mut self, deadline: Deadline) -> Result<bool, TransferError> {
        self.0.listen(deadline)
    }

    /// The process at the other end, as far as segments go: [`Slots::for_audience`] makes slots that go to it alone, and
    /// come back to be used again.
    #[must_use]
    pub fn audience(&self) -> Audience {
        self.wire().segments().audience()
    }

    /// What [`Slots::hand_over`] needs to leave mappings where they are: then a handover takes the same time whatever is in
    /// it, and the receiver sees, and can change, what is in the slot at any time. `None` unless both ends were told that
    /// they are [trusted](Options::trusted).
    #[must_use]
    pub fn trust(&self) -> Option<Trust> {
        self.wire().segments().trust
    }

    /// Sends a payload that is in a segment ([`Slots::share`], [`Slots::hand_over`]), which the receiver maps or copies. It stays the caller's
    /// as well, to be sent by other links, or dropped: many receivers, one segment.
    ///
    /// Up to 64 payloads may be with the receiver at a time; then this waits until it has released one.
    ///
    /// # Errors
    /// As [`send`](Transfer::send); [`Refused`](TransferError::Refused) for a payload that was handed over to a trusted
    /// link.
    pub fn send_shared(
        &mut self,
        payload: &SharedPayload,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        if !payload.may_go(self.trust()) {
            return Err(TransferError::Refused(
                "the payload was handed over for another link, whose receiver still reaches it"
                    .to_owned(),
            ));
        }
        self.hear_releases()?;
        while self.wire().segments().are_full() {
            if !self.0.listen(deadline)? {
                return Err(TransferError::Timeout);
            }
        }
        self.0
            .send_by(payload.len(), deadline, |wire, start, sent, deadline| {
                wire.pass(start, payload, sent, deadline)
            })
    }

    /// Receives like [`recv`](Transfer::recv), and maps what was sent in a segment into the sink's memory, whose slots
    /// these are. Such a region is given back by [`Slots::release`]; the sender is told with the next operation on this
    /// link.
    ///
    /// # Errors
    /// As for [`recv`](Transfer::recv).
    pub fn recv_with(
        &mut self,
        slots: &mut Slots,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        self.with(slots, |link| link.recv(sink, deadline))
    }

    /// Receives like [`recv_with`](Self::recv_with), as far as that goes without waiting.
    ///
    /// # Errors
    /// As for [`recv`](Transfer::recv).
    pub fn try_recv_with(
        &mut self,
        slots: &mut Slots,
        sink: &mut dyn Sink,
    ) -> Result<Option<Delivery>, TransferError> {
        self.with(slots, |link| link.try_recv(sink))
    }

    /// Hears which segments are free again, if any are away.
    fn hear_releases(&mut self) -> Result<(), TransferError> {
        while self.wire().segments().are_out() && self.0.listen(Deadline::now())? {}
        Ok(())
    }

    /// Lends the wire the slots for one operation.
    fn with<T>(
        &mut self,
        slots: &mut Slots,
        operation: impl FnOnce(&mut StreamLink<UnixWire>) -> T,
    ) -> T {
        self.0.wire_mut().swap_slots(Some(std::mem::take(slots)));
        let lent = Lent(&mut self.0, slots);
        operation(&mut *lent.0)
    }
}

/// Slots that the wire has for one operation. They go back also if a sink panics: dropped before their memory, they would let
/// go of what is still mapped there.
struct Lent<'a>(&'a mut StreamLink<UnixWire>, &'a mut Slots);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        *self.1 = self.0.wire_mut().swap_slots(None).unwrap_or_default();
    }
}

impl Transfer for Link {
    fn send(&mut self, payload: Payload<'_>, deadline: Deadline) -> Result<Receipt, TransferError> {
        self.hear_releases()?;
        self.0.send(payload, deadline)
    }

    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError> {
        self.0.recv(sink, deadline)
    }

    fn close(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        self.0.close(deadline)
    }

    fn is_open(&self) -> bool {
        self.0.is_open()
    }
}

impl SlotTransfer for Link {
    fn send_shared(
        &mut self,
        payload: &SharedPayload,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        self.send_shared(payload, deadline)
    }

    fn recv_with(
        &mut self,
        slots: &mut Slots,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        self.recv_with(slots, sink, deadline)
    }

    fn trust(&self) -> Option<Trust> {
        self.trust()
    }
}

/// For event loops that ask for it, such as tokio's `AsyncFd`.
impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Served for Link {
    fn has_pending(&self) -> bool {
        self.has_pending()
    }

    fn wants(&self) -> Wants {
        self.wants()
    }

    fn is_drained(&self) -> bool {
        self.0.is_drained()
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
const PAIR_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the listener at `address` and opens a link named `name` (at most 255 bytes).
///
/// While nobody listens there, because the other side has not started yet, it tries again, with growing pauses of up
/// to 50 ms, until the deadline.
///
/// # Errors
/// [`Io`](TransferError::Io) that names the address, of the kind [`TimedOut`](io::ErrorKind::TimedOut) if nobody
/// listened by the deadline; [`Refused`](TransferError::Refused) if the listener runs as a user who is not allowed;
/// [`PeerClosed`](TransferError::PeerClosed) if it turned us away; what [`Link::connect`] returned.
pub fn connect(
    address: &Address,
    name: &str,
    options: &Options,
    deadline: Deadline,
) -> Result<Link, TransferError> {
    let mut pause = FIRST_PAUSE;
    let socket = loop {
        let error = match try_connect(address) {
            Ok(socket) => break socket,
            Err(error) => error,
        };
        if !matches!(
            error.kind(),
            io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
        ) {
            return Err(at(address, "connect", error));
        }
        let Some(left) = deadline.remaining() else {
            let reason = format!(
                "nobody accepts there ({error}); start the receiving side first, or allow more time"
            );
            let late = io::Error::new(io::ErrorKind::TimedOut, reason);
            return Err(at(address, "connect", late));
        };
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    let wire = UnixWire::new(UnixStream::from(socket), options)?;
    Link::connect(wire, name, options.limit_bytes(), deadline)
}

/// The two ends of a link within this process (socketpair(2)). For handing one end to a child there is
/// [`UnixWire::new`], on both sides.
///
/// # Errors
/// As [`UnixWire::new`]; [`Protocol`](TransferError::Protocol) if the name is longer than 255 bytes.
pub fn pair(name: &str, options: &Options) -> Result<(Link, Link), TransferError> {
    let (a, b) = UnixStream::pair().map_err(|source| TransferError::Io {
        doing: "make a pair of sockets",
        source,
    })?;
    let (a, b) = (UnixWire::new(a, options)?, UnixWire::new(b, options)?);
    let (limit, deadline) = (options.limit_bytes(), Deadline::after(PAIR_TIMEOUT));
    // Either end waits for the other's hello.
    thread::scope(|scope| {
        let other = thread::Builder::new()
            .spawn_scoped(scope, || Link::accept(b, limit, deadline))
            .map_err(|source| TransferError::Io {
                doing: "start a thread for the other end of a pair",
                source,
            })?;
        let one = Link::connect(a, name, limit, deadline);
        let other = other.join().unwrap_or(Err(TransferError::Broken));
        Ok((one?, other?))
    })
}

/// An error about an address, which is named in it.
pub(crate) fn at(address: &Address, doing: &'static str, error: io::Error) -> TransferError {
    TransferError::Io {
        doing,
        source: io::Error::new(error.kind(), format!("{address}: {error}")),
    }
}
