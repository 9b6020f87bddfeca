//! Payloads in segments, which are passed by descriptor once and named by number from then on.
//!
//! What follows the header of such a frame is a reference of 16 bytes, numbers little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | number of the segment, below 64; the peer that sends chooses it |
//! | 4..8 | bit 0: the segment's descriptor comes with the frame, and takes the place of an earlier one of this number; else the receiver has it. Bit 1: its mappings stay at both ends, which only a trusted link allows |
//! | 8..16 | bytes of the segment, which the payload starts at the start of |
//!
//! The receiver says `release` when nobody there looks at the payload any more: then the sender may use the segment again.
//! The sender says `retirement` when it will not, so that the receiver does not keep it.

use crate::socket::Socket;
use roadrunner_core::frame::{FrameError, Header, Kind};
use roadrunner_core::stream::{read_all, Carried, Start};
use roadrunner_core::{Deadline, Payload, Span, TransferError};
use roadrunner_mem::{Audience, Segment, SharedPayload, SlotOptions, Slots, Trust, PAGE_SIZE};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Segments that a peer has, or that it is known to have, at a time.
const MOST_SEGMENTS: usize = 64;
/// Payloads that a peer may have without having released them.
const MOST_OUT: usize = 64;
const REFERENCE_LEN: usize = 16;
/// Flags of a reference.
const PASSED: u32 = 1;
const STAYS: u32 = 2;

/// Sequence numbers of payloads that nobody here looks at any more.
type Released = Arc<Mutex<Vec<u64>>>;

/// The segments that go over one link.
#[derive(Debug)]
pub(crate) struct Segments {
    audience: Audience,
    /// On a trusted link.
    pub(crate) trust: Option<Trust>,
    /// Segments that payloads are copied into.
    pool: Slots,
    /// What the peer has been passed, by number.
    known: Vec<Option<Known>>,
    /// Payloads that the peer has not released, by sequence number.
    out: HashMap<u64, SharedPayload>,
    /// What the peer has passed, by number.
    theirs: Vec<Option<Arc<Segment>>>,
    /// Bytes of the longest payload.
    limit: u64,
    released: Released,
    /// The reference that is coming in.
    reference: [u8; REFERENCE_LEN],
    got: u64,
}

#[derive(Debug)]
struct Known {
    segment: Weak<Segment>,
    /// The number of the last payload that went in it.
    used: u64,
}

impl Segments {
    pub(crate) fn new(limit: u64, audience: Audience) -> Self {
        Self {
            audience,
            trust: None,
            pool: Slots::for_audience(SlotOptions::default(), audience),
            known: Vec::new(),
            out: HashMap::new(),
            theirs: Vec::new(),
            limit,
            released: Released::default(),
            reference: [0; REFERENCE_LEN],
            got: 0,
        }
    }

    pub(crate) fn audience(&self) -> Audience {
        self.audience
    }

    /// Whether the peer has payloads that it may have released meanwhile.
    pub(crate) fn are_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether the peer has as many payloads as it may.
    pub(crate) fn are_full(&self) -> bool {
        self.out.len() >= MOST_OUT
    }

    /// A copy of a payload, to be passed. `None` if there is no segment for it.
    pub(crate) fn copy_in(&mut self, payload: &mut Payload<'_>) -> Option<SharedPayload> {
        let region = payload.region();
        self.pool.share(payload.memory(), region).ok()
    }

    /// Sends a frame that refers to a segment, which is passed with it unless the peer has it.
    pub(crate) fn pass(
        &mut self,
        socket: &mut Socket,
        start: Start,
        payload: &SharedPayload,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Carried, TransferError> {
        let failed = |source| TransferError::from_io("pass a segment", source);
        let segment = payload.segment();
        let (number, known) = self.number(segment);
        let carried = Carried {
            method: payload.method(),
            copies: payload.copies(),
            acknowledge: false,
        };
        let mut frame = start.header(carried).to_vec();
        frame.extend((number as u32).to_le_bytes());
        let passed = if known { 0 } else { PASSED };
        let stays = if payload.is_trusted() { STAYS } else { 0 };
        frame.extend((passed | stays).to_le_bytes());
        frame.extend((segment.len() as u64).to_le_bytes());
        let mut descriptor = None;
        if !known {
            let passed = match payload.is_trusted() {
                true => segment.entrust_to(self.audience),
                false => segment.pass_to(self.audience),
            };
            descriptor = Some(passed.map_err(failed)?);
        }
        while *sent < frame.len() as u64 {
            let rest = &frame[*sent as usize..];
            *sent += socket
                .write_passing(rest, descriptor.take(), deadline)
                .map_err(failed)? as u64;
        }
        self.known[number] = Some(Known {
            segment: Arc::downgrade(segment),
            used: start.sequence(),
        });
        self.out.insert(start.sequence(), payload.again());
        Ok(carried)
    }

    /// The number that the peer knows a segment by; or a free one, or the one that was used longest ago.
    fn number(&mut self, segment: &Arc<Segment>) -> (usize, bool) {
        let is_it = |known: &Option<Known>| matches!(known, Some(known) if known.segment.as_ptr() == Arc::as_ptr(segment));
        if let Some(number) = self.known.iter().position(is_it) {
            return (number, true);
        }
        if let Some(number) = self.known.iter().position(Option::is_none) {
            return (number, false);
        }
        if self.known.len() < MOST_SEGMENTS {
            self.known.push(None);
            return (self.known.len() - 1, false);
        }
        let used = |known: &Option<Known>| known.as_ref().map_or(0, |known| known.used);
        let oldest = (0..self.known.len()).min_by_key(|number| used(&self.known[*number]));
        (oldest.unwrap_or(0), false)
    }

    /// Reads the reference of a frame, and gives the payload that it refers to.
    pub(crate) fn receive(
        &mut self,
        socket: &mut Socket,
        start: Start,
        carried: Carried,
        deadline: Deadline,
    ) -> Result<SharedPayload, TransferError> {
        let into = Span::from_slice(&mut self.reference);
        let before = roadrunner_core::frame::HEADER_LEN;
        read_all(socket, into, before, &mut self.got, deadline)?;
        self.got = 0;
        let [n0, n1, n2, n3, p0, p1, p2, p3, len @ ..] = self.reference;
        let number = u32::from_le_bytes([n0, n1, n2, n3]) as usize;
        let flags = u32::from_le_bytes([p0, p1, p2, p3]);
        let len = u64::from_le_bytes(len);
        let wrong = |field| TransferError::from(FrameError::Field(field));
        if number >= MOST_SEGMENTS {
            return Err(wrong("number of a segment"));
        }
        // More than the payload needs would be taken up in the receiver's memory.
        let most = self.limit.max(1);
        if len
            > most
                .checked_next_multiple_of(PAGE_SIZE as u64)
                .unwrap_or(most)
        {
            return Err(wrong("length of a segment"));
        }
        if flags & !(PASSED | STAYS) != 0 {
            return Err(wrong("unused field"));
        }
        let trust = match flags & STAYS {
            0 => None,
            _ => Some(self.trust.ok_or_else(|| {
                TransferError::Refused(
                    "the peer keeps a payload mapped, and this link is strict".to_owned(),
                )
            })?),
        };
        let segment = match (flags & PASSED, socket.take_passed()) {
            (PASSED, Some(descriptor)) => {
                let segment = Arc::new(descriptor.into_segment(len)?);
                if self.theirs.len() <= number {
                    self.theirs.resize(number + 1, None);
                }
                self.theirs[number] = Some(segment.clone());
                segment
            }
            (_, None) if flags & PASSED == 0 => match self.theirs.get(number) {
                Some(Some(segment)) if segment.len() as u64 == len => segment.clone(),
                _ => return Err(FrameError::Unexpected("a segment that was not passed").into()),
            },
            (_, None) => {
                return Err(FrameError::Unexpected("a segment without a descriptor").into())
            }
            (_, Some(_)) => return Err(surplus().into()),
        };
        let (released, sequence) = (self.released.clone(), start.sequence());
        let payload = SharedPayload::received(segment, start.len(), carried.copies, move || {
            locked(&released).push(sequence);
        })?;
        Ok(match trust {
            Some(trust) => payload.trusted_by(trust),
            None => payload,
        })
    }

    /// Releases and retirements that are due.
    pub(crate) fn due(&mut self, frames: &mut Vec<u8>) {
        let mut say = |kind, sequence| {
            let header = Header {
                kind,
                sequence,
                length: 0,
            };
            frames.extend(header.encode());
        };
        for sequence in locked(&self.released).drain(..) {
            say(Kind::Release, sequence);
        }
        for (number, known) in self.known.iter_mut().enumerate() {
            if known
                .take_if(|known| known.segment.strong_count() == 0)
                .is_some()
            {
                say(Kind::Retirement, number as u64);
            }
        }
    }

    pub(crate) fn heard(&mut self, header: Header) -> Result<(), FrameError> {
        match header.kind {
            Kind::Release => match self.out.remove(&header.sequence) {
                Some(_) => Ok(()),
                None => Err(FrameError::Unexpected("a release of what was not sent")),
            },
            Kind::Retirement => {
                let theirs = usize::try_from(header.sequence)
                    .ok()
                    .and_then(|number| self.theirs.get_mut(number));
                match theirs.and_then(Option::take) {
                    Some(_) => Ok(()),
                    None => Err(FrameError::Unexpected(
                        "a retirement of what was not passed",
                    )),
                }
            }
            _ => Err(FrameError::Unexpected("a word that is not about segments")),
        }
    }
}

/// A descriptor that belongs to nothing.
pub(crate) fn surplus() -> FrameError {
    FrameError::Unexpected("a descriptor that no segment needs")
}

/// No code of this crate panics while it holds the lock.
fn locked(released: &Mutex<Vec<u64>>) -> std::sync::MutexGuard<'_, Vec<u64>> {
    released.lock().unwrap_or_else(PoisonError::into_inner)
}
