//! The host's functions. `crate::testing` stands in for this module on other targets than wasm32.

use std::mem::MaybeUninit;

mod raw {
    extern "C" {
        /// Made by the linker: runs what must run before all else, the C library's own start for instance.
        pub(super) fn __wasm_call_ctors();
    }

    #[link(wasm_import_module = "roadrunner")]
    extern "C" {
        pub(super) fn send(
            target: *const u8,
            target_len: usize,
            ptr: *const u8,
            len: usize,
            flags: u32,
        ) -> i32;
        pub(super) fn log(level: i32, ptr: *const u8, len: usize) -> i32;
        pub(super) fn fail(ptr: *const u8, len: usize) -> i32;
        pub(super) fn deadline_left() -> i64;
        pub(super) fn loan(len: usize) -> usize;
        pub(super) fn bind(ptr: *mut u8, len: usize) -> i32;
        pub(super) fn release(ptr: usize) -> i32;
    }
}

const GIVE: u32 = 1;

/// Gives `bytes` away: their content is undefined afterwards.
pub(crate) fn send(target: &str, bytes: &mut [u8]) -> i32 {
    // SAFETY: both regions are live for the call. The host may write the second, which is borrowed exclusively and where
    // any byte is a valid value; its pointer is derived from that exclusive borrow.
    unsafe {
        raw::send(
            target.as_ptr(),
            target.len(),
            bytes.as_mut_ptr(),
            bytes.len(),
            GIVE,
        )
    }
}

pub(crate) fn send_copy(target: &str, bytes: &[u8]) -> i32 {
    // SAFETY: both regions are live for the call, and without `GIVE` the host only reads them.
    unsafe {
        raw::send(
            target.as_ptr(),
            target.len(),
            bytes.as_ptr(),
            bytes.len(),
            0,
        )
    }
}

pub(crate) fn log(level: i32, text: &str) -> i32 {
    // SAFETY: the region is live for the call, and the host only reads it.
    unsafe { raw::log(level, text.as_ptr(), text.len()) }
}

pub(crate) fn fail(reason: &str) -> i32 {
    // SAFETY: the region is live for the call, and the host only reads it.
    unsafe { raw::fail(reason.as_ptr(), reason.len()) }
}

pub(crate) fn deadline_left() -> i64 {
    // SAFETY: no memory is involved.
    unsafe { raw::deadline_left() }
}

/// The address of a slot of at least `len` bytes, or 0.
pub(crate) fn loan(len: usize) -> usize {
    // SAFETY: the host changes only blocks that it keeps, which nobody else uses until their address is returned.
    unsafe { raw::loan(len) }
}

/// Offers a block as the place of a slot. The host writes every byte of what it takes.
pub(crate) fn bind(block: &mut [MaybeUninit<u8>]) -> i32 {
    // SAFETY: the block is live and borrowed exclusively for the call, in which the host may write it.
    unsafe { raw::bind(block.as_mut_ptr().cast(), block.len()) }
}

/// Tells the host that the slot at `address` is done with.
pub(crate) fn release(address: usize) -> i32 {
    // SAFETY: the host changes only the bytes of a slot that this function has from it. `crate::slots` is called by the
    // drop of the buffer that owns the block, so nobody looks at them any more.
    unsafe { raw::release(address) }
}

/// `_initialize`.
pub fn initialize() {
    // SAFETY: the linker defines this symbol in every module. It is to be called once, before anything else; the only
    // caller is `_initialize`, which the host calls once and first.
    unsafe { raw::__wasm_call_ctors() }
}
