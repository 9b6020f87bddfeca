//! What a runtime implements so that payloads can leave and reach its functions.

use crate::error::TransferError;
use crate::region::Region;
use crate::sys::HeapBytes;
use std::ptr::NonNull;

/// What may be done with the pages behind a linear memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backing {
    /// Nothing but copying: the memory may be a `Vec`, be shared between threads, or be mapped in a way nobody promises.
    Opaque,
    /// Private anonymous pages whose base does not move: whole pages inside `len()` may be replaced by other private
    /// anonymous pages (`mremap(2)`), and the runtime never notices. Growth and release of the memory still work.
    PrivateAnonymous,
}

/// The linear memory of one WebAssembly instance.
///
/// A transport borrows it for the length of one call, during which the function does not run. It asks for base and
/// length anew in every call: the memory may have grown in between.
///
/// # Safety
/// While the implementer is borrowed, `len()` bytes from `base()` on must be one mapped range that stays readable and
/// writable, and nothing but the borrower may write to it. With [`Backing::PrivateAnonymous`] the range, or the region
/// that was asked about, must be what that variant says, and the range must be page-aligned at its base.
#[allow(unsafe_code)] // a declaration: what must be proven is proven where it is implemented
pub unsafe trait LinearMemory {
    /// Where it starts.
    fn base(&self) -> NonNull<u8>;

    /// How many bytes it has now.
    fn len(&self) -> usize;

    /// Whether it has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What may be done with all its pages.
    fn backing(&self) -> Backing;

    /// What may be done with the pages of `region`, which need not lie in the memory. The same as with all pages, unless
    /// some are mapped otherwise than the rest.
    fn backing_of(&self, region: Region) -> Backing {
        let _ = region;
        self.backing()
    }
}

/// Where a received payload goes: usually the function's own allocator, behind its linear memory.
pub trait Sink {
    /// A region of exactly `len` bytes to receive into, aligned to `align` (a power of two) where that can be had. A
    /// smaller alignment costs speed, never correctness.
    ///
    /// # Errors
    /// [`NoRoom`](TransferError::NoRoom) if there is none, [`Sink`](TransferError::Sink) if asking failed.
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError>;

    /// The memory that reserved regions lie in. Asked for after every call to [`reserve`](Self::reserve), which may
    /// have let it grow.
    fn memory(&mut self) -> &mut dyn LinearMemory;

    /// Takes back a region from [`reserve`](Self::reserve) whose payload did not arrive. Its content is undefined.
    fn release(&mut self, region: Region);
}

/// The alignment, in bytes, at which a buffer for `len` bytes is asked for: 2 MiB from 1 MiB on, so that whole pages,
/// and whole page tables, can change hands; 16 below.
#[must_use]
pub const fn preferred_alignment(len: u64) -> u64 {
    const LARGE: u64 = 1 << 20;
    if len >= LARGE {
        2 << 20
    } else {
        16
    }
}

/// A plain buffer on the host that is a linear memory and a sink at once: for programs with no Wasm, for tests and for
/// examples. As a sink it holds one payload: each [`reserve`](Sink::reserve) replaces the buffer.
#[derive(Debug)]
pub struct HostMemory {
    bytes: HeapBytes,
    limit: u64,
}

impl HostMemory {
    /// An empty memory that receives payloads of any length that the machine has room for.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(u64::MAX)
    }

    /// An empty memory that has room for payloads of at most `limit` bytes.
    #[must_use]
    pub fn with_limit(limit: u64) -> Self {
        Self {
            bytes: HeapBytes::new(Box::default()),
            limit,
        }
    }

    /// The bytes of a region, or `None` if it does not lie within the memory.
    #[must_use]
    pub fn bytes(&self, region: Region) -> Option<&[u8]> {
        let end = usize::try_from(region.end()?).ok()?;
        self.as_slice().get(region.offset() as usize..end)
    }

    /// All bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// All bytes, to be changed.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }

    pub(crate) fn heap(&self) -> &HeapBytes {
        &self.bytes
    }

    /// All of it as one region.
    #[must_use]
    pub fn region(&self) -> Region {
        Region::new(0, self.as_slice().len() as u64)
    }
}

impl Default for HostMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Into<Box<[u8]>>> From<T> for HostMemory {
    fn from(bytes: T) -> Self {
        Self {
            bytes: HeapBytes::new(bytes.into()),
            limit: u64::MAX,
        }
    }
}

impl Sink for HostMemory {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        let no_room = |reason: &str| TransferError::NoRoom {
            len,
            reason: reason.to_owned(),
        };
        if len > self.limit {
            return Err(no_room("more than this memory's limit"));
        }
        let count = usize::try_from(len).map_err(|_| no_room("more than the address space"))?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(count)
            .map_err(|error| no_room(&error.to_string()))?;
        bytes.resize(count, 0);
        self.bytes = HeapBytes::new(bytes.into());
        Ok(self.region())
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        self
    }

    fn release(&mut self, _region: Region) {
        self.bytes = HeapBytes::new(Box::default());
    }
}
