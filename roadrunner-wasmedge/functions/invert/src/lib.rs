//! `invert.wat`: the ABI without Rust. This package exists to test it, by a host that is as small as the function.

/// The function in WebAssembly's text form.
pub const WAT: &str = include_str!("../invert.wat");
