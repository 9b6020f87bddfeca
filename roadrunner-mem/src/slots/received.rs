//! The receiver's side of a slot.

use super::payload::{SharedPayload, Trust};
use super::{failed, Place, Slots};
use crate::budget;
use crate::segment::Segment;
use crate::sys::{Sharing, View, PAGE};
use crate::transfer::receive_into;
use nix::libc::c_long;
use nix::sys::resource::{getrusage, UsageWho};
use roadrunner_core::memory::preferred_alignment;
use roadrunner_core::{LinearMemory, Method, Region, Sink, TransferError};
use std::sync::{Arc, Weak};

/// A view of somebody else's segment.
#[derive(Debug)]
pub(super) struct Received {
    id: u64,
    segment: Weak<Segment>,
    sharing: Sharing,
    /// The mapping, unless it is in its place.
    view: Option<View>,
    /// Where in the memory the view is.
    pub(super) place: Option<Place>,
    /// What the function holds now.
    payload: Option<SharedPayload>,
    /// Page faults of the process when the view last showed the segment and nothing else.
    clean_at: Option<c_long>,
}

/// Page faults of this process so far. A page of a private view becomes its own by one of them: as long as there was
/// none, nothing was written to it (mmap(2) `MAP_PRIVATE`, getrusage(2) `ru_minflt`, `ru_majflt`).
fn page_faults() -> Option<c_long> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    usage
        .minor_page_faults()
        .checked_add(usage.major_page_faults())
}

/// Bytes of a payload that may be mapped ahead: none if there are holes in its segment. To fill those takes memory and
/// time, for what the function may never look at.
fn warm(payload: &SharedPayload) -> usize {
    // No longer than its segment.
    let len = payload.len as usize;
    if payload.segment.is_filled(len) {
        len
    } else {
        0
    }
}

impl Received {
    fn new(payload: &SharedPayload, sharing: Sharing) -> Result<Self, TransferError> {
        let segment = &payload.segment;
        let mut view =
            View::new(segment, sharing).map_err(|error| failed("map a segment", error))?;
        if payload.method() == Method::Slot {
            view.warm_up(warm(payload));
        }
        Ok(Self {
            id: segment.id(),
            segment: Arc::downgrade(segment),
            sharing,
            view: Some(view),
            place: None,
            payload: None,
            clean_at: None,
        })
    }

    pub(super) fn is_held(&self) -> bool {
        self.payload.is_some()
    }

    pub(super) fn is_held_at(&self, offset: u64) -> bool {
        self.is_held() && self.place.is_some_and(|place| place.offset == offset)
    }

    /// Whether it is in no linear memory.
    pub(super) fn is_parked(&self) -> bool {
        self.view.is_some()
    }

    /// Whether nothing will ever come in it again: its segment is gone, or its mapping is.
    pub(super) fn is_orphan(&self) -> bool {
        self.segment.strong_count() == 0 || (self.view.is_none() && self.place.is_none())
    }

    /// Ends what the function holds. Gives the place, if it is free for something else.
    pub(super) fn release(
        &mut self,
        memory: &mut dyn LinearMemory,
    ) -> Result<Option<Place>, TransferError> {
        let freed = match self.sharing {
            Sharing::Shared => None,
            Sharing::Private => {
                self.take_out(memory)?;
                self.place.take()
            }
        };
        // Only now may its sender write to it again.
        self.payload = None;
        Ok(freed)
    }

    fn take_out(&mut self, memory: &mut dyn LinearMemory) -> Result<(), TransferError> {
        if let (Some(place), None) = (self.place, &self.view) {
            let taken = View::take(place.span(memory)?);
            let view = taken.map_err(|errno| failed("take a slot out", errno.into()))?;
            let untouched = self.clean_at.is_some() && self.clean_at == page_faults();
            self.view = if self.sharing == Sharing::Private && !untouched {
                // One that cannot forget what was written to it is not used again.
                view.refresh(self.payload.as_ref().map_or(0, warm))
            } else {
                Some(view)
            };
        }
        Ok(())
    }

    /// Takes it out of the memory, to be dropped; whether that worked.
    pub(super) fn clear(&mut self, memory: &mut dyn LinearMemory) -> bool {
        self.take_out(memory).is_ok()
    }
}

/// Brings a payload into the sink's memory: mapped if that can be, else copied. Says where it is, and how many times it was
/// copied here.
pub(super) fn receive(
    slots: &mut Slots,
    payload: SharedPayload,
    sink: &mut dyn Sink,
    trust: Option<Trust>,
) -> Result<(Region, u8), TransferError> {
    slots.drop_orphans(sink.memory());
    let sharing = match payload.trust {
        Some(_) if payload.trust == trust => Sharing::Shared,
        _ => Sharing::Private,
    };
    let id = payload.segment.id();
    let ready = |one: &Received| {
        one.id == id && one.sharing == sharing && !one.is_held() && !one.is_orphan()
    };
    let at = match slots.received.iter().position(ready) {
        Some(at) => at,
        None => match Received::new(&payload, sharing) {
            Ok(received) => {
                slots.received.push(received);
                slots.received.len() - 1
            }
            Err(_) => return copy_out(&payload, sink),
        },
    };
    let region = |place: Place| Region::new(place.offset, payload.len);
    if let (None, Some(place)) = (&slots.received[at].view, slots.received[at].place) {
        // A trusted one, where it always is.
        slots.received[at].payload = Some(payload.again());
        return Ok((region(place), 0));
    }
    let Some(place) = find_place(slots, &payload, sink)? else {
        return copy_out(&payload, sink);
    };
    let received = &mut slots.received[at];
    let put = match received.view.take() {
        Some(view) => match place.span(sink.memory()) {
            Ok(span) => view.put(span),
            Err(_) => Err(view),
        },
        None => Ok(()),
    };
    match put {
        Ok(()) => {
            received.place = Some(place);
            received.payload = Some(payload.again());
            received.clean_at = page_faults();
            Ok((region(place), 0))
        }
        Err(view) => {
            received.view = Some(view);
            slots.spare.push(place);
            copy_out(&payload, sink)
        }
    }
}

/// Whole pages for the segment: kept ones, or new ones from the sink. `None` if a view cannot be there, or the process has no
/// mappings left for it.
fn find_place(
    slots: &mut Slots,
    payload: &SharedPayload,
    sink: &mut dyn Sink,
) -> Result<Option<Place>, TransferError> {
    let len = payload.segment.len();
    if let Some(at) = slots.spare.iter().position(|place| place.len == len) {
        return Ok(Some(slots.spare.swap_remove(at)));
    }
    // A new place may leave mappings behind, wherever the function wants it next time.
    if !budget::allows() {
        return Ok(None);
    }
    let align = preferred_alignment(len as u64).max(PAGE as u64);
    let region = sink.reserve(len as u64, align)?;
    let place = Place::of(sink.memory(), region);
    match place {
        Ok(Some(place)) if !slots.overlaps(region) && place.len == len => Ok(Some(place)),
        _ => {
            sink.release(region);
            Ok(None)
        }
    }
}

/// Copies a payload out of its segment, for a receiver in whose memory it cannot be mapped.
pub(super) fn copy_out(
    payload: &SharedPayload,
    sink: &mut dyn Sink,
) -> Result<(Region, u8), TransferError> {
    let mut view = View::new(&payload.segment, Sharing::Private)
        .map_err(|error| failed("map a segment", error))?;
    let region = sink.reserve(payload.len, preferred_alignment(payload.len))?;
    receive_into(sink, region, payload.len, |sink| {
        // The segment is at least as long as the payload: `hand_over` and `share` made it so.
        let bytes = view.span().split_at(payload.len as usize).0;
        region.span(sink.memory())?.copy_from(bytes);
        Ok(())
    })?;
    Ok((region, u8::from(payload.len > 0)))
}
