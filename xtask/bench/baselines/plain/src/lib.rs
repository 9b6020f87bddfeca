//! A function as the prototype's hosts know it: they ask it for a place, and read and write its memory there.

use std::cell::RefCell;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where there is room for `len` bytes.
#[no_mangle]
pub extern "C" fn place(len: u32) -> u32 {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(len as usize, 0);
        buffer.as_ptr() as u32
    })
}

/// Fills the place.
#[no_mangle]
pub extern "C" fn produce(base: u64) {
    BUFFER.with_borrow_mut(|buffer| sequence::fill(buffer, base));
}

/// Reads every byte in the place.
#[no_mangle]
pub extern "C" fn consume() -> u64 {
    BUFFER.with_borrow(|buffer| sequence::sum(buffer))
}
