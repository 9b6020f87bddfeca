//! The bodies of the exports that [`function!`](crate::function) makes. Not for direct use, and not covered by semantic
//! versioning.

pub use crate::sys::handle;
#[cfg(target_arch = "wasm32")]
pub use crate::sys::initialize;

use crate::host;
use crate::kept::kept;
use crate::{Buffer, IntoReply};
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The largest alignment that `roadrunner_allocate` accepts.
const MAX_ALIGN: u32 = 2 << 20;

/// The buffers that the host holds at present.
static LENT: Mutex<Lent> = Mutex::new(Lent::new());

fn lent() -> MutexGuard<'static, Lent> {
    // Nothing panics while it is locked, and there is no state in it that could be half done.
    LENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The buffers that the host knows by their address alone. Their lengths and alignments are kept here rather than in
/// front of the bytes, so that a reply can be a block that somebody else allocated, a vector's for instance.
///
/// A host holds a handful at a time, so a list is searched from its newest end.
struct Lent {
    buffers: Vec<Buffer>,
}

impl Lent {
    const fn new() -> Self {
        Self {
            buffers: Vec::new(),
        }
    }

    /// The address under which the host gets the buffer, never 0.
    fn lend(&mut self, mut buffer: Buffer) -> Result<usize, NoRoom> {
        if buffer.capacity() == 0 {
            // Without a block of its own it would have no address of its own.
            buffer = Buffer::with_capacity(0).map_err(|_| NoRoom)?;
        }
        self.buffers.try_reserve(1).map_err(|_| NoRoom)?;
        let address = buffer.address();
        self.buffers.push(buffer);
        Ok(address)
    }

    /// The buffer that was lent at `address`.
    fn take_back(&mut self, address: usize) -> Option<Buffer> {
        let index = self
            .buffers
            .iter()
            .rposition(|buffer| buffer.address() == address)?;
        Some(self.buffers.swap_remove(index))
    }
}

/// The function's memory is used up.
struct NoRoom;

/// `roadrunner_allocate`: an address, or 0.
pub fn allocate(len: u32, align: u32) -> usize {
    if !align.is_power_of_two() || align > MAX_ALIGN {
        return 0;
    }
    let Ok(buffer) = Buffer::with_capacity_aligned(len as usize, align as usize) else {
        return 0;
    };
    lent().lend(buffer).unwrap_or(0)
}

/// `roadrunner_free`.
///
/// # Panics
/// If the host does not hold a buffer at `address`: its books and ours differ, and going on could only spread the damage.
pub fn free(address: usize) {
    host::report_panics();
    let Some(mut buffer) = lent().take_back(address) else {
        panic!("the host freed {address:#x}, which is no buffer that it holds");
    };
    // A payload that came in a slot and was not handled, perhaps.
    buffer.came_from_the_host();
}

/// What a handler came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handled, and nothing to send.
    Done,
    /// Failed; the host has been told why.
    Failed,
    /// The host now holds a reply of `len` bytes at `address`.
    Reply {
        /// Where the reply starts, not 0.
        address: usize,
        /// How many bytes it has.
        len: usize,
    },
}

impl Outcome {
    /// The result of `roadrunner_handle`. Addresses and lengths must fit in 32 bits, as they do on wasm32.
    pub fn pack(&self) -> u64 {
        match *self {
            Outcome::Done => 0,
            Outcome::Failed => u64::MAX,
            Outcome::Reply { address, len } => (address as u64) << 32 | len as u64,
        }
    }
}

/// The buffer in which the host put a payload of `len` bytes, still of length 0, or why there is none.
pub(crate) fn claim(address: usize, len: usize) -> Result<Buffer, String> {
    let lent = lent().take_back(address);
    // Or a slot's block that was released to the host before.
    let mut buffer = lent
        .or_else(|| kept().take(address))
        .ok_or_else(|| format!("the host passed {address:#x}, which is no buffer that it holds"))?;
    if len > buffer.capacity() {
        return Err(format!(
            "the host passed a payload of {len} bytes in a buffer of {}",
            buffer.capacity()
        ));
    }
    buffer.came_from_the_host();
    Ok(buffer)
}

/// Hands the handler's reply, or why there is none, to the host.
pub(crate) fn reply_with(reply: impl IntoReply) -> Outcome {
    let reply = match reply.into_reply() {
        Ok(Some(reply)) => reply,
        Ok(None) => return Outcome::Done,
        Err(reason) => return failed(reason),
    };
    let len = reply.len();
    match lent().lend(reply) {
        Ok(address) => Outcome::Reply { address, len },
        Err(NoRoom) => failed("the function has no memory left to keep account of its reply"),
    }
}

pub(crate) fn failed(reason: impl Display) -> Outcome {
    host::fail(&reason.to_string());
    Outcome::Failed
}

/// Compiles if `function!` can take the handler.
pub const fn check_handler<R: IntoReply>(_: &impl Fn(Buffer) -> R) {}
