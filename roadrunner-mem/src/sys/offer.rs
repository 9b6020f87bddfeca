//! A payload that stays where it is until the receiver has copied it: the sender waits meanwhile.

use crate::doorbell::locked;
use roadrunner_core::{Deadline, Span};
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Bytes that a sender offers to copy, seen from the receiver's thread.
#[derive(Debug)]
pub(crate) struct Offer {
    start: NonNull<u8>,
    len: usize,
    stage: Mutex<Stage>,
    changed: Condvar,
}

// SAFETY: the pointer is followed in `take_into` only, in the stage `Copying`, during which the sender stays in `lend`,
// whose span keeps the bytes mapped and borrowed. Everything else is behind the mutex.
unsafe impl Send for Offer {}
// SAFETY: as above; of several threads that call `take_into` one gets the stage `Copying`.
unsafe impl Sync for Offer {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Copying,
    Over(Ending),
}

/// How an offer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The receiver has the bytes.
    Taken,
    /// The receiver had no place for them.
    Refused,
    /// The receiver is gone.
    Orphaned,
    /// The deadline passed before the receiver began to copy.
    Withdrawn,
}

impl Offer {
    /// Offers the bytes of `span` to whoever `publish` gives the offer to, and waits for its end.
    pub(crate) fn lend(
        span: Span<'_>,
        publish: impl FnOnce(Arc<Offer>),
        deadline: Deadline,
    ) -> Ending {
        let offer = Arc::new(Self {
            start: NonNull::new(span.as_ptr()).unwrap_or(NonNull::dangling()),
            len: span.len(),
            stage: Mutex::new(Stage::Waiting),
            changed: Condvar::new(),
        });
        // Also if `publish` panics: nobody may copy once this function is left.
        let _over = EndOnDrop(&offer);
        publish(offer.clone());
        let mut stage = locked(&offer.stage);
        loop {
            stage = match (*stage, deadline.remaining()) {
                (Stage::Over(ending), _) => return ending,
                (Stage::Waiting, None) => {
                    drop(stage);
                    offer.end(Ending::Withdrawn);
                    // Withdrawn, unless the receiver was quicker.
                    locked(&offer.stage)
                }
                (Stage::Waiting, Some(left)) => {
                    offer
                        .changed
                        .wait_timeout(stage, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                (Stage::Copying, _) => offer
                    .changed
                    .wait(stage)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Bytes on offer.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies the bytes into `target`, which has as many; false if the offer has ended.
    pub(crate) fn take_into(&self, target: Span<'_>) -> bool {
        {
            let mut stage = locked(&self.stage);
            if *stage != Stage::Waiting {
                return false;
            }
            *stage = Stage::Copying;
        }
        // SAFETY: `start` and `len` are those of the span that `lend` holds, and in the stage `Copying` it does not
        // return: the bytes stay mapped and nobody else writes to them.
        let source = unsafe { Span::from_raw_parts(self.start, self.len) };
        target.copy_from(source);
        *locked(&self.stage) = Stage::Over(Ending::Taken);
        self.changed.notify_all();
        true
    }

    /// Ends it, unless it has ended or is being copied.
    pub(crate) fn end(&self, ending: Ending) {
        let mut stage = locked(&self.stage);
        if *stage == Stage::Waiting {
            *stage = Stage::Over(ending);
            self.changed.notify_all();
        }
    }
}

struct EndOnDrop<'a>(&'a Offer);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(Ending::Withdrawn);
        let mut stage = locked(&self.0.stage);
        while *stage == Stage::Copying {
            stage = self
                .0
                .changed
                .wait(stage)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
