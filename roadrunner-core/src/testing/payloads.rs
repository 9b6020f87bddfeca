//! Payloads, where they come from and where they go: what any test of a transport needs.

use crate::stream::INLINE_LIMIT;
use crate::{
    Deadline, HostMemory, LinearMemory, Payload, Receipt, Region, Sink, Transfer, TransferError,
};
use std::sync::OnceLock;
use std::time::Duration;

/// Lengths at which something changes, in bytes: nothing, the inline limit, a page, 1 MiB, and more than any socket's
/// buffer together with an odd rest.
pub const LENGTHS: [u64; 13] = [
    0,
    1,
    4095,
    4096,
    4097,
    INLINE_LIMIT - 1,
    INLINE_LIMIT,
    INLINE_LIMIT + 1,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    (2 << 20) + 4095,
    (5 << 20) + 3,
];

/// Longer than any of these tests takes; one that reaches it has failed.
#[must_use]
pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// A byte that no [`pattern`] has in it: what must not be seen can be filled with it.
pub(super) const SECRET: u8 = 0x5E;

/// Bytes without a visible order, other ones for another seed. None of them is `0x5E`.
#[must_use]
pub fn pattern(len: u64, seed: u64) -> Vec<u8> {
    // A prime, so that no two pages of a payload are the same.
    const PERIOD: usize = 1_048_583;
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    let noise = NOISE.get_or_init(|| {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            // xorshift64: Marsaglia, Xorshift RNGs, 2003.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let byte = (state >> 32) as u8;
            if byte == SECRET {
                !SECRET
            } else {
                byte
            }
        };
        (0..PERIOD).map(|_| next()).collect()
    });
    let len = len as usize;
    let mut bytes = Vec::with_capacity(len);
    let mut start = (seed as usize).wrapping_mul(4099) % PERIOD;
    while bytes.len() < len {
        let piece = (len - bytes.len()).min(PERIOD - start);
        bytes.extend_from_slice(&noise[start..start + piece]);
        start = 0;
    }
    bytes
}

/// A linear memory for the sender, of at least so many bytes.
pub type NewMemory<'a> = &'a (dyn Fn(u64) -> Box<dyn LinearMemory + Send> + Sync);

/// A plain buffer as the sender's memory.
#[must_use]
pub fn host_memory(len: u64) -> Box<dyn LinearMemory + Send> {
    Box::new(HostMemory::from(vec![0; len as usize]))
}

/// Writes `bytes` into a region of a memory.
pub fn fill(memory: &mut dyn LinearMemory, offset: u64, bytes: &[u8]) {
    let span = Region::new(offset, bytes.len() as u64)
        .span(memory)
        .expect("the region lies within the memory");
    span.copy_from_slice(bytes);
}

/// Receives one payload and gives its bytes.
///
/// # Errors
/// What [`Transfer::recv`] returned.
pub fn receive(link: &mut dyn Transfer) -> Result<(Vec<u8>, Receipt), TransferError> {
    let mut memory = HostMemory::new();
    let delivery = link.recv(&mut memory, soon())?;
    let bytes = memory.bytes(delivery.region()).expect("within the memory");
    Ok((bytes.to_vec(), delivery.receipt()))
}

/// Sends `bytes` from a plain buffer.
///
/// # Errors
/// What [`Transfer::send`] returned.
pub fn send(
    link: &mut dyn Transfer,
    bytes: &[u8],
    deadline: Deadline,
) -> Result<Receipt, TransferError> {
    let mut memory = HostMemory::from(bytes);
    let region = memory.region();
    link.send(Payload::kept(&mut memory, region)?, deadline)
}

/// A sink that holds one payload and counts what was reserved and released.
#[derive(Debug, Default)]
pub struct CountingSink {
    memory: HostMemory,
    /// Calls to `reserve`.
    pub reserved: usize,
    /// Calls to `release`.
    pub released: usize,
    /// Bytes of the longest region that was asked for.
    pub largest: u64,
}

impl Sink for CountingSink {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        self.reserved += 1;
        self.largest = self.largest.max(len);
        self.memory.reserve(len, align)
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.memory
    }

    fn release(&mut self, region: Region) {
        self.released += 1;
        self.memory.release(region);
    }
}
