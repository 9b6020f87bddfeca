//! The unsafe code of this crate: system calls that move payloads between sockets and raw memory, and those that nothing
//! wraps.
//!
//! They take addresses instead of slices, because a Rust slice would promise that nobody else writes the bytes.

#[cfg_attr(not(feature = "io-uring"), path = "sys/no_uring.rs")]
mod uring;

use nix::errno::Errno;
use nix::libc;
use roadrunner_core::Span;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

pub(crate) use uring::Ring;

/// `recv(2)`, which waits at most as long as the socket says (`SO_RCVTIMEO`, socket(7)), or not at all.
pub(crate) fn recv(socket: BorrowedFd<'_>, into: Span<'_>, waits: bool) -> io::Result<usize> {
    let flags = if waits { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: a Span is valid for writes of its length, and the kernel writes no more than that.
    let count = unsafe { libc::recv(socket.as_raw_fd(), into.as_ptr().cast(), into.len(), flags) };
    usize::try_from(count).map_err(|_| Errno::last().into())
}

nix::ioctl_read_bad!(outq, libc::TIOCOUTQ, libc::c_int);

/// Bytes of the send queue that the peer's system has not acknowledged (tcp(7), `SIOCOUTQ`).
pub(crate) fn unacknowledged(socket: &impl AsFd) -> nix::Result<libc::c_int> {
    let mut bytes = 0;
    // SAFETY: the call writes one int, which outlives it.
    unsafe { outq(socket.as_fd().as_raw_fd(), &mut bytes) }?;
    Ok(bytes)
}

/// `sendmsg(2)` of `head`, `body` and `tail`, without waiting and without `SIGPIPE`. With `zero_copy` the kernel may refer
/// to the pages of all three until it says otherwise.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    head: &[u8],
    body: Span<'_>,
    tail: &[u8],
    zero_copy: bool,
) -> io::Result<usize> {
    let part = |bytes: &[u8]| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let body = libc::iovec {
        iov_base: body.as_ptr().cast(),
        iov_len: body.len(),
    };
    let mut parts = [part(head), body, part(tail)];
    // SAFETY: msghdr is plain data for which all zeros (no name, no control message, no parts) is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    let mut flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    if zero_copy {
        flags |= libc::MSG_ZEROCOPY;
    }
    // SAFETY: `message` points at `parts`, which points at `head`, `body` and `tail`; all of them outlive the call, and the
    // kernel only reads them. Pages that it refers to afterwards it holds itself, whatever becomes of the mapping, and reads
    // at most.
    let count = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
    usize::try_from(count).map_err(|_| Errno::last().into())
}

/// Lets `MSG_ZEROCOPY` have a meaning on a socket (`SO_ZEROCOPY`, socket(7)).
pub(crate) fn allow_zero_copy(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, which is read during the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            std::ptr::from_ref(&on).cast(),
            std::mem::size_of_val(&on) as libc::socklen_t,
        )
    };
    Errno::result(set).map(drop).map_err(io::Error::from)
}

/// Resets a connection and forgets what was to be sent on it (`connect(2)` to `AF_UNSPEC`). The descriptor stays.
pub(crate) fn reset(socket: BorrowedFd<'_>) {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    // SAFETY: the address is read during the call and has the length that is said.
    unsafe {
        libc::connect(
            socket.as_raw_fd(),
            &nowhere,
            std::mem::size_of_val(&nowhere) as libc::socklen_t,
        );
    }
}
