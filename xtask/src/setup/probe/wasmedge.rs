//! Prints the version of the WasmEdge it is linked to.
use std::ffi::{c_char, CStr};

#[link(name = "wasmedge")]
extern "C" {
    fn WasmEdge_VersionGet() -> *const c_char;
}

fn main() {
    // SAFETY: the function takes nothing and returns a static, NUL-terminated string (wasmedge.h).
    let version = unsafe { CStr::from_ptr(WasmEdge_VersionGet()) };
    println!("{}", version.to_string_lossy());
}
