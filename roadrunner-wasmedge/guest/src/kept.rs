//! Blocks of the function's memory that the host keeps: places of slots that nobody uses at present.

use crate::Buffer;
use std::sync::{Mutex, MutexGuard, PoisonError};

static KEPT: Mutex<Kept> = Mutex::new(Kept(Vec::new()));

/// The blocks that the host keeps at present. There are as many as it has slots in this memory: a handful.
pub(crate) struct Kept(Vec<Buffer>);

pub(crate) fn kept() -> MutexGuard<'static, Kept> {
    // Nothing panics while it is locked, and there is no state in it that could be half done.
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers a block that the host keeps.
pub(crate) fn keep(block: Buffer) {
    let mut kept = kept();
    match kept.0.try_reserve(1) {
        Ok(()) => kept.0.push(block),
        // The host keeps it for good, and nobody may free it.
        Err(_) => std::mem::forget(block),
    }
}

impl Kept {
    /// The block at `address`, which the host has given back.
    pub(crate) fn take(&mut self, address: usize) -> Option<Buffer> {
        let index = self.0.iter().position(|block| block.address() == address)?;
        Some(self.0.swap_remove(index))
    }
}
