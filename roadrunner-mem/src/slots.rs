//! Slots: segments that stay mapped in linear memories and are handed over without a copy.

mod lent;
mod misuse;
mod payload;
mod received;
mod transfer;

pub use misuse::Misuse;
pub use payload::{SharedPayload, Trust};
pub use transfer::SlotTransfer;

use crate::budget;
use crate::segment::Audience;
use crate::sys::PAGE;
use lent::Lent;
use received::Received;
use roadrunner_core::{Backing, LinearMemory, Region, Sink, Span, TransferError};
use std::io;

/// How much the slots of one linear memory may take.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SlotOptions {
    /// Bytes of the segments that are lent from it at most. 1 GiB.
    pub bytes: u64,
    /// How many segments are lent from it at most, and how many views of others' are kept beyond those in use. 64.
    pub slots: usize,
}

impl Default for SlotOptions {
    fn default() -> Self {
        Self {
            bytes: 1 << 30,
            slots: 64,
        }
    }
}

/// What the slots of a linear memory take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotReport {
    /// Segments that were made here, and not dropped since.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them the function has on loan.
    pub loaned: usize,
    /// How many of them are on their way to a receiver, or held by one.
    pub away: usize,
    /// Payloads of others that the function holds.
    pub received: usize,
}

/// What became of a place that a function is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// There is no slot in this place.
    NotASlot,
    /// The host keeps the place, for another slot: the function does not own it until it gets it again.
    Kept,
    /// The place is ordinary memory again, and the function's own.
    Returned,
}

/// Places that a function has given for slots, for each that it may have at a time: so many lengths in turn.
const PLACES_EACH: usize = 8;
/// Places of received payloads that are kept for the next ones at most: they are memory that the function cannot use.
const KEPT_PLACES: usize = 4;

/// All slots of one linear memory: those that its function fills, and those that it received.
///
/// The function's host offers places in the memory, whole pages that the function does not use otherwise, and
/// [binds](Self::bind) a slot to each. What the function writes there is in a [`Segment`](crate::Segment). With
/// [`hand_over`](Self::hand_over) the function loses it: other pages take its place, and the segment appears, already
/// mapped, in the receiver's memory, as a copy-on-write view. Writes of the receiver stay its own, so that nothing ever
/// comes back with a segment but what its own function wrote. On a trusted link the mappings stay at both ends, and the
/// two have to keep to their turns.
///
/// A segment comes back when the receiver [releases](Self::release) it, or its `Slots` are dropped. Drop them with the
/// memory, or after it: a view that is still mapped then shows what the segment is used for next.
///
/// **While a place holds a slot its pages must not be exchanged**: they are no anonymous memory, and would still be
/// reached from where they were taken. A payload that [overlaps](Self::overlaps) a place without being a loaned slot has
/// to be copied.
#[derive(Debug, Default)]
pub struct Slots {
    options: SlotOptions,
    lent: Vec<Lent>,
    received: Vec<Received>,
    /// Places without a slot.
    spare: Vec<Place>,
    /// Who outside the process may see all that is put into them.
    audience: Option<Audience>,
    misuse: Misuse,
}

static_assertions::assert_impl_all!(Slots: Send);

impl Slots {
    /// None yet.
    #[must_use]
    pub fn new(options: SlotOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// None yet, of which all that leave the process go to this audience: segments that it has can be used again. Without,
    /// a segment that was [passed](crate::Segment::pass_to) to another process is not.
    #[must_use]
    pub fn for_audience(options: SlotOptions, audience: Audience) -> Self {
        Self {
            audience: Some(audience),
            ..Self::new(options)
        }
    }

    /// A free slot that has a place in this memory already and takes `len` bytes, if there is one: it is on loan from
    /// now on. It holds what the function wrote to it when it last had it, or zeros.
    pub fn loan(&mut self, memory: &mut dyn LinearMemory, len: u64) -> Option<Region> {
        let wanted = usize::try_from(len).ok()?;
        let audience = self.audience;
        let free = |lent: &mut Lent| lent.place.is_some() && lent.is_free_for(audience);
        if let Some(at) = lent::best(&mut self.lent, wanted, free) {
            let lent = &mut self.lent[at];
            self.misuse.written_after += u64::from(lent.written_after(memory));
            return lent.lend(memory, len);
        }
        let fits = |place: &Place| lent::fits(place.len, wanted);
        let at = self.spare.iter().position(fits)?;
        let place = self.spare[at];
        let mut lent = self.make(memory, place.len).ok()?;
        lent.place = Some(place);
        let region = lent.lend(memory, len)?;
        self.spare.swap_remove(at);
        self.lent.push(lent);
        Some(region)
    }

    /// Makes `region` the place of a new slot, which is on loan from now on. What the region held is lost.
    ///
    /// # Errors
    /// [`OutOfBounds`](TransferError::OutOfBounds) if it does not lie within the memory;
    /// [`NoRoom`](TransferError::NoRoom) if it is not whole pages, overlaps another place, or the memory does not let its
    /// pages be replaced, if as many segments are lent as the options allow, or if there are eight times as many places, or
    /// the process has no mappings left for one more; [`Io`](TransferError::Io) if the system
    /// has no more. The region is as it was then, or cleared.
    pub fn bind(
        &mut self,
        memory: &mut dyn LinearMemory,
        region: Region,
    ) -> Result<(), TransferError> {
        let no_room = |reason: &str| TransferError::NoRoom {
            len: region.len(),
            reason: reason.to_owned(),
        };
        let place = Place::of(memory, region)?
            .ok_or_else(|| no_room("a slot needs whole pages of a memory whose pages may move"))?;
        if self.overlaps(region) {
            return Err(no_room("there is a slot in a part of it already"));
        }
        // Each is a mapping or two of the process, for good, and all functions have the same number of those.
        let most = self.options.slots.saturating_mul(PLACES_EACH);
        if self.all_places().count() >= most || !budget::allows() {
            return Err(no_room(
                "the function has given as many places as the host takes",
            ));
        }
        let mut lent = self.make(memory, place.len)?;
        lent.place = Some(place);
        if lent.lend(memory, region.len()).is_none() {
            return Err(failed("map a slot", io::ErrorKind::OutOfMemory.into()));
        }
        self.lent.push(lent);
        Ok(())
    }

    /// Hands a loaned slot over: the payload is the bytes of `region`, which starts where the slot does. The rest of the
    /// slot is cleared. Its place holds zeros from now on, and is the function's again when it is
    /// [loaned](Self::loan). With the `trust` of a link the mapping stays instead, and the payload can be sent by that
    /// link alone.
    ///
    /// `None` if there is no loaned slot, or if it has been handed over by another trusted link before, whose receiver
    /// can still see it: such a payload has to be copied.
    ///
    /// # Errors
    /// [`OutOfBounds`](TransferError::OutOfBounds); [`Io`](TransferError::Io) if the system did not let the mapping go.
    /// It is still on loan then.
    pub fn hand_over(
        &mut self,
        memory: &mut dyn LinearMemory,
        region: Region,
        trust: Option<Trust>,
    ) -> Result<Option<SharedPayload>, TransferError> {
        region.span(memory)?;
        match self.lent.iter_mut().find(|lent| lent.is_loaned(region)) {
            Some(lent) => lent.hand_over(memory, region.len(), trust),
            None => {
                let again = self.lent.iter().any(|lent| lent.was_at(region));
                self.misuse.sent_again += u64::from(again);
                Ok(None)
            }
        }
    }

    /// What the function did so far that it must not do with slots, and what it holds that it received.
    pub fn misuse(&mut self, memory: &mut dyn LinearMemory) -> Misuse {
        for lent in &mut self.lent {
            self.misuse.written_after += u64::from(lent.written_after(memory));
        }
        Misuse {
            unreleased: self.received.iter().filter(|one| one.is_held()).count() as u64,
            ..self.misuse
        }
    }

    /// Takes back all that the function holds, on loan or received, as it will never run again. What it has sent stays with
    /// its receivers.
    pub fn bury(&mut self, memory: &mut dyn LinearMemory) {
        let mut held = 0;
        for lent in self.lent.iter_mut().filter(|lent| lent.loaned) {
            lent.end_loan();
            held += 1;
        }
        for received in self.received.iter_mut().filter(|one| one.is_held()) {
            // Where the system refuses, it is held until these slots are dropped.
            if let Ok(place) = received.release(memory) {
                self.spare.extend(place);
                held += 1;
            }
        }
        self.misuse.died_holding += held;
        self.drop_orphans(memory);
    }

    /// Gives a payload that was not sent back to the function: its slot is on loan again. False if it is not from
    /// here, or is in flight, or the system refuses; then it is lost.
    pub fn take_back(&mut self, memory: &mut dyn LinearMemory, payload: SharedPayload) -> bool {
        let (id, len) = (payload.segment().id(), payload.len());
        drop(payload);
        let ours = self.lent.iter_mut().find(|lent| lent.segment().id() == id);
        let audience = self.audience;
        ours.is_some_and(|lent| lent.is_free_for(audience) && lent.lend(memory, len).is_some())
    }

    /// Copies any region into a segment, once, to be sent to many receivers, each of which sees it as its own.
    ///
    /// # Errors
    /// [`OutOfBounds`](TransferError::OutOfBounds); [`NoRoom`](TransferError::NoRoom) and [`Io`](TransferError::Io) as
    /// for [`bind`](Self::bind).
    pub fn share(
        &mut self,
        memory: &mut dyn LinearMemory,
        region: Region,
    ) -> Result<SharedPayload, TransferError> {
        let len = region.span(memory)?.len();
        let audience = self.audience;
        let parked = |lent: &mut Lent| lent.is_parked() && lent.is_free_for(audience);
        let at = match lent::best(&mut self.lent, len, parked) {
            Some(at) => at,
            None => {
                let lent = self.make(memory, len)?;
                self.lent.push(lent);
                self.lent.len() - 1
            }
        };
        self.lent[at].fill(region.span(memory)?)
    }

    /// The function is done with the slot that starts at `offset`: a payload that it received, or a loan that it does
    /// not send.
    ///
    /// # Errors
    /// [`Io`](TransferError::Io) if the system did not let the mapping go; nothing has changed then.
    pub fn release(
        &mut self,
        memory: &mut dyn LinearMemory,
        offset: u64,
    ) -> Result<Released, TransferError> {
        let loaned = Region::new(offset, 0);
        if let Some(lent) = self.lent.iter_mut().find(|lent| lent.is_loaned(loaned)) {
            lent.end_loan();
            return Ok(Released::Kept);
        }
        let held = |received: &&mut Received| received.is_held_at(offset);
        let Some(received) = self.received.iter_mut().find(held) else {
            return Ok(Released::NotASlot);
        };
        let Some(place) = received.release(memory)? else {
            return Ok(Released::Kept);
        };
        self.drop_orphans(memory);
        if self.spare.len() >= KEPT_PLACES {
            return Ok(Released::Returned);
        }
        self.spare.push(place);
        Ok(Released::Kept)
    }

    /// Whether `region` starts where a loaned slot does and fits in: whether it can be [handed over](Self::hand_over).
    #[must_use]
    pub fn is_loaned(&self, region: Region) -> bool {
        self.lent.iter().any(|lent| lent.is_loaned(region))
    }

    /// Whether some of `region` is a place of these slots, lent, received or kept.
    #[must_use]
    pub fn overlaps(&self, region: Region) -> bool {
        self.all_places().any(|place| place.overlaps(region))
    }

    /// The places of these slots, lent, received or kept, in no order.
    pub fn places(&self) -> impl Iterator<Item = Region> + '_ {
        self.all_places()
            .map(|place| Region::new(place.offset, place.len as u64))
    }

    fn all_places(&self) -> impl Iterator<Item = Place> + '_ {
        let lent = self.lent.iter().filter_map(|lent| lent.place);
        let received = self.received.iter().filter_map(|received| received.place);
        lent.chain(received).chain(self.spare.iter().copied())
    }

    /// What they take now.
    pub fn report(&mut self) -> SlotReport {
        let away = self.lent.iter_mut().map(Lent::is_back).filter(|back| !back);
        SlotReport {
            away: away.count(),
            segments: self.lent.len(),
            bytes: self.lent.iter().map(|lent| lent.len() as u64).sum(),
            loaned: self.lent.iter().filter(|lent| lent.loaned).count(),
            received: self.received.iter().filter(|one| one.is_held()).count(),
        }
    }

    /// Brings a payload that was sent to the function, by a link of this `trust`, into the sink's memory, whose slots these
    /// are: mapped if that can be, else copied. Says where it is, and how many times it was copied here. For
    /// implementers of links.
    ///
    /// # Errors
    /// What the sink returned, [`OutOfBounds`](TransferError::OutOfBounds) or [`NoRoom`](TransferError::NoRoom) if the
    /// region that it reserved is not what was asked for, [`Io`](TransferError::Io) if the system refuses.
    pub fn receive(
        &mut self,
        payload: SharedPayload,
        sink: &mut dyn Sink,
        trust: Option<Trust>,
    ) -> Result<(Region, u8), TransferError> {
        received::receive(self, payload, sink, trust)
    }

    /// A new segment, after dropping free ones if there would be too many.
    fn make(&mut self, memory: &mut dyn LinearMemory, len: usize) -> Result<Lent, TransferError> {
        let len = len.max(1).next_multiple_of(PAGE);
        loop {
            let bytes: u64 = self.lent.iter().map(|lent| lent.len() as u64).sum();
            let room = self.options.bytes.saturating_sub(bytes) >= len as u64;
            if room && self.lent.len() < self.options.slots {
                return Lent::new(len).map_err(|error| failed("make a segment", error));
            }
            // One whose place shows nothing of it can go; the place stays.
            let idle = |lent: &mut Lent| lent.is_parked() && lent.is_free();
            // So can one that is mapped for good in a receiver's memory, once that has released it, or is dead.
            let mut withdrawn = |lent: &mut Lent| lent.is_free() && lent.withdraw(memory);
            let found = self.lent.iter_mut().position(idle);
            let found = found.or_else(|| self.lent.iter_mut().position(&mut withdrawn));
            let Some(at) = found else {
                return Err(TransferError::NoRoom {
                    len: len as u64,
                    reason: format!(
                        "{} segments of {bytes} bytes in all are lent or away; receivers have to release some, or the \
                         limits of SlotOptions be raised",
                        self.lent.len()
                    ),
                });
            };
            self.spare.extend(self.lent.swap_remove(at).place);
        }
    }

    /// Forgets views of segments that are gone, and keeps their places.
    fn drop_orphans(&mut self, memory: &mut dyn LinearMemory) {
        let mut at = 0;
        let mut parked = 0;
        while let Some(received) = self.received.get_mut(at) {
            parked += usize::from(received.is_parked());
            let superfluous = received.is_parked() && parked > self.options.slots;
            if !received.is_held()
                && (received.is_orphan() || superfluous)
                && received.clear(memory)
            {
                self.spare.extend(self.received.swap_remove(at).place);
            } else {
                at += 1;
            }
        }
    }
}

/// Whole pages of a linear memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    offset: u64,
    len: usize,
}

impl Place {
    /// The place that a region is, if a slot could be there.
    fn of(memory: &mut dyn LinearMemory, region: Region) -> Result<Option<Self>, TransferError> {
        let movable = memory.backing_of(region) == Backing::PrivateAnonymous;
        let span = region.span(memory)?;
        let whole = |number: usize| number % PAGE == 0;
        let pages = !span.is_empty() && whole(span.as_ptr() as usize) && whole(span.len());
        Ok((movable && pages).then_some(Self {
            offset: region.offset(),
            len: span.len(),
        }))
    }

    fn span<'m>(self, memory: &'m mut dyn LinearMemory) -> Result<Span<'m>, TransferError> {
        Region::new(self.offset, self.len as u64).span(memory)
    }

    fn overlaps(self, region: Region) -> bool {
        let end = |offset: u64, len: u64| u128::from(offset) + u128::from(len);
        u128::from(self.offset) < end(region.offset(), region.len())
            && u128::from(region.offset()) < end(self.offset, self.len as u64)
    }
}

fn failed(doing: &'static str, source: io::Error) -> TransferError {
    TransferError::Io { doing, source }
}
