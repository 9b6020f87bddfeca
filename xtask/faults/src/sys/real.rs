//! The C library's own functions.

use nix::libc::{self, c_void};
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Where the C library has a function of this name.
pub(super) fn find(name: &CStr, known: &AtomicPtr<c_void>) -> *mut c_void {
    let address = known.load(Ordering::Relaxed);
    if !address.is_null() {
        return address;
    }
    // SAFETY: the name ends with a zero byte.
    let address = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if address.is_null() {
        // Whoever called it has no way to go on.
        std::process::abort();
    }
    known.store(address, Ordering::Relaxed);
    address
}

/// The C library's function of this name and type. The type must be the one that its manual page gives; optional
/// arguments may be listed, as the x86-64 ABI passes them like others.
macro_rules! real {
    (fn $name:ident($($type:ty),*) -> $result:ty) => {{
        const NAME: &std::ffi::CStr = match std::ffi::CStr::from_bytes_with_nul(
            concat!(stringify!($name), "\0").as_bytes(),
        ) {
            Ok(name) => name,
            Err(_) => panic!("a name of the C library"),
        };
        static KNOWN: std::sync::atomic::AtomicPtr<nix::libc::c_void> =
            std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());
        let address = $crate::sys::real::find(NAME, &KNOWN);
        // SAFETY: the address of a function with the type that its manual page gives.
        unsafe {
            std::mem::transmute::<
                *mut nix::libc::c_void,
                unsafe extern "C" fn($($type),*) -> $result,
            >(address)
        }
    }};
}

pub(super) use real;
