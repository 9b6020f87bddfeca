//! What is sent when a slot is handed over.

use super::Hold;
use crate::segment::Segment;
use roadrunner_core::Method;
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

    /// Where it lies, from the segment's start on.
    #[must_use]
    pub fn segment(&self) -> &Segment {
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

    /// The same payload for one more receiver.
    pub(crate) fn again(&self) -> Self {
        Self {
            segment: self.segment.clone(),
            hold: self.hold.clone(),
            ..*self
        }
    }

    /// Whether a link of this trust may carry it.
    pub(crate) fn may_go(&self, link: Option<Trust>) -> bool {
        self.trust.is_none() || self.trust == link
    }
}

/// What a trusted link has and no other: the right to leave mappings where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust(u64);

impl Trust {
    /// For one link.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
