//! A payload that stays where it is until the receiver has copied it: the sender waits meanwhile.

use crossbeam_utils::Backoff;
use roadrunner_core::Span;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

/// Bytes that a sender offers to copy, seen from the receiver's thread.
#[derive(Debug)]
pub(crate) struct Offer {
    start: NonNull<u8>,
    len: usize,
    stage: AtomicU8,
}

// SAFETY: the pointer is followed in `take_into` only, in the stage `COPYING`, during which the sender stays in `lend`,
// whose span keeps the bytes mapped and borrowed. Everything else is atomic.
unsafe impl Send for Offer {}
// SAFETY: as above; of several threads that call `take_into` one gets the stage `COPYING`.
unsafe impl Sync for Offer {}

/// Stages besides those of its endings: nobody has taken it yet, and it is being copied.
const WAITING: u8 = 0;
const COPYING: u8 = 1;

/// How an offer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ending {
    /// The receiver has the bytes.
    Taken = 2,
    /// The receiver had no place for them.
    Refused = 3,
    /// The receiver is gone.
    Orphaned = 4,
    /// The deadline passed before the receiver began to copy.
    Withdrawn = 5,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Taken, Self::Refused, Self::Orphaned, Self::Withdrawn];
}

impl Offer {
    /// Offers the bytes of `span` to whoever `publish` gives the offer to, and waits for its end. `wait` waits until the
    /// offer has [ended](Self::ending), or until the deadline, or for whatever else it likes.
    pub(crate) fn lend(
        span: Span<'_>,
        publish: impl FnOnce(Arc<Offer>),
        wait: impl FnOnce(&Offer) -> Option<Ending>,
    ) -> Ending {
        let offer = Arc::new(Self {
            start: NonNull::new(span.as_ptr()).unwrap_or(NonNull::dangling()),
            len: span.len(),
            stage: AtomicU8::new(WAITING),
        });
        // Also if something panics: nobody may copy once this function is left.
        let over = EndOnDrop(&offer);
        publish(offer.clone());
        let _ = wait(&offer);
        drop(over);
        offer.ending().unwrap_or(Ending::Withdrawn)
    }

    /// Bytes on offer.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies the bytes into `target`, which has as many; false if the offer has ended.
    pub(crate) fn take_into(&self, target: Span<'_>) -> bool {
        if !self.turn(WAITING, COPYING) {
            return false;
        }
        // SAFETY: `start` and `len` are those of the span that `lend` holds, and in the stage `COPYING` it does not
        // return: the bytes stay mapped and nobody else writes to them.
        let source = unsafe { Span::from_raw_parts(self.start, self.len) };
        target.copy_from(source);
        // Only this thread leaves that stage.
        self.turn(COPYING, Ending::Taken as u8)
    }

    /// Ends it, unless it has ended or is being copied.
    pub(crate) fn end(&self, ending: Ending) {
        self.turn(WAITING, ending as u8);
    }

    /// How it ended, if it has.
    pub(crate) fn ending(&self) -> Option<Ending> {
        let stage = self.stage.load(Ordering::Acquire);
        Ending::ALL
            .into_iter()
            .find(|ending| *ending as u8 == stage)
    }

    fn turn(&self, from: u8, to: u8) -> bool {
        // Release for what was copied, acquire for what is to be copied.
        let turned = self
            .stage
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        turned.is_ok()
    }
}

struct EndOnDrop<'a>(&'a Offer);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(Ending::Withdrawn);
        // Withdrawn, unless the receiver was quicker: then it is copying, and does nothing else.
        let backoff = Backoff::new();
        while self.0.ending().is_none() {
            backoff.snooze();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PageBuffer;

    const LEN: usize = 5000;

    /// Lends bytes of 7 to `receiver`, which has room for them that holds 1. How that ended, and what is there.
    fn lend(receiver: impl FnOnce(&Offer, Span<'_>)) -> (Ending, u8, Arc<Offer>) {
        let buffer = |byte| {
            let mut buffer = PageBuffer::new(LEN).expect("memory");
            buffer.span().copy_from_slice(&vec![byte; LEN]);
            buffer
        };
        let (mut source, mut target) = (buffer(7), buffer(1));
        let mut published = None;
        let place = target.span().split_at(LEN).0;
        let ending = Offer::lend(
            source.span().split_at(LEN).0,
            |offer| published = Some(offer),
            |offer| {
                assert_eq!((offer.len(), offer.ending()), (LEN, None));
                receiver(offer, place);
                offer.ending()
            },
        );
        let offer = published.expect("it was published");
        assert_eq!(offer.ending(), Some(ending));
        assert!(
            !offer.take_into(target.span().split_at(LEN).0),
            "it is over"
        );
        let bytes = &target.as_slice()[..LEN];
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        (ending, bytes[0], offer)
    }

    #[test]
    fn an_offer_ends_once_and_nothing_is_taken_afterwards() {
        let (ending, there, offer) = lend(|offer, place| assert!(offer.take_into(place)));
        assert_eq!((ending, there), (Ending::Taken, 7));
        offer.end(Ending::Refused);
        assert_eq!(offer.ending(), Some(Ending::Taken), "it had ended");

        for ending in [Ending::Refused, Ending::Orphaned] {
            let (ended, there, _) = lend(|offer, place| {
                offer.end(ending);
                assert!(!offer.take_into(place));
            });
            assert_eq!((ended, there), (ending, 1));
        }
        let (ended, there, _) = lend(|_, _| ());
        assert_eq!((ended, there), (Ending::Withdrawn, 1));
    }
}
