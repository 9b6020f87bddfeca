//! The unsafe code of this crate: functions that stand in front of the C library's, and what they know of this thread.

mod real;
mod shadows;

use crate::call::Call;
use crate::plan::{Bytes, Plan, Verdict, Victim, Way};
use nix::errno::Errno;
use nix::libc::{self, c_int, c_long, c_void};
use real::real;
use std::cell::Cell;
use std::os::fd::RawFd;
use std::ptr;

thread_local! {
    /// The plan of this thread. Without a destructor, so that it can be asked for as long as the thread runs.
    static CURRENT: Cell<*const Plan> = const { Cell::new(ptr::null()) };
}

/// Sets the plan of this thread, and the one before when it is dropped.
struct Current(*const Plan);

impl Current {
    fn set(plan: *const Plan) -> Self {
        Self(CURRENT.replace(plan))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Runs `operation` with all shadowed calls of this thread under `plan`.
pub(crate) fn under<R>(plan: &Plan, operation: impl FnOnce() -> R) -> R {
    shadows::keep();
    let _current = Current::set(plan);
    operation()
}

/// Looks at the plan of this thread, if it has one. What `look` itself calls is not under it.
fn with_plan<R>(look: impl FnOnce(&Plan) -> R) -> Option<R> {
    let none = Current::set(ptr::null());
    // SAFETY: the pointer is null or that of a plan which `under` borrows until it takes the pointer back, in this
    // thread.
    let plan = unsafe { none.0.as_ref() };
    plan.map(look)
}

/// What a call of the C library returns when it fails.
trait Outcome: Copy {
    const FAILED: Self;
    /// Negative if it failed.
    fn count(self) -> isize;
}

impl Outcome for c_int {
    const FAILED: Self = -1;
    fn count(self) -> isize {
        self as isize
    }
}

impl Outcome for isize {
    const FAILED: Self = -1;
    fn count(self) -> isize {
        self
    }
}

impl Outcome for c_long {
    const FAILED: Self = -1;
    fn count(self) -> isize {
        self as isize
    }
}

/// What `pthread_create` returns: 0 or an error, and leaves errno alone.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Created(c_int);

impl Outcome for Created {
    const FAILED: Self = Self(libc::EAGAIN);
    fn count(self) -> isize {
        -(self.0 as isize)
    }
}

impl Outcome for *mut c_void {
    const FAILED: Self = libc::MAP_FAILED;
    fn count(self) -> isize {
        if self == libc::MAP_FAILED {
            -1
        } else {
            0
        }
    }
}

/// Makes a call as this thread's plan says. `make` gets the most bytes that it may ask for.
fn call<R: Outcome>(call: Call, bytes: Option<Bytes>, make: impl FnOnce(usize) -> R) -> R {
    if CURRENT.get().is_null() {
        return make(usize::MAX);
    }
    let verdict = with_plan(|plan| plan.ask(call, bytes)).unwrap_or(Verdict::Make(usize::MAX));
    let most = match verdict {
        Verdict::Fail(errno) => {
            Errno::set(errno);
            return R::FAILED;
        }
        Verdict::Die(socket) => {
            die(socket);
            usize::MAX
        }
        Verdict::Kill => kill(),
        Verdict::Make(most) => most,
    };
    let result = make(most);
    // Whoever made the call looks at errno next.
    let errno = Errno::last_raw();
    let dead = with_plan(|plan| plan.tell(call, bytes, result.count())).flatten();
    match dead {
        Some(Victim::Socket(socket)) => die(socket),
        Some(Victim::Process) => kill(),
        None => {}
    }
    Errno::set_raw(errno);
    result
}

/// What a call is asked for that moves bytes through `descriptor`.
fn bytes(len: usize, way: Way, descriptor: c_int) -> Option<Bytes> {
    // The question costs a system call.
    let asked = !CURRENT.get().is_null();
    Some(Bytes {
        len,
        socket: (asked && is_socket(descriptor)).then_some((way, descriptor)),
    })
}

fn is_socket(descriptor: c_int) -> bool {
    let before = Errno::last_raw();
    let mut kind: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    let get = real!(fn getsockopt(c_int, c_int, c_int, *mut c_void, *mut libc::socklen_t) -> c_int);
    // SAFETY: the option is an int, whose address and size are given and which outlives the call.
    let result = unsafe {
        get(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            ptr::from_mut(&mut kind).cast(),
            &mut len,
        )
    };
    Errno::set_raw(before);
    result == 0
}

/// Ends the process as `kill -9` does.
fn kill() -> ! {
    // SAFETY: both only name this process. Nothing of it runs after the first; the second is for the compiler's sake.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
        libc::abort()
    }
}

/// Lets the kernel close a socket, as it does when a process dies, and puts one in its place whose peer is gone.
fn die(socket: RawFd) {
    let mut pair = [-1; 2];
    let make = real!(fn socketpair(c_int, c_int, c_int, *mut c_int) -> c_int);
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `pair` has room for the two descriptors. They are this function's own, and closed by it; `dup3` replaces a
    // descriptor by one that is as good for what its owner does with it: use it until it fails, and close it.
    unsafe {
        if make(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) == 0 {
            libc::close(pair[1]);
            libc::dup3(pair[0], socket, libc::O_CLOEXEC);
            libc::close(pair[0]);
        } else {
            // Without a descriptor left it dies more slowly: the peer sees the same.
            libc::shutdown(socket, libc::SHUT_RDWR);
        }
    }
}
