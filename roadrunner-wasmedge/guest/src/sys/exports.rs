use crate::abi::{claim, failed, reply_with, Outcome};
use crate::{host, Buffer, IntoReply};

/// `roadrunner_handle`.
///
/// # Safety
/// If the host holds a buffer of at least `len` bytes at `address`, it has written the first `len` of them.
pub unsafe fn handle<R: IntoReply>(
    address: usize,
    len: usize,
    handler: impl FnOnce(Buffer) -> R,
) -> Outcome {
    host::report_panics();
    match claim(address, len) {
        Ok(mut payload) => {
            // SAFETY: `claim` found a buffer of at least `len` bytes that the host held, so by the caller's promise the
            // first `len` have been written.
            unsafe { payload.set_len(len) };
            reply_with(handler(payload))
        }
        Err(reason) => failed(reason),
    }
}

/// Makes `$handler` the function that this module offers to Roadrunner: exports `roadrunner_allocate`, `roadrunner_free`,
/// `roadrunner_handle` and `_initialize`.
///
/// The handler is a `fn(Buffer) -> impl IntoReply`. Call the macro once, in a crate of type `cdylib`. On other targets
/// than wasm32 it only checks the handler's type.
///
/// ```
/// use roadrunner_guest::{function, Buffer, OutOfMemory};
///
/// fn first_kilobyte(mut payload: Buffer) -> Result<Buffer, String> {
///     if payload.is_empty() {
///         return Err("there is nothing to cut".into());
///     }
///     payload.truncate(1024);
///     Ok(payload)
/// }
///
/// function!(first_kilobyte);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! function {
    ($handler:expr) => {
        const _: () = {
            // Without it the linker takes the module for a command and runs the C library's start before, and its end
            // after, every single call of an export.
            #[cfg(target_arch = "wasm32")]
            #[no_mangle]
            extern "C" fn _initialize() {
                $crate::abi::initialize()
            }

            #[cfg(target_arch = "wasm32")]
            #[no_mangle]
            extern "C" fn roadrunner_allocate(len: u32, align: u32) -> u32 {
                $crate::abi::allocate(len, align) as u32
            }

            #[cfg(target_arch = "wasm32")]
            #[no_mangle]
            extern "C" fn roadrunner_free(ptr: u32) {
                $crate::abi::free(ptr as usize)
            }

            #[cfg(target_arch = "wasm32")]
            #[no_mangle]
            extern "C" fn roadrunner_handle(ptr: u32, len: u32) -> u64 {
                // SAFETY: only the host can call this export, and by the ABI it has written `len` bytes at `ptr`.
                let outcome = unsafe { $crate::abi::handle(ptr as usize, len as usize, $handler) };
                outcome.pack()
            }

            #[cfg(not(target_arch = "wasm32"))]
            const _: () = $crate::abi::check_handler(&$handler);
        };
    };
}
