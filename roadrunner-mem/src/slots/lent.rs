//! The sender's side of a slot.

use super::payload::{Hold, SharedPayload, Trust};
use super::{failed, Place};
use crate::segment::{Audience, Segment};
use crate::sys::{clear, is_touched, Sharing, View};
use roadrunner_core::{LinearMemory, Region, Span, TransferError};
use std::io;
use std::sync::Arc;

/// A segment that was made here.
#[derive(Debug)]
pub(super) struct Lent {
    segment: Arc<Segment>,
    hold: Hold,
    /// Where in the memory it is, or goes when it is loaned.
    pub(super) place: Option<Place>,
    /// Its writable mapping, unless that is in its place.
    view: Option<View>,
    pub(super) loaned: bool,
    /// The link whose receiver has it mapped for good.
    trust: Option<Trust>,
    /// Its place was left without a page when it was handed over, and has not been looked at since.
    left_empty: bool,
}

impl Lent {
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let segment = Segment::new(len)?;
        Ok(Self {
            view: Some(View::new(&segment, Sharing::Shared)?),
            segment: Arc::new(segment),
            hold: Hold::default(),
            place: None,
            loaned: false,
            trust: None,
            left_empty: false,
        })
    }

    pub(super) fn segment(&self) -> &Segment {
        &self.segment
    }

    pub(super) fn len(&self) -> usize {
        self.segment.len()
    }

    /// Whether no receiver has it, nor will get it.
    pub(super) fn is_back(&mut self) -> bool {
        // Unlike a look at the count alone, this sees all that the last holder did with it.
        Arc::get_mut(&mut self.hold).is_some()
    }

    /// Whether anybody may have it next.
    pub(super) fn is_free(&mut self) -> bool {
        !self.loaned && self.is_back()
    }

    /// Whether it can be filled for this audience, or for the own process.
    pub(super) fn is_free_for(&mut self, audience: Option<Audience>) -> bool {
        self.segment.is_seen_by(audience) && self.is_free()
    }

    /// Whether it is in no linear memory, as far as this end goes, and in no receiver's for good.
    pub(super) fn is_parked(&self) -> bool {
        self.view.is_some() && self.trust.is_none()
    }

    /// Whether the function has it on loan, where `region` starts, with room for as much.
    pub(super) fn is_loaned(&self, region: Region) -> bool {
        let fits =
            |place: Place| place.offset == region.offset() && region.len() <= place.len as u64;
        self.loaned && self.place.is_some_and(fits)
    }

    /// Puts it in its place, on loan for `len` bytes. `None` if the system refuses; then it is where it was.
    pub(super) fn lend(&mut self, memory: &mut dyn LinearMemory, len: u64) -> Option<Region> {
        let place = self.place?;
        if let Some(view) = self.view.take() {
            let Ok(span) = place.span(memory) else {
                self.view = Some(view);
                return None;
            };
            if let Err(view) = view.put(span) {
                self.view = Some(view);
                return None;
            }
            self.left_empty = false;
        }
        self.loaned = true;
        Some(Region::new(place.offset, len))
    }

    /// Takes it out of the memory although a receiver has it for good; whether it is parked then.
    pub(super) fn withdraw(&mut self, memory: &mut dyn LinearMemory) -> bool {
        if let (None, Some(place)) = (&self.view, self.place) {
            self.view = place
                .span(memory)
                .ok()
                .and_then(|span| View::take(span).ok());
        }
        self.view.is_some()
    }

    /// Whether it was handed over, starting where `region` does, and is not on loan again.
    pub(super) fn was_at(&self, region: Region) -> bool {
        let starts_there = |place: Place| place.offset == region.offset();
        !self.loaned && self.place.is_some_and(starts_there)
    }

    /// Whether the function has written to its place since the slot was handed over; says so once.
    pub(super) fn written_after(&mut self, memory: &mut dyn LinearMemory) -> bool {
        let place = self.place.filter(|_| self.left_empty);
        let touched = place
            .and_then(|place| place.span(memory).ok())
            .is_some_and(is_touched);
        self.left_empty &= !touched;
        touched
    }

    pub(super) fn end_loan(&mut self) {
        self.loaned = false;
    }

    pub(super) fn hand_over(
        &mut self,
        memory: &mut dyn LinearMemory,
        len: u64,
        trust: Option<Trust>,
    ) -> Result<Option<SharedPayload>, TransferError> {
        // Who once had it for good must not see what others get.
        if self.trust.is_some() && self.trust != trust {
            return Ok(None);
        }
        let Some(place) = self.place else {
            return Ok(None);
        };
        let span = place.span(memory)?;
        if trust.is_none() {
            // A trusted receiver sees whatever is written here anyway.
            clear(span.split_at(len as usize).1);
            let taken = View::take(span).map_err(|errno| failed("take a slot back", errno.into()));
            self.view = Some(taken?);
            self.left_empty = true;
        }
        self.loaned = false;
        self.trust = trust;
        Ok(Some(self.payload(len, 0)))
    }

    /// Copies a payload into it.
    pub(super) fn fill(&mut self, source: Span<'_>) -> Result<SharedPayload, TransferError> {
        let Some(view) = &mut self.view else {
            return Err(TransferError::NoRoom {
                len: source.len() as u64,
                reason: "the segment is in use".to_owned(),
            });
        };
        let (payload, rest) = view.span().split_at(source.len());
        payload.copy_past_caches_from(source);
        clear(rest);
        Ok(self.payload(source.len() as u64, 1))
    }

    fn payload(&self, len: u64, copies: u8) -> SharedPayload {
        SharedPayload {
            segment: self.segment.clone(),
            hold: self.hold.clone(),
            len,
            copies,
            trust: self.trust,
        }
    }
}

/// Whether `len` bytes go into `room` without wasting more than they take, or than a large page.
pub(super) fn fits(room: usize, len: usize) -> bool {
    len <= room && room <= len.saturating_mul(2).max(crate::sys::PAGE)
}

/// The smallest one that fits and is `right`.
pub(super) fn best(
    all: &mut [Lent],
    len: usize,
    mut right: impl FnMut(&mut Lent) -> bool,
) -> Option<usize> {
    all.iter_mut()
        .enumerate()
        .filter_map(|(at, lent)| (fits(lent.len(), len) && right(lent)).then(|| (lent.len(), at)))
        .min()
        .map(|(_, at)| at)
}
