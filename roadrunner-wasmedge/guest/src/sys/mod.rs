//! All unsafe code of the crate: memory that is owned by hand, the host's functions, and the exports.

mod buffer;
mod exports;
#[cfg(target_arch = "wasm32")]
mod imports;

pub use buffer::Buffer;
pub use exports::handle;

#[cfg(target_arch = "wasm32")]
pub use imports::initialize;
#[cfg(target_arch = "wasm32")]
pub(crate) use imports::{bind, deadline_left, fail, loan, log, release, send, send_copy};
