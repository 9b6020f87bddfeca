#![doc = include_str!("../README.md")]

#[doc(hidden)]
pub mod abi;
mod buffer;
mod error;
mod host;
mod kept;
#[cfg(any(target_arch = "wasm32", test))]
mod panic_text;
mod reply;
mod slots;
#[allow(unsafe_code)]
mod sys;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use buffer::OutOfMemory;
pub use error::Error;
pub use host::{deadline_left, log, send, send_copy, Level};
pub use reply::IntoReply;
pub use slots::loan;
pub use sys::Buffer;
