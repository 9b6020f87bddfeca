//! The [`Transfer`] trait and its contract: payloads move between WebAssembly linear memories without being serialised
//! and with as few copies as the transport allows.
//!
//! This crate does no I/O and knows no runtime. It holds what every transport and every runtime share:
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`transfer`] | the trait and its ten rules |
//! | [`memory`] | what a runtime implements: [`LinearMemory`], [`Sink`]; and [`HostMemory`], a plain buffer that has both |
//! | [`region`] | [`Region`], an offset and a length that are checked together, and [`Span`], the bytes behind one |
//! | [`payload`] | what is sent: a region of a memory, *kept* or *given away* |
//! | [`receipt`] | what a transfer really did |
//! | [`frame`] | the frames that cross a byte stream; pure, so they can be fuzzed |
//! | [`stream`] | a link over any byte stream, given a [`Wire`](stream::Wire) that does the I/O |
//! | `testing` | what every transport is tested with (feature `testing`) |
//! | [`deadline`], [`error`] | how long to wait, and what went wrong |
//!
//! # Example
//!
//! A runtime author implements [`LinearMemory`] and [`Sink`], takes a transport crate, and calls [`Transfer::send`] and
//! [`Transfer::recv`]. Two plain buffers stand for the two memories here, and the transport is whatever is at hand:
//!
//! ```
//! use roadrunner_core::{Deadline, HostMemory, Payload, Region, Transfer, TransferError};
//! use std::time::Duration;
//!
//! fn hop(from: &mut dyn Transfer, to: &mut dyn Transfer) -> Result<(), TransferError> {
//!     let deadline = Deadline::after(Duration::from_secs(1));
//!     let mut source = HostMemory::from(*b"..payload..");
//!     from.send(Payload::kept(&mut source, Region::new(2, 7))?, deadline)?;
//!     let mut destination = HostMemory::new();
//!     let delivery = to.recv(&mut destination, deadline)?;
//!     assert_eq!(destination.bytes(delivery.region()), Some(&b"payload"[..]));
//!     Ok(())
//! }
//! ```

pub mod deadline;
pub mod error;
pub mod frame;
pub mod memory;
pub mod payload;
pub mod receipt;
pub mod region;
pub mod stream;
#[allow(unsafe_code)]
mod sys;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transfer;

pub use deadline::Deadline;
pub use error::TransferError;
pub use memory::{Backing, HostMemory, LinearMemory, Sink};
pub use payload::Payload;
pub use receipt::{Delivery, Method, Receipt};
pub use region::{Region, Span};
pub use transfer::Transfer;

// Lengths cross between `u64` on the wire and `usize` in memory; on a 64-bit machine neither direction can lose bits.
static_assertions::assert_cfg!(
    target_pointer_width = "64",
    "roadrunner needs a 64-bit target"
);

/// The largest payload a link carries unless it was told otherwise, in bytes: 4 GiB - 1, what one 32-bit linear memory
/// can name.
pub const DEFAULT_LIMIT: u64 = u32::MAX as u64;
