//! The unsafe code of this crate: WasmEdge's C API behind owned types, and the system calls of [`watchdog`], [`fault`] and
//! [`signals`].
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`runtime`] | WasmEdge's version, its log, its results and its strings |
//! | [`ast`] | modules: compiled, parsed, validated, and what they import and export |
//! | [`instance`] | an instance: calls into the guest, and out of it to the host |
//! | [`memory`] | its linear memory |
//! | [`watchdog`] | what stops a guest whose time is up |
//! | [`fault`] | which signals are a guest's trap |
//! | [`signals`] | which signals the program was started to ignore |

pub(crate) mod ast;
pub(crate) mod fault;
pub(crate) mod instance;
pub(crate) mod memory;
pub(crate) mod runtime;
#[cfg(feature = "cli")]
pub(crate) mod signals;
pub(crate) mod watchdog;

/// Ends this process at once: no destructor runs, of Rust or of C++.
#[cfg(feature = "cli")]
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) has no precondition, and nothing runs after it.
    unsafe { nix::libc::_exit(code) }
}
