//! What is sent when a slot is handed over.

use crate::segment::Segment;
use roadrunner_core::{Method, Region, Sink, TransferError};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// A payload in a segment that its sender cannot reach any more. It can be sent by any number of links, each of whose
/// receivers sees it as its own: writes of one are not seen by the others.
#[derive(Debug)]
pub struct SharedPayload {
    pub(super) segment: Arc<Segment>,
    pub(super) hold: Hold,
    pub(super) len: u64,
    pub(super) copies: u8,
    pub(super) trust: Option<Trust>,
}

impl SharedPayload {
    /// Bytes of the payload.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many times the CPU copied it so far: not at all if it was loaned, once if it was shared.
    #[must_use]
    pub fn copies(&self) -> u8 {
        self.copies
    }

    /// One that another process sent: `len` bytes from the start of a segment of at least as many, copied `copies` times
    /// so far. `released` is called once nobody here holds it any more.
    ///
    /// # Errors
    /// [`Refused`](TransferError::Refused) if the segment is shorter.
    pub fn received(
        segment: Arc<Segment>,
        len: u64,
        copies: u8,
        released: impl FnOnce() + Send + Sync + 'static,
    ) -> Result<Self, TransferError> {
        if len > segment.len() as u64 {
            return Err(TransferError::Refused(format!(
                "a payload of {len} bytes is said to be in a segment of {}",
                segment.len()
            )));
        }
        Ok(Self {
            segment,
            hold: Arc::new(Holding(Some(Box::new(released)))),
            len,
            copies,
            trust: None,
        })
    }

    /// The same, handed over by a trusted link, whose receiver has it mapped for good. For implementers of links.
    #[must_use]
    pub fn trusted_by(mut self, trust: Trust) -> Self {
        self.trust = Some(trust);
        self
    }

    /// Whether it was handed over to a trusted link, so that its mapping has stayed with its sender.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.trust.is_some()
    }

    /// Where it lies, from the segment's start on.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// How it leaves its sender.
    #[must_use]
    pub fn method(&self) -> Method {
        match self.copies {
            0 => Method::Slot,
            _ => Method::Map,
        }
    }

    /// The same payload for one more receiver: its segment stays as it is until all of them are dropped.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            segment: self.segment.clone(),
            hold: self.hold.clone(),
            ..*self
        }
    }

    /// Copies it into a region that it reserves in `sink`: for a receiver without [`Slots`](crate::Slots). Says where it is,
    /// and how many times it was copied here.
    ///
    /// # Errors
    /// As [`Slots::receive`](crate::Slots::receive).
    pub fn copy_out(&self, sink: &mut dyn Sink) -> Result<(Region, u8), TransferError> {
        super::received::copy_out(self, sink)
    }

    /// Whether a link of this trust may carry it: one that was handed over to a trusted link goes by that link alone.
    #[must_use]
    pub fn may_go(&self, link: Option<Trust>) -> bool {
        self.trust.is_none() || self.trust == link
    }
}

/// What a trusted link has and no other: the right to leave mappings where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust(u64);

impl Trust {
    /// For one end of a link, or both ends if they are in one process. For implementers of links, which give it to nobody
    /// but on the word of the operators of both ends.
    #[must_use]
    #[allow(clippy::new_without_default)] // trust is never there by default
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Held by everyone for whom a segment must stay as it is.
pub(super) type Hold = Arc<Holding>;

/// Does what is to be done when the last one lets go.
#[derive(Default)]
pub(super) struct Holding(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Holding {
    fn drop(&mut self) {
        if let Some(released) = self.0.take() {
            released();
        }
    }
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Holding")
    }
}
