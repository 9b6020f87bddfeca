//! Functions with the names of the C library's: the linker finds these first, for everything in the program that is
//! linked statically, the standard library included. Each asks the plan and calls the C library.
//!
//! What the C library calls within itself (the allocator's `mmap`, the stack of a thread) does not come here.

use super::{bytes, call, real, Created};
use crate::call::Call;
use crate::plan::Way;
use nix::libc::{
    self, c_char, c_int, c_long, c_uint, c_void, iovec, mode_t, msghdr, nfds_t, off_t, pollfd,
    pthread_attr_t, pthread_t, sigset_t, size_t, sockaddr, socklen_t, stat, timespec, MAP_FIXED,
};
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicPtr;

/// A function in front of the C library's of the same name. What follows `=` is how the plan is asked: `call` before a
/// call that is made or not, `moves` with the name of the argument that says how many bytes it is asked for.
macro_rules! shadows {
    ($(
        fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty = $how:tt;
    )*) => {
        $(shadows!(@one $name($($argument: $type),*) -> $result = $how);)*

        /// All of them. A program that refers to this has them all linked.
        #[used]
        static ALL: [AtomicPtr<()>; [$(stringify!($name)),*].len()] =
            [$(AtomicPtr::new($name as *mut ())),*];
    };
    (@one $name:ident($($argument:ident: $type:ty),*) -> $result:ty = (call $call:expr)) => {
        /// # Safety
        /// As the C library's.
        #[no_mangle]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            let real = real!(fn $name($($type),*) -> $result);
            // SAFETY: the caller's arguments, as they are.
            call($call, None, |_| unsafe { real($($argument),*) })
        }
    };
    (@one $name:ident($($argument:ident: $type:ty),*) -> $result:ty
        = (moves $len:ident, $way:ident of $descriptor:ident, $call:expr)) => {
        /// # Safety
        /// As the C library's.
        #[no_mangle]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            let real = real!(fn $name($($type),*) -> $result);
            call($call, bytes($len, Way::$way, $descriptor), |most| {
                let $len = $len.min(most);
                // SAFETY: the caller's arguments, of a buffer possibly only its first part.
                unsafe { real($($argument),*) }
            })
        }
    };
    (@one $name:ident($($argument:ident: $type:ty),*) -> $result:ty
        = (gathers $parts:ident $count:ident, $way:ident of $descriptor:ident, $call:expr)) => {
        /// # Safety
        /// As the C library's.
        #[no_mangle]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            let real = real!(fn $name($($type),*) -> $result);
            // SAFETY: so many parts, by the contract of the caller.
            let all = unsafe { parts($parts, $count as usize) };
            call($call, bytes(total(all), Way::$way, $descriptor), |most| {
                let mut cut = Cut::new(all, most);
                let ($parts, $count) = cut.as_arguments();
                // SAFETY: the caller's arguments, of its parts possibly only the first ones.
                unsafe { real($($argument),*) }
            })
        }
    };
    (@one $name:ident($($argument:ident: $type:ty),*) -> $result:ty = (numbered $number:ident)) => {
        /// # Safety
        /// As the C library's.
        #[no_mangle]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            let real = real!(fn $name($($type),*) -> $result);
            // SAFETY: the caller's arguments, as they are; what it did not pass the kernel does not look at.
            let make = || unsafe { real($($argument),*) };
            let known = match $number {
                libc::SYS_mremap => Call::Remap,
                libc::SYS_io_uring_setup => Call::RingSetup,
                libc::SYS_io_uring_register => Call::RingRegister,
                libc::SYS_io_uring_enter => Call::RingEnter,
                // The locks of the standard library, among others.
                _ => return make(),
            };
            call(known, None, |_| make())
        }
    };
    (@one $name:ident($($argument:ident: $type:ty),*) -> $result:ty
        = (message $message:ident, $way:ident of $descriptor:ident, $call:expr)) => {
        /// # Safety
        /// As the C library's.
        #[no_mangle]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            let real = real!(fn $name($($type),*) -> $result);
            // SAFETY: a message header, by the contract of the caller.
            let header: &msghdr = unsafe { &*$message };
            // SAFETY: it has so many parts, by the same contract.
            let all = unsafe { parts(header.msg_iov, header.msg_iovlen) };
            let asked = bytes(total(all), Way::$way, $descriptor);
            call($call, asked, |most| {
                if most >= total(all) {
                    // SAFETY: the caller's arguments, as they are.
                    return unsafe { real($($argument),*) };
                }
                let mut cut = Cut::new(all, most);
                let mut copy = *header;
                (copy.msg_iov, copy.msg_iovlen) = cut.as_message();
                let whole = $message;
                let $message = std::ptr::from_mut(&mut copy);
                // SAFETY: the caller's arguments, of its parts possibly only the first ones.
                let result = unsafe { real($($argument),*) };
                // SAFETY: the header that the caller passed.
                unsafe { whole.take_back(&copy) };
                result
            })
        }
    };
}

/// A message header as a caller passes it.
trait Header {
    /// # Safety
    /// It points at a message header.
    unsafe fn take_back(self, from: &msghdr);
}

impl Header for *const msghdr {
    unsafe fn take_back(self, _from: &msghdr) {}
}

impl Header for *mut msghdr {
    unsafe fn take_back(self, from: &msghdr) {
        // SAFETY: by the contract of this function; the caller let the kernel write to it.
        unsafe {
            (*self).msg_namelen = from.msg_namelen;
            (*self).msg_controllen = from.msg_controllen;
            (*self).msg_flags = from.msg_flags;
        }
    }
}

/// Sees to it that every shadow is linked: the linker takes a part of a library only if something refers to it.
pub(super) fn keep() {
    std::hint::black_box(&ALL);
}

/// # Safety
/// `start` is the address of `count` parts, or `count` is 0.
unsafe fn parts<'a>(start: *const iovec, count: usize) -> &'a [iovec] {
    if count == 0 {
        return &[];
    }
    // SAFETY: by the contract of this function.
    unsafe { std::slice::from_raw_parts(start, count) }
}

fn total(parts: &[iovec]) -> usize {
    parts
        .iter()
        .fold(0, |sum, part| sum.saturating_add(part.iov_len))
}

/// The first bytes of a buffer in parts.
struct Cut {
    parts: [MaybeUninit<iovec>; Self::MOST],
    count: usize,
    all: (*const iovec, usize),
}

impl Cut {
    /// Beyond so many parts the rest is cut off, which is a short transfer too.
    const MOST: usize = 16;

    fn new(all: &[iovec], mut most: usize) -> Self {
        let mut cut = Self {
            parts: [const { MaybeUninit::uninit() }; Self::MOST],
            count: 0,
            all: (all.as_ptr(), all.len()),
        };
        if most >= total(all) {
            cut.count = usize::MAX;
            return cut;
        }
        for (place, part) in cut.parts.iter_mut().zip(all) {
            let len = part.iov_len.min(most);
            place.write(iovec {
                iov_base: part.iov_base,
                iov_len: len,
            });
            cut.count += 1;
            most -= len;
            if most == 0 {
                break;
            }
        }
        cut
    }

    fn as_message(&mut self) -> (*mut iovec, usize) {
        if self.count == usize::MAX {
            (self.all.0.cast_mut(), self.all.1)
        } else {
            (self.parts.as_mut_ptr().cast(), self.count)
        }
    }

    fn as_arguments<N: TryFrom<usize> + Default>(&mut self) -> (*const iovec, N) {
        let (start, count) = self.as_message();
        // It was one of these a moment ago, or is less.
        (start.cast_const(), N::try_from(count).unwrap_or_default())
    }
}

fn mapping(flags: c_int) -> Call {
    if flags & MAP_FIXED == 0 {
        Call::Map
    } else {
        Call::MapFixed
    }
}

shadows! {
    fn read(fd: c_int, buffer: *mut c_void, len: size_t) -> isize = (moves len, In of fd, Call::Read);
    fn readv(fd: c_int, parts: *const iovec, count: c_int) -> isize
        = (gathers parts count, In of fd, Call::Readv);
    fn recv(fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int) -> isize
        = (moves len, In of fd, Call::Recv);
    fn recvfrom(
        fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int, from: *mut sockaddr, size: *mut socklen_t
    ) -> isize = (moves len, In of fd, Call::Recvfrom);
    fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> isize
        = (message message, In of fd, Call::Recvmsg);
    fn write(fd: c_int, buffer: *const c_void, len: size_t) -> isize = (moves len, Out of fd, Call::Write);
    fn writev(fd: c_int, parts: *const iovec, count: c_int) -> isize
        = (gathers parts count, Out of fd, Call::Writev);
    fn send(fd: c_int, buffer: *const c_void, len: size_t, flags: c_int) -> isize
        = (moves len, Out of fd, Call::Send);
    fn sendto(
        fd: c_int, buffer: *const c_void, len: size_t, flags: c_int, to: *const sockaddr, size: socklen_t
    ) -> isize = (moves len, Out of fd, Call::Sendto);
    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> isize
        = (message message, Out of fd, Call::Sendmsg);
    fn splice(
        from: c_int, at: *mut off_t, to: c_int, there: *mut off_t, len: size_t, flags: c_uint
    ) -> isize = (moves len, Out of to, Call::Splice);
    fn vmsplice(pipe: c_int, parts: *const iovec, count: size_t, flags: c_uint) -> isize
        = (gathers parts count, Out of pipe, Call::Vmsplice);
    fn accept(fd: c_int, address: *mut sockaddr, size: *mut socklen_t) -> c_int = (call Call::Accept);
    fn accept4(fd: c_int, address: *mut sockaddr, size: *mut socklen_t, flags: c_int) -> c_int
        = (call Call::Accept);
    fn bind(fd: c_int, address: *const sockaddr, size: socklen_t) -> c_int = (call Call::Bind);
    fn connect(fd: c_int, address: *const sockaddr, size: socklen_t) -> c_int = (call Call::Connect);
    fn listen(fd: c_int, queue: c_int) -> c_int = (call Call::Listen);
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int = (call Call::Socket);
    fn socketpair(domain: c_int, kind: c_int, protocol: c_int, pair: *mut c_int) -> c_int
        = (call Call::Socketpair);
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, size: socklen_t) -> c_int
        = (call Call::Setsockopt);
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, size: *mut socklen_t) -> c_int
        = (call Call::Getsockopt);
    fn getsockname(fd: c_int, address: *mut sockaddr, size: *mut socklen_t) -> c_int
        = (call Call::Getsockname);
    fn getpeername(fd: c_int, address: *mut sockaddr, size: *mut socklen_t) -> c_int
        = (call Call::Getpeername);
    fn shutdown(fd: c_int, how: c_int) -> c_int = (call Call::Shutdown);
    fn pipe2(pair: *mut c_int, flags: c_int) -> c_int = (call Call::Pipe);
    fn dup(fd: c_int) -> c_int = (call Call::Dup);
    fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int = (call Call::Fcntl);
    fn ioctl(fd: c_int, request: c_long, argument: c_long) -> c_int = (call Call::Ioctl);
    fn poll(events: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int = (call Call::Poll);
    fn ppoll(
        events: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t
    ) -> c_int = (call Call::Poll);
    fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int = (call Call::Open);
    fn stat64(path: *const c_char, to: *mut stat) -> c_int = (call Call::Stat);
    fn lstat64(path: *const c_char, to: *mut stat) -> c_int = (call Call::Stat);
    fn fstat64(fd: c_int, to: *mut stat) -> c_int = (call Call::Stat);
    fn statx(directory: c_int, path: *const c_char, flags: c_int, mask: c_uint, to: *mut c_void) -> c_int
        = (call Call::Stat);
    fn fchmod(fd: c_int, mode: mode_t) -> c_int = (call Call::Chmod);
    fn flock(fd: c_int, operation: c_int) -> c_int = (call Call::Flock);
    fn unlink(path: *const c_char) -> c_int = (call Call::Unlink);
    fn fsync(fd: c_int) -> c_int = (call Call::Sync);
    fn ftruncate(fd: c_int, len: off_t) -> c_int = (call Call::Truncate);
    fn ftruncate64(fd: c_int, len: off_t) -> c_int = (call Call::Truncate);
    fn memfd_create(name: *const c_char, flags: c_uint) -> c_int = (call Call::Memfd);
    fn mmap(
        place: *mut c_void, len: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off_t
    ) -> *mut c_void = (call mapping(flags));
    fn mmap64(
        place: *mut c_void, len: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off_t
    ) -> *mut c_void = (call mapping(flags));
    fn munmap(start: *mut c_void, len: size_t) -> c_int = (call Call::Unmap);
    fn mremap(
        start: *mut c_void, old: size_t, new: size_t, flags: c_int, place: *mut c_void
    ) -> *mut c_void = (call Call::Remap);
    fn madvise(start: *mut c_void, len: size_t, advice: c_int) -> c_int = (call Call::Advise);
    fn pthread_create(
        thread: *mut pthread_t, attributes: *const pthread_attr_t, start: *mut c_void, argument: *mut c_void
    ) -> Created = (call Call::Thread);
    fn syscall(
        number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long
    ) -> c_long = (numbered number);
}
