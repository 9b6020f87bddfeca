//! Pages that a pool keeps, clean or not.

use crate::slots::Trust;
use crate::sys::{clear, clear_past_caches, touch, PageBuffer, TABLE};
use roadrunner_core::LinearMemory;
use std::time::Instant;

/// Bytes of the buffers that the thread clears. Smaller ones are cleared by whoever takes them, and are in that
/// processor's caches then: for a function that fills 1 MiB this is worth more than the 20 microseconds that it takes.
pub(super) const LARGE: u64 = 4 << 20;
/// Pages that held somebody's bytes.
pub(super) struct Used {
    pub(super) buffer: PageBuffer,
    /// How many bytes from the start on hold nothing any more.
    pub(super) cleared: usize,
    /// The link whose ends alone may see what they hold.
    pub(super) trust: Option<Trust>,
    /// Nobody had them yet: they need only be there.
    pub(super) fresh: bool,
    pub(super) since: Instant,
}

impl Used {
    pub(super) fn new(buffer: PageBuffer, trust: Option<Trust>) -> Self {
        Self {
            buffer,
            cleared: 0,
            trust,
            fresh: false,
            since: Instant::now(),
        }
    }

    pub(super) fn fresh(buffer: PageBuffer) -> Self {
        Self {
            fresh: true,
            ..Self::new(buffer, None)
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.buffer.len() as u64
    }

    pub(super) fn is_clean(&self) -> bool {
        self.cleared >= self.buffer.len()
    }

    /// Clears up to `count` bytes more, and says how many.
    pub(super) fn clear_some(&mut self, count: usize) -> usize {
        let size = self.len();
        let (_, rest) = self.buffer.span().split_at(self.cleared);
        let (next, _) = rest.split_at(count);
        match size {
            _ if self.fresh => touch(next),
            LARGE.. => clear_past_caches(next),
            _ => clear(next),
        }
        self.cleared += next.len();
        next.len()
    }

    /// The first `len` bytes, and what is left of the others.
    pub(super) fn cut(self, len: usize) -> (PageBuffer, Option<Self>) {
        let cleared = self.cleared.saturating_sub(len.next_multiple_of(TABLE));
        let (buffer, rest) = self.buffer.cut(len);
        let rest = rest.map(|buffer| Self {
            buffer,
            cleared,
            ..self
        });
        (buffer, rest)
    }
}

/// Whether `len` bytes can be had from `room`, without leaving more than that.
pub(super) fn fits(room: u64, len: usize) -> bool {
    let len = len as u64;
    (len..=len.saturating_mul(2)).contains(&room)
}

/// Takes out the shortest one that fits and is for this trust; of those one that lies like `address`, if there is one.
pub(super) fn take_best(
    list: &mut Vec<Used>,
    len: usize,
    address: usize,
    trust: Option<Trust>,
) -> Option<Used> {
    let fitting = list
        .iter()
        .enumerate()
        .filter(|(_, used)| used.trust == trust && fits(used.len(), len));
    let lies_otherwise = |used: &Used| used.buffer.lies_at() != address % TABLE;
    let (at, _) = fitting.min_by_key(|(at, used)| {
        let latest_first = usize::MAX - at;
        (lies_otherwise(used), used.len(), latest_first)
    })?;
    Some(list.remove(at))
}
