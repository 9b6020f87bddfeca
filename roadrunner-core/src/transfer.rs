//! The trait that every transport implements, and the contract that comes with it.

use crate::deadline::Deadline;
use crate::error::TransferError;
use crate::memory::Sink;
use crate::payload::Payload;
use crate::receipt::{Delivery, Receipt};

/// One end of a link between two functions.
///
/// # Contract
///
/// 1. **One send, one receive.** Order is kept, boundaries are kept, for every length from 0 to the link's limit
///    ([`DEFAULT_LIMIT`](crate::DEFAULT_LIMIT) unless it was opened with another).
/// 2. **Safe reuse.** When [`send`](Self::send) has returned `Ok` the source region may be overwritten at once; the
///    receiver still gets the bytes as they were.
/// 3. **All or nothing.** The receiver gets the whole payload or an error. After an error no part of it is shown to the
///    function, the destination that was reserved has been released, and [`is_open`](Self::is_open) says whether the
///    link can go on.
/// 4. **Only the payload crosses.** No neighbouring bytes of a shared page, and nothing of the receiver's old memory
///    flows back.
/// 5. **Deadlines.** Every operation returns [`Timeout`](TransferError::Timeout) soon after its deadline. Nothing hangs.
/// 6. **Bounded.** Bytes and messages in flight have a limit; beyond it `send` waits.
/// 7. **Hostile input is an error.** Offsets, lengths and frames come from guests and peers that nobody trusts: never a
///    panic, a signal, or an allocation whose size such a peer chose.
/// 8. **Death leaves nothing behind.** Whatever byte the peer dies at, the result is
///    [`PeerClosed`](TransferError::PeerClosed) or [`Truncated`](TransferError::Truncated), and no descriptor, mapping,
///    child, socket file or segment stays.
/// 9. **Honest receipts.** Bytes, the method that really ran, and how often the CPU copied the payload.
/// 10. **Nobody uninvited.** The peer's right to be there is checked before any payload.
///
/// The implementer keeps all ten; the caller may rely on all ten. Rule 2 is the one that is easy to break:
///
/// ```text
/// splice(pipe → socket)?;      // returns as soon as the socket refers to the pages …
/// return Ok(receipt);          // … so the guest now overwrites what the receiver has yet to read
/// ```
///
/// A transport that lets the kernel refer to pages takes them from the guest first (by exchange, into pages that it
/// owns), or waits for the receiver's own acknowledgement.
///
/// # Two directions
///
/// Either end may send. Both ends at once may have to wait for each other when the payloads are larger than what the
/// link holds in flight: one of them should be receiving. The deadlines end such a wait.
pub trait Transfer {
    /// Sends one payload, waiting while the link holds as much as it may.
    ///
    /// # Errors
    /// [`Timeout`](TransferError::Timeout), [`TooLarge`](TransferError::TooLarge),
    /// [`PeerClosed`](TransferError::PeerClosed), [`Closed`](TransferError::Closed) after [`close`](Self::close),
    /// [`Broken`](TransferError::Broken) after an earlier error, [`Io`](TransferError::Io).
    fn send(&mut self, payload: Payload<'_>, deadline: Deadline) -> Result<Receipt, TransferError>;

    /// Receives the next payload into a region that it reserves in `sink`.
    ///
    /// # Errors
    /// [`Closed`](TransferError::Closed) when the peer has finished; [`Timeout`](TransferError::Timeout),
    /// [`PeerClosed`](TransferError::PeerClosed), [`Truncated`](TransferError::Truncated),
    /// [`Protocol`](TransferError::Protocol), [`TooLarge`](TransferError::TooLarge); what the sink returned;
    /// [`OutOfBounds`](TransferError::OutOfBounds) if the region that it returned is not in its memory.
    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError>;

    /// Says that no payload follows from this end. What was sent before still arrives, and this end may go on to
    /// receive. Closing twice is the same as closing once; dropping an end without closing it is a peer that went away.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    fn close(&mut self, deadline: Deadline) -> Result<(), TransferError>;

    /// Whether this end can go on: no error has broken it. An end that was closed in order still counts as open.
    fn is_open(&self) -> bool;
}
