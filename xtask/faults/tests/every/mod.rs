//! Every symbol, called as C would with arguments that are good for nothing.

use nix::libc;
use roadrunner_faults::Call;
use std::mem::zeroed;
use std::ptr::{null, null_mut};

/// Makes a call, and says whether it failed.
pub(crate) type Make = fn() -> bool;

macro_rules! symbols {
    ($($call:ident $name:ident($($argument:expr),*);)*) => {
        vec![$((
            Call::$call,
            stringify!($name),
            // SAFETY: descriptor -1 is none, and address 0 is nobody's: the kernel fails each of these, if it is asked.
            (|| unsafe { symbols!(@failed libc::$name($($argument),*)) }) as Make,
        )),*]
    };
    (@failed $result:expr) => { ($result as isize) != 0 };
}

const NONE: libc::c_int = -1;

/// The call, its symbol, and how to make it.
pub(crate) fn symbols() -> Vec<(Call, &'static str, Make)> {
    symbols! {
        Read read(NONE, null_mut(), 0);
        Readv readv(NONE, null(), 0);
        Recv recv(NONE, null_mut(), 0, 0);
        Recvfrom recvfrom(NONE, null_mut(), 0, 0, null_mut(), null_mut());
        Recvmsg recvmsg(NONE, &mut zeroed(), 0);
        Write write(NONE, null(), 0);
        Writev writev(NONE, null(), 0);
        Send send(NONE, null(), 0, 0);
        Sendto sendto(NONE, null(), 0, 0, null(), 0);
        Sendmsg sendmsg(NONE, &zeroed(), 0);
        Splice splice(NONE, null_mut(), NONE, null_mut(), 0, 0);
        Vmsplice vmsplice(NONE, null(), 0, 0);
        Accept accept(NONE, null_mut(), null_mut());
        Accept accept4(NONE, null_mut(), null_mut(), 0);
        Bind bind(NONE, null(), 0);
        Connect connect(NONE, null(), 0);
        Listen listen(NONE, 0);
        Socket socket(NONE, 0, 0);
        Socketpair socketpair(NONE, 0, 0, null_mut());
        Setsockopt setsockopt(NONE, 0, 0, null(), 0);
        Getsockopt getsockopt(NONE, 0, 0, null_mut(), null_mut());
        Getsockname getsockname(NONE, null_mut(), null_mut());
        Getpeername getpeername(NONE, null_mut(), null_mut());
        Shutdown shutdown(NONE, 0);
        Pipe pipe2(null_mut(), 0);
        Dup dup(NONE);
        Fcntl fcntl(NONE, libc::F_GETFD);
        Ioctl ioctl(NONE, 0);
        Poll poll(null_mut(), 1, 0);
        Poll ppoll(null_mut(), 1, null(), null());
        Open open64(null(), 0);
        Stat stat64(null(), null_mut());
        Stat lstat64(null(), null_mut());
        Stat fstat64(NONE, null_mut());
        Stat statx(NONE, null(), 0, 0, null_mut());
        Chmod fchmod(NONE, 0);
        Flock flock(NONE, 0);
        Unlink unlink(null());
        Sync fsync(NONE);
        Truncate ftruncate(NONE, 0);
        Truncate ftruncate64(NONE, 0);
        Memfd memfd_create(null(), 0);
        Map mmap(null_mut(), 0, 0, libc::MAP_PRIVATE, NONE, 0);
        Map mmap64(null_mut(), 0, 0, libc::MAP_PRIVATE, NONE, 0);
        MapFixed mmap(null_mut(), 0, 0, libc::MAP_PRIVATE | libc::MAP_FIXED, NONE, 0);
        MapFixed mmap64(null_mut(), 0, 0, libc::MAP_PRIVATE | libc::MAP_FIXED, NONE, 0);
        Unmap munmap(null_mut(), 0);
        Remap mremap(null_mut(), 0, 0, 0);
        Remap syscall(libc::SYS_mremap, 0, 0, 0, 0, 0);
        RingSetup syscall(libc::SYS_io_uring_setup, 0, 0, 0, 0, 0, 0);
        RingRegister syscall(libc::SYS_io_uring_register, NONE, 0, 0, 0, 0, 0);
        RingEnter syscall(libc::SYS_io_uring_enter, NONE, 0, 0, 0, 0, 0);
        Advise madvise(null_mut(), 1, 0);
        Thread pthread_create(null_mut(), null(), never, null_mut());
    }
}

extern "C" fn never(_: *mut libc::c_void) -> *mut libc::c_void {
    null_mut()
}
