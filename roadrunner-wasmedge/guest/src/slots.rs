//! Buffers that can be handed over without a copy.

use crate::host::imports;
use crate::{Buffer, OutOfMemory};
use std::mem::MaybeUninit;

/// What `release` returns when the host keeps the block.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) const KEPT: i32 = 1;

/// A buffer of `len` bytes that can be given away without a copy, and costs no page faults when it is used again: from
/// 1 MiB on the host puts a *slot* behind it, memory that it can take out of this function and put into another one as it
/// is. [`send`](crate::send) it, or reply with it. It is an ordinary buffer where the host has no slot to give, and for
/// less than 1 MiB, which a copy moves as fast.
///
/// Its content is unspecified: zeros, or bytes that this function or one that it sent them to wrote into an earlier loan.
/// Use it for what is written anyway; [`Buffer::zeroed`] has the zeros.
///
/// # Errors
/// [`OutOfMemory`] if there is no room for an ordinary one either.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use roadrunner_guest::{loan, send};
///
/// for round in 0..3 {
///     let mut picture = loan(2 << 20)?; // the first time a new slot, then the same one again
///     picture.fill(round);
///     send("next", picture)?;
/// }
/// # Ok(())
/// # }
/// ```
pub fn loan(len: usize) -> Result<Buffer, OutOfMemory> {
    Buffer::loaned(len)
}

/// The address of a block in the host's keeping that now has a slot of at least `len` bytes, to be used again.
pub(crate) fn loan_again(len: usize) -> Option<usize> {
    Some(imports::loan(len)).filter(|address| *address != 0)
}

/// Offers a block to the host as the place of a new slot; whether it took it, and thereby wrote every byte of it.
pub(crate) fn bind(block: &mut [MaybeUninit<u8>]) -> bool {
    imports::bind(block) == 0
}

/// Tells the host that a slot at `address`, if there is one, is done with; whether it keeps the block. An error leaves
/// the slot where it is, so that the block must not be freed either.
pub(crate) fn release(address: usize) -> bool {
    imports::release(address) != 0
}
