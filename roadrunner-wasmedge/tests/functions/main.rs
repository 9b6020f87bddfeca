//! Functions on WasmEdge: what they can do, what they cannot, and what is left of them.

mod basics;
mod exchange;
mod faults;
mod hostile;
// The feature brings the links.
#[cfg(feature = "cli")]
mod kernel;
mod module;
mod slots;
#[cfg(feature = "cli")]
mod sockets;
mod spy;
mod support;
