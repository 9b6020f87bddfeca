//! The ways in which payloads cross, and links that carry them so.

use crate::round::Round;
use crate::Part;
use anyhow::{Context, Result};
use roadrunner_core::{Deadline, Delivery, Method, Sink, Transfer, TransferError};
use roadrunner_mem::Slots;
use roadrunner_splice::Secret;
use roadrunner_uds::Address;
use std::fmt;

/// How payloads cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carriage {
    Inline,
    Write,
    Splice,
    /// Copied into a segment, and out of it.
    Segment,
    /// Copied into a segment, and mapped by the receiver.
    Map,
    /// Filled in a slot, and mapped by the receiver.
    Slot,
    /// Filled in a slot that stays mapped at both ends.
    TrustedSlot,
    /// Copied through the ring in pieces, and out of it.
    Ring,
    /// Sent from where it lies, which the kernel may refer to until it says otherwise.
    ZeroCopySend,
}

const UDS: &[Carriage] = &[
    Carriage::Inline,
    Carriage::Write,
    Carriage::Splice,
    Carriage::Segment,
    Carriage::Map,
    Carriage::Slot,
    Carriage::TrustedSlot,
    Carriage::Ring,
];
const NET: &[Carriage] = &[
    Carriage::Inline,
    Carriage::Write,
    Carriage::Splice,
    Carriage::ZeroCopySend,
];

impl Carriage {
    pub(crate) fn of(part: Part) -> &'static [Self] {
        match part {
            Part::Uds => UDS,
            Part::Net => NET,
            Part::Mem | Part::Session => &[],
        }
    }

    /// The shortest payload, and one more than the longest.
    pub(crate) fn lens(self) -> (u64, u64) {
        match self {
            Self::Inline => (1, 16 << 10),
            Self::Write => ((16 << 10) + 1, 3 << 20),
            // There is a whole page in it wherever it starts.
            Self::Splice => (2 << 12, 3 << 20),
            Self::ZeroCopySend => (1, 3 << 20),
            Self::Segment | Self::Map | Self::Slot | Self::TrustedSlot | Self::Ring => (1, 3 << 20),
        }
    }

    /// Whether few of its bytes pass the socket.
    pub(crate) fn is_through_memory(self) -> bool {
        matches!(
            self,
            Self::Segment | Self::Map | Self::Slot | Self::TrustedSlot | Self::Ring
        )
    }

    /// Whether the receiver maps what it gets.
    pub(crate) fn maps(self) -> bool {
        matches!(self, Self::Map | Self::Slot | Self::TrustedSlot)
    }

    /// Whether the sender fills a slot.
    pub(crate) fn loans(self) -> bool {
        matches!(self, Self::Slot | Self::TrustedSlot)
    }

    /// What a receipt may say of a payload that was carried like this.
    pub(crate) fn allows(self, method: Method) -> bool {
        match self {
            Self::Inline => method == Method::Inline,
            Self::Write => method == Method::Write,
            Self::Splice => method == Method::Splice,
            // Without a free segment it is written.
            Self::Segment => matches!(method, Method::Copy | Method::Write | Method::Inline),
            Self::Map => matches!(method, Method::Map | Method::Write | Method::Inline),
            Self::Slot | Self::TrustedSlot => method == Method::Slot,
            // Written while the receiver does not wait at the ring.
            Self::Ring => matches!(method, Method::Copy | Method::Write | Method::Inline),
            // Written where the kernel keeps account of no more (`net.core.optmem_max`, tcp(7)).
            Self::ZeroCopySend => matches!(
                method,
                Method::ZeroCopySend | Method::Write | Method::Inline
            ),
        }
    }
}

impl fmt::Display for Carriage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inline => "inline",
            Self::Write => "write",
            Self::Splice => "splice",
            Self::Segment => "segment",
            Self::Map => "map",
            Self::Slot => "slot",
            Self::TrustedSlot => "trusted slot",
            Self::Ring => "ring",
            Self::ZeroCopySend => "zero-copy send",
        })
    }
}

const NAME: &str = "soak";

/// An end of a link of either kind.
#[derive(Debug)]
pub(crate) enum Link {
    Unix(Box<roadrunner_uds::Link>),
    Tcp(Box<roadrunner_splice::Link>),
}

impl From<roadrunner_uds::Link> for Link {
    fn from(link: roadrunner_uds::Link) -> Self {
        Self::Unix(Box::new(link))
    }
}

impl From<roadrunner_splice::Link> for Link {
    fn from(link: roadrunner_splice::Link) -> Self {
        Self::Tcp(Box::new(link))
    }
}

impl Link {
    pub(crate) fn transfer(&mut self) -> &mut dyn Transfer {
        match self {
            Self::Unix(link) => &mut **link,
            Self::Tcp(link) => &mut **link,
        }
    }

    pub(crate) fn recv_with(
        &mut self,
        slots: &mut Slots,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        match self {
            Self::Unix(link) => link.recv_with(slots, sink, deadline),
            Self::Tcp(link) => link.recv(sink, deadline),
        }
    }

    pub(crate) fn connect(
        round: &Round,
        address: &str,
        deadline: Deadline,
    ) -> Result<Self, TransferError> {
        match round.part {
            Part::Net => {
                roadrunner_splice::connect(address, NAME, &tcp(round), deadline).map(Self::from)
            }
            _ => {
                let address: Address = address
                    .parse()
                    .map_err(|error| TransferError::Sink(Box::new(error)))?;
                roadrunner_uds::connect(&address, NAME, &unix(round), deadline).map(Self::from)
            }
        }
    }
}

/// A listener of either kind.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(roadrunner_uds::Listener),
    Tcp(roadrunner_splice::Listener),
}

impl Listener {
    /// At this address if it is one of a UNIX socket, and at a free port if not.
    pub(crate) fn bind(round: &Round, address: &str) -> Result<Self> {
        Ok(match round.part {
            Part::Net => Self::Tcp(roadrunner_splice::Listener::bind(
                "127.0.0.1:0",
                tcp(round),
            )?),
            _ => Self::Unix(roadrunner_uds::Listener::bind(
                address.parse().context("an address")?,
                unix(round),
            )?),
        })
    }

    pub(crate) fn address(&self) -> String {
        match self {
            Self::Unix(listener) => listener.address().to_string(),
            Self::Tcp(listener) => listener.address().to_string(),
        }
    }

    pub(crate) fn accept(&mut self, deadline: Deadline) -> Result<Link, TransferError> {
        match self {
            Self::Unix(listener) => listener.accept(deadline).map(Link::from),
            Self::Tcp(listener) => listener.accept(deadline).map(Link::from),
        }
    }
}

/// A small pipe and buffers, so that there is much to die between.
const CHUNK: usize = 64 << 10;

fn unix(round: &Round) -> roadrunner_uds::Options {
    use roadrunner_uds::Preference;
    let preference = match round.carriage {
        Carriage::Splice => Preference::Splice,
        Carriage::Segment | Carriage::Map => Preference::Segment,
        Carriage::Ring => Preference::Ring,
        _ => Preference::Write,
    };
    roadrunner_uds::Options::default()
        .prefer(preference)
        .chunk(CHUNK)
        .splice_from(0)
        .segment_from(0)
        .ring_from(0)
        .trusted(round.carriage == Carriage::TrustedSlot)
}

fn tcp(round: &Round) -> roadrunner_splice::Options {
    use roadrunner_splice::Preference;
    let preference = match round.carriage {
        Carriage::Splice => Preference::Splice,
        Carriage::ZeroCopySend => Preference::ZeroCopySend,
        _ => Preference::Write,
    };
    let options = roadrunner_splice::Options::default()
        .prefer(preference)
        .chunk(CHUNK)
        .splice_from(0);
    match Secret::from_bytes(b"known to both who are here") {
        Ok(secret) if round.secret => options.secret(secret),
        _ => options,
    }
}
