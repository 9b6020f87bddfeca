//! Which faults are a guest's: WasmEdge's signal handlers, made to tell a guest's trap from a crash of the host, and to
//! work when a guest has used up the stack.
//!
//! WasmEdge turns SIGSEGV, SIGBUS and SIGFPE into traps by a `longjmp` out of the handler, whatever code faulted, and
//! its handlers run on the stack that they interrupt. So a fault in host code would be jumped out of, with its locks
//! held; and a guest that recurses without end leaves no stack for the handler, which kills the process. The handler
//! here runs on a stack of its own and passes on to WasmEdge's only what compiled guest code raised.
//!
//! What remains: a guest that calls the host with next to no stack left, so that it is host code that overflows it. That
//! is a crash of the host.

use super::watchdog::CodeRange;
use nix::libc;
use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

const SIGNALS: [libc::c_int; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE];

/// Bytes of the stack that handlers run on: room for the unwinder, which WasmEdge calls in its handler.
const STACK: usize = 128 << 10;
const PAGE: usize = 4096;

/// How a signal was handled before, and how WasmEdge handles it.
struct Handlers {
    before: [libc::sigaction; 3],
    wasmedge: [libc::sigaction; 3],
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

thread_local! {
    /// The code of the guest that runs on this thread; null between calls. Has no destructor and no lazy initialiser:
    /// it is read in a signal handler.
    static GUEST: Cell<*const [CodeRange]> = const { Cell::new(ptr::slice_from_raw_parts(ptr::null(), 0)) };
    static HANDLER_STACK: RefCell<Option<HandlerStack>> = const { RefCell::new(None) };
}

/// How the signals are handled at present.
pub(crate) fn present() -> [libc::sigaction; 3] {
    SIGNALS.map(|signal| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: sigaction(2) with no new action writes the present one; should it fail, zeros are an action too:
        // SIG_DFL with no flags.
        unsafe {
            libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
            action.assume_init()
        }
    })
}

/// Puts [`handle`] before WasmEdge's handlers. To be called while a guest runs that never returns, so that they stay
/// installed; `before` is what was [`present`] before any guest was entered.
pub(crate) fn install(before: [libc::sigaction; 3]) {
    put(HANDLERS.get_or_init(|| Handlers {
        before,
        wasmedge: present(),
    }));
}

/// Puts [`handle`] back where it was, if it was installed. The compiler's first run in a process installs handlers of its
/// own over ours (LLVM's, which remove unfinished files); they raise a guest's fault anew, from an address that is no
/// longer the guest's.
pub(super) fn reinstall() {
    if let Some(handlers) = HANDLERS.get() {
        put(handlers);
    }
}

fn put(handlers: &Handlers) {
    for (signal, wasmedge) in SIGNALS.iter().zip(&handlers.wasmedge) {
        if !is_function(wasmedge) {
            // Not handled by WasmEdge on this platform.
            continue;
        }
        let mut action = *wasmedge;
        action.sa_sigaction = handle as *const () as libc::sighandler_t;
        action.sa_flags |= libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `handle` has the type that SA_SIGINFO asks for and is safe to be called at any time, see there.
        unsafe { libc::sigaction(*signal, &action, ptr::null_mut()) };
    }
}

fn is_function(action: &libc::sigaction) -> bool {
    action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN
}

/// The handler. Async-signal-safe: it reads a thread-local without a destructor, which [`enter`] has touched on every
/// thread that runs guests, and statics; it takes no lock and allocates nothing.
unsafe extern "C" fn handle(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let Some(handlers) = HANDLERS.get() else {
        return;
    };
    let Some(at) = SIGNALS.iter().position(|known| *known == signal) else {
        return;
    };
    // SAFETY: the kernel passes the interrupted context to a handler with SA_SIGINFO.
    let instruction = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs }
        [libc::REG_RIP as usize] as usize;
    let guest = GUEST.get();
    // A thread that runs no guest of ours may run one of somebody else's: that is WasmEdge's, as it would be without us.
    // SAFETY: not null only while `Entered` lives, which borrows the ranges.
    let is_guests = guest.is_null()
        || unsafe { &*guest }
            .iter()
            .any(|code| code.contains(instruction));
    let action = if is_guests {
        &handlers.wasmedge[at]
    } else {
        &handlers.before[at]
    };
    if !is_function(action) {
        // The default it is: the instruction faults once more when this returns, and the process dies of it.
        // SAFETY: `action` is what sigaction(2) once returned, or zeros.
        unsafe { libc::sigaction(signal, action, ptr::null_mut()) };
        return;
    }
    // SAFETY: the address of a handler that was installed for this signal, called as the kernel would: with three
    // arguments if it asked for them. One that asked for one does not look at the others, in the C calling convention.
    unsafe {
        let function: unsafe extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            std::mem::transmute(action.sa_sigaction);
        function(signal, info, context);
    }
}

/// This thread is about to run a guest, until the result is dropped.
pub(super) struct Entered<'c> {
    outer: *const [CodeRange],
    _code: &'c [CodeRange],
}

/// Says that a guest with this code runs on this thread from now on.
pub(super) fn enter(code: &[CodeRange]) -> Entered<'_> {
    // A thread that is ending has no thread-locals any more: then the stack stays what it was.
    let _ = HANDLER_STACK.try_with(|stack| {
        if let Ok(mut stack) = stack.try_borrow_mut() {
            if stack.is_none() {
                *stack = HandlerStack::new();
            }
        }
    });
    Entered {
        outer: GUEST.replace(code),
        _code: code,
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        GUEST.set(self.outer);
    }
}

/// A stack for the signal handlers of one thread (sigaltstack(2)).
struct HandlerStack {
    /// A page without permissions, then [`STACK`] bytes.
    mapping: *mut libc::c_void,
    before: libc::stack_t,
}

impl HandlerStack {
    /// Gives this thread one, unless it has one that is large enough or there is none to be had.
    fn new() -> Option<Self> {
        let mut before = MaybeUninit::<libc::stack_t>::zeroed();
        // SAFETY: with no new stack the present one is written; zeros are one too.
        let before = unsafe {
            libc::sigaltstack(ptr::null(), before.as_mut_ptr());
            before.assume_init()
        };
        if before.ss_flags & libc::SS_DISABLE == 0 && before.ss_size >= STACK {
            return None;
        }
        // SAFETY: new pages at an address of the kernel's choice.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE + STACK,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return None;
        }
        let stack = Self { mapping, before };
        // SAFETY: inside the mapping, which is ours alone; its first page stays inaccessible.
        let installed = unsafe {
            let bottom = mapping.cast::<u8>().add(PAGE).cast::<libc::c_void>();
            let new = libc::stack_t {
                ss_sp: bottom,
                ss_flags: 0,
                ss_size: STACK,
            };
            libc::mprotect(bottom, STACK, libc::PROT_READ | libc::PROT_WRITE) == 0
                && libc::sigaltstack(&new, ptr::null_mut()) == 0
        };
        // Dropped if not, which unmaps it.
        installed.then_some(stack)
    }
}

impl Drop for HandlerStack {
    fn drop(&mut self) {
        let mut present = MaybeUninit::<libc::stack_t>::zeroed();
        // SAFETY: this runs on the thread that the stack was made for, outside any handler. What was there before is put
        // back if ours is still there; then nothing refers to the mapping any more.
        unsafe {
            libc::sigaltstack(ptr::null(), present.as_mut_ptr());
            let present = present.assume_init();
            if present.ss_sp == self.mapping.cast::<u8>().add(PAGE).cast() {
                libc::sigaltstack(&self.before, ptr::null_mut());
            }
            libc::munmap(self.mapping, PAGE + STACK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler_stack() -> libc::stack_t {
        let mut present = MaybeUninit::<libc::stack_t>::zeroed();
        // SAFETY: with no new stack the present one is written; zeros are one too.
        unsafe {
            assert_eq!(libc::sigaltstack(ptr::null(), present.as_mut_ptr()), 0);
            present.assume_init()
        }
    }

    #[test]
    fn a_thread_has_a_stack_for_handlers_while_it_needs_one() {
        std::thread::spawn(|| {
            let before = handler_stack();
            let stack = HandlerStack::new().expect("a small one, or none");
            let present = handler_stack();
            assert_eq!(present.ss_size, STACK);
            assert_eq!(present.ss_flags & libc::SS_DISABLE, 0);
            assert!(HandlerStack::new().is_none(), "it is large enough");
            drop(stack);
            let after = handler_stack();
            let same = |one: libc::stack_t| (one.ss_sp, one.ss_size, one.ss_flags);
            assert_eq!(same(after), same(before));
        })
        .join()
        .expect("no panic");
    }

    /// What was put there since is somebody else's.
    #[test]
    fn another_stack_for_handlers_stays() {
        std::thread::spawn(|| {
            let stack = HandlerStack::new().expect("a small one, or none");
            let mut own = vec![0_u8; 2 * STACK];
            let new = libc::stack_t {
                ss_sp: own.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: own.len(),
            };
            // SAFETY: the bytes outlive their use: another stack takes their place below.
            unsafe { assert_eq!(libc::sigaltstack(&new, ptr::null_mut()), 0) };
            let before = stack.before;
            drop(stack);
            assert_eq!(handler_stack().ss_sp, new.ss_sp);
            // SAFETY: the stack that this thread began with, or none.
            unsafe { libc::sigaltstack(&before, ptr::null_mut()) };
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn a_guest_runs_until_it_is_left_and_then_the_one_around_it() {
        let code = |start| [CodeRange::new(start..start + 10)];
        let (outer, inner) = (code(100), code(200));
        assert!(GUEST.get().is_null());
        let entered = enter(&outer);
        assert!(ptr::eq(GUEST.get(), &outer[..]));
        let within = enter(&inner);
        assert!(ptr::eq(GUEST.get(), &inner[..]));
        drop(within);
        assert!(ptr::eq(GUEST.get(), &outer[..]));
        drop(entered);
        assert!(GUEST.get().is_null());
    }

    #[test]
    fn what_is_done_by_default_is_no_function() {
        // SAFETY: plain data for which all zeros are a valid value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        for (address, expected) in [
            (libc::SIG_DFL, false),
            (libc::SIG_IGN, false),
            (handle as *const () as libc::sighandler_t, true),
        ] {
            action.sa_sigaction = address;
            assert_eq!(is_function(&action), expected);
        }
    }
}
