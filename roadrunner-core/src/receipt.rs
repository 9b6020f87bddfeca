//! What a transfer really did.

use crate::region::Region;
use std::fmt;

/// How the bytes of a payload crossed one hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Method {
    /// Beside the frame's header, in one piece with it.
    Inline = 1,
    /// From linear memory to linear memory by the CPU.
    Copy = 2,
    /// Whole pages changed places (`mremap(2)`); heads and tails of less than a page were copied.
    Exchange = 3,
    /// The receiver maps the sender's segment.
    Map = 4,
    /// A slot that is mapped at both ends was handed over.
    Slot = 5,
    /// The kernel took references to the sender's pages (`vmsplice(2)`, `splice(2)`).
    Splice = 6,
    /// Written to a socket.
    Write = 7,
    /// Sent without a copy into the kernel (`MSG_ZEROCOPY`, io_uring `SEND_ZC`).
    ZeroCopySend = 8,
}

impl Method {
    /// Every method there is.
    pub const ALL: [Self; 8] = [
        Self::Inline,
        Self::Copy,
        Self::Exchange,
        Self::Map,
        Self::Slot,
        Self::Splice,
        Self::Write,
        Self::ZeroCopySend,
    ];

    /// The method whose number on the wire is `code`.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.code() == code)
    }

    /// Its number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Its name, as tables and JSON show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Copy => "copy",
            Self::Exchange => "exchange",
            Self::Map => "map",
            Self::Slot => "slot",
            Self::Splice => "splice",
            Self::Write => "write",
            Self::ZeroCopySend => "zero-copy-send",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What one end knows of a transfer: how many bytes, by which method, and how often the CPU copied them.
///
/// The sender's receipt counts the copies made until the payload had left it; the one in a [`Delivery`] counts those of
/// the whole hop, both ends and the kernels between. Heads and tails of less than a page are not counted, a network
/// card's own work is not either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    bytes: u64,
    method: Method,
    copies: u8,
}

impl Receipt {
    /// For a transport to hand out.
    #[inline]
    #[must_use]
    pub const fn new(bytes: u64, method: Method, copies: u8) -> Self {
        Self {
            bytes,
            method,
            copies,
        }
    }

    /// Bytes of the payload.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// The method that really ran.
    #[inline]
    #[must_use]
    pub const fn method(self) -> Method {
        self.method
    }

    /// How many times the CPU copied the payload.
    #[inline]
    #[must_use]
    pub const fn copies(self) -> u8 {
        self.copies
    }
}

/// A payload that has arrived, whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    region: Region,
    receipt: Receipt,
}

impl Delivery {
    /// For a transport to hand out.
    #[inline]
    #[must_use]
    pub const fn new(region: Region, receipt: Receipt) -> Self {
        Self { region, receipt }
    }

    /// Where it lies in the sink's memory.
    #[inline]
    #[must_use]
    pub const fn region(self) -> Region {
        self.region
    }

    /// What the whole hop did.
    #[inline]
    #[must_use]
    pub const fn receipt(self) -> Receipt {
        self.receipt
    }
}
