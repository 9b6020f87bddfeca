//! What the author of a transport tells the suite.

use crate::{HostMemory, LinearMemory, Method, Transfer, TransferError, DEFAULT_LIMIT};
use std::io::{Read, Write};
use std::ops::RangeInclusive;
use std::time::Duration;

/// How to open links of one transport by one method, and what to expect of them.
///
/// Only [`name`](Self::name), [`open`](Self::open), [`expected`](Self::expected) and [`in_flight`](Self::in_flight) have
/// to be said.
pub trait Fixture: Send + Sync + 'static {
    /// One end of a link. Sent to a thread of its own, and dropped there or here.
    type Link: Transfer + Send + 'static;

    /// What is tested, as it is called in what is [skipped](crate::testing::skipped).
    fn name(&self) -> &str;

    /// Opens a link that carries payloads of up to `limit` bytes, and gives both ends.
    fn open(&self, limit: u64) -> (Self::Link, Self::Link);

    /// What the two receipts of a payload are to say.
    fn expected(&self, case: Case) -> Expected;

    /// What a link holds at most while nobody receives.
    fn in_flight(&self) -> InFlight;

    /// Lengths of payloads, in bytes, for which the method under test runs. Payloads whose receipts do not matter may
    /// have other lengths.
    fn lengths(&self) -> RangeInclusive<u64> {
        0..=DEFAULT_LIMIT
    }

    /// Whether `send` of such a payload returns only once somebody receives it.
    fn waits_for_receiver(&self, _case: Case) -> bool {
        false
    }

    /// Whether links can have another limit than [`DEFAULT_LIMIT`], for payloads that no machine has room for.
    ///
    /// # Errors
    /// That they cannot. What [`open`](Self::open) is told does not matter then.
    fn limits(&self) -> Result<(), Missing> {
        Ok(())
    }

    /// A memory of at least `len` bytes to send from.
    fn source(&self, len: u64) -> Box<dyn LinearMemory + Send> {
        Box::new(HostMemory::from(vec![0; len as usize]))
    }

    /// A memory of at least `len` bytes to receive into.
    fn destination(&self, len: u64) -> Box<dyn LinearMemory + Send> {
        Box::new(HostMemory::from(vec![0; len as usize]))
    }

    /// How late an operation may return after its deadline before it counts as hanging. Generous, because machines that
    /// run tests are busy.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// Whether an open link has descriptors of this process, so that rule 8 can see that it counts the right thing.
    fn holds_descriptors(&self) -> bool {
        false
    }

    /// An end whose peer is a plain stream of bytes, past its hello, with a limit of `limit` bytes: for peers that die
    /// at a chosen byte, that lie, and that read slowly.
    ///
    /// # Errors
    /// That or why there is no such thing.
    fn by_hand(&self, _limit: u64) -> Result<ByHand<Self::Link>, Missing> {
        Err(Missing::Skipped(
            "the fixture has no peer that speaks by hand",
        ))
    }

    /// Lets those who have no right to be there try to open a link with this transport, one way each.
    ///
    /// # Errors
    /// That or why nobody can try.
    fn strangers(&self) -> Result<Vec<Stranger<Self::Link>>, Missing> {
        Err(Missing::Skipped("the fixture lets no stranger try"))
    }
}

/// Why a part of a rule is not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The transport has nothing that it could be tried on: payloads that do not cross as a stream of bytes cannot stop
    /// at one, and a link without an address is reached by nobody. Not worth a word.
    NotApplicable,
    /// It could be tried, and is not: why, for the line that [says so](crate::testing::skipped).
    Skipped(&'static str),
}

/// A peer as a stream of bytes.
pub trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// An end of a link, and the stream that is its peer.
pub type ByHand<L> = (L, Box<dyn Stream>);

/// What a stranger tried, and what the end that it tried to reach came to.
pub type Stranger<L> = (String, Result<L, TransferError>);

/// A payload as the suite sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Bytes.
    pub len: u64,
    /// Where it starts in the sender's memory, in bytes. The receiver's is aligned as the transport asked.
    pub offset: u64,
    /// Whether it is given away.
    pub given: bool,
}

/// What the receipts of a payload are to say besides its length: method and copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// In the sender's receipt.
    pub sent: (Method, u8),
    /// In the receiver's, which counts the whole hop.
    pub delivered: (Method, u8),
}

impl Expected {
    /// The same method at both ends, and the copies that each counts.
    #[must_use]
    pub const fn by(method: Method, sent: u8, delivered: u8) -> Self {
        Self {
            sent: (method, sent),
            delivered: (method, delivered),
        }
    }
}

/// What a link holds at most, beside the one payload that passes the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// Bytes of payloads.
    pub bytes: u64,
    /// Payloads, empty ones too.
    pub messages: u64,
}
