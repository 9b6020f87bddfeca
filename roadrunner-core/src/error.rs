//! What can go wrong with a transfer, one variant per way of failing.

use crate::frame::FrameError;
use crate::region::Region;
use std::error::Error;
use std::{fmt, io};

/// Why a transfer did not happen.
///
/// Whether the link can go on afterwards is the link's to say: [`Transfer::is_open`](crate::Transfer::is_open).
#[derive(Debug)]
#[non_exhaustive]
pub enum TransferError {
    /// The deadline passed. If nothing of the payload had crossed the link goes on, else it is broken.
    Timeout,
    /// The peer said that no payload follows, and every earlier one has been received. Not a failure: the end.
    Closed,
    /// The peer went away, at the boundary of a payload, without saying that it had finished.
    PeerClosed,
    /// The peer went away in the middle of a payload.
    Truncated {
        /// Bytes of the frame that had come, header included.
        got: u64,
        /// Bytes that the frame should have had, header included.
        expected: u64,
    },
    /// The payload came whole, but not as it was sent: its checksum is another one.
    Corrupted {
        /// The checksum of what came.
        got: u32,
        /// The one that the peer sent with it.
        expected: u32,
    },
    /// An earlier error left the link in a state from which it cannot go on.
    Broken,
    /// The payload is longer than this link carries.
    TooLarge {
        /// Bytes of the payload.
        len: u64,
        /// Bytes that the link carries at most.
        limit: u64,
    },
    /// A region lies, at least in part, outside its linear memory.
    OutOfBounds {
        /// The region.
        region: Region,
        /// Bytes the memory had when it was checked.
        memory: u64,
    },
    /// The destination has no room for the payload.
    NoRoom {
        /// Bytes that were asked for.
        len: u64,
        /// Why, in the words of whoever was asked.
        reason: String,
    },
    /// The sink failed for a reason of its own, for example because the function trapped in its allocator.
    Sink(Box<dyn Error + Send + Sync>),
    /// The peer sent what is not a frame, or a frame that has no place here.
    Protocol(FrameError),
    /// The peer was turned away, or turned us away, before any payload.
    Refused(String),
    /// A system call failed.
    Io {
        /// What was being done, for example `"read from the link"`.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl TransferError {
    /// Sorts an I/O error on an established link: time that ran out, a peer that is gone, a [`FrameError`] that it was made
    /// of, or something else.
    #[must_use]
    pub fn from_io(doing: &'static str, source: io::Error) -> Self {
        let broken_rule = source.get_ref().and_then(|inner| inner.downcast_ref());
        if let Some(error) = broken_rule {
            return Self::Protocol(*error);
        }
        match source.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout,
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected => Self::PeerClosed,
            _ => Self::Io { doing, source },
        }
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => write!(f, "the deadline passed"),
            Self::Closed => write!(f, "the peer has finished: no payload follows"),
            Self::PeerClosed => write!(f, "the peer went away without finishing"),
            Self::Truncated { got, expected } => write!(
                f,
                "the peer went away in mid-payload, after {got} of {expected} bytes"
            ),
            Self::Corrupted { got, expected } => write!(
                f,
                "the payload was changed on its way: its checksum is {got:08x}, and {expected:08x} was sent with it"
            ),
            Self::Broken => write!(
                f,
                "the link is broken by an earlier error; open another one"
            ),
            Self::TooLarge { len, limit } => write!(
                f,
                "a payload of {len} bytes is more than the {limit} that this link carries"
            ),
            Self::OutOfBounds { region, memory } => write!(
                f,
                "the region {region} lies outside its linear memory of {memory} bytes"
            ),
            Self::NoRoom { len, reason } => {
                write!(f, "no room for a payload of {len} bytes: {reason}")
            }
            Self::Sink(source) => write!(f, "the destination failed: {source}"),
            Self::Protocol(source) => write!(f, "the peer broke the protocol: {source}"),
            Self::Refused(reason) => write!(f, "the link was refused: {reason}"),
            Self::Io { doing, source } => write!(f, "could not {doing}: {source}"),
        }
    }
}

impl Error for TransferError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Sink(source) => Some(source.as_ref()),
            Self::Protocol(source) => Some(source),
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<FrameError> for TransferError {
    fn from(source: FrameError) -> Self {
        Self::Protocol(source)
    }
}
