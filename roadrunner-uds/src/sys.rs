//! The unsafe code of this crate: the system calls that move payloads between a socket and raw memory, and descriptors
//! from process to process; and memory that two processes map.
//!
//! They take addresses instead of slices, because a Rust slice would promise that nobody else writes the bytes.

use crate::foreign::Foreign;
use nix::errno::Errno;
use nix::libc;
use roadrunner_core::Span;
use roadrunner_mem::Segment;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// The most descriptors that go with one message (`SCM_MAX_FD`, unix(7)). All of them are taken in: what does not fit the
/// kernel closes within the call, and a socket may linger there.
pub(crate) const MOST: usize = 253;
const DESCRIPTOR: usize = size_of::<libc::c_int>();
/// Bytes for a control message of that many, and of one.
// SAFETY: CMSG_SPACE computes a number from a number.
const ROOM: usize = unsafe { libc::CMSG_SPACE((MOST * DESCRIPTOR) as u32) } as usize;
// SAFETY: as above.
const ROOM_FOR_ONE: usize = unsafe { libc::CMSG_SPACE(DESCRIPTOR as u32) } as usize;

/// Room for control messages, aligned as their headers have to be.
#[repr(C)]
struct Control<const LEN: usize> {
    header: [libc::cmsghdr; 0],
    bytes: [u8; LEN],
}

impl<const LEN: usize> Control<LEN> {
    const EMPTY: Self = Self {
        header: [],
        bytes: [0; LEN],
    };
}

/// What came with bytes.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) descriptors: Vec<Foreign>,
    /// There were more, for which this process has no room, and which the kernel has closed.
    pub(crate) cut: bool,
}

/// `recvmsg(2)` without waiting: bytes, and descriptors that were passed with them.
pub(crate) fn recv(
    socket: BorrowedFd<'_>,
    into: Span<'_>,
    passed: &mut Passed,
) -> io::Result<usize> {
    let mut part = libc::iovec {
        iov_base: into.as_ptr().cast(),
        iov_len: into.len(),
    };
    let mut control = Control::<ROOM>::EMPTY;
    let mut message = empty_message();
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_mut(&mut control).cast();
    message.msg_controllen = ROOM;
    // SAFETY: `message` points at `part`, which describes a Span, valid for writes of its length, and at `control`, whose
    // length it says; both outlive the call.
    let count = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &mut message,
            libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::from(Errno::last()))?;
    passed.cut |= message.msg_flags & libc::MSG_CTRUNC != 0;
    // SAFETY: the kernel has filled `control` and set its length; the message is as recvmsg(2) left it.
    unsafe { take_descriptors(&message, &mut passed.descriptors) };
    Ok(count)
}

/// Owns what a received message carries.
///
/// # Safety
/// `message` must be as `recvmsg(2)` left it, with the control buffer still there, and looked at by this function once.
unsafe fn take_descriptors(message: &libc::msghdr, descriptors: &mut Vec<Foreign>) {
    // SAFETY: by the contract of this function the control buffer is well-formed.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a header that lies within the buffer.
    while let Some(header) = unsafe { next.as_ref() } {
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: it computes a pointer into, or to the end of, the same control message.
            let data = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: CMSG_LEN computes a number from a number.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = header.cmsg_len.saturating_sub(before) / DESCRIPTOR;
            for at in 0..count {
                // SAFETY: the kernel wrote `count` descriptors there, not necessarily aligned.
                let descriptor = unsafe { data.cast::<libc::c_int>().add(at).read_unaligned() };
                // SAFETY: the kernel made it for this process with this message, and the caller looks at it once.
                let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
                descriptors.push(Foreign::new(descriptor));
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR; `header` is of this message.
        next = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
}

/// `sendmsg(2)` of `head` followed by `body`, without waiting and without `SIGPIPE`; `descriptor` goes with the first byte.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    head: &[u8],
    body: Span<'_>,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut parts = [
        libc::iovec {
            iov_base: head.as_ptr().cast_mut().cast(),
            iov_len: head.len(),
        },
        libc::iovec {
            iov_base: body.as_ptr().cast(),
            iov_len: body.len(),
        },
    ];
    let mut control = Control::<ROOM_FOR_ONE>::EMPTY;
    let mut message = empty_message();
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    if let Some(descriptor) = descriptor {
        message.msg_control = std::ptr::from_mut(&mut control).cast();
        message.msg_controllen = ROOM_FOR_ONE;
        // SAFETY: the buffer is aligned as a header and has room for one with a descriptor, so that the header is not
        // null and its data lie within.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(DESCRIPTOR as u32) as usize;
            libc::CMSG_DATA(header)
                .cast::<libc::c_int>()
                .write_unaligned(descriptor.as_raw_fd());
        }
    }
    // SAFETY: `message` points at `parts`, which points at `head` and `body`, and at `control`; all of them outlive the
    // call, and the kernel only reads them.
    let count = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(count).map_err(|_| Errno::last().into())
}

/// A mapping of a whole segment that the peer has mapped as well, and may write to at any moment.
#[derive(Debug)]
pub(crate) struct Shared {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its mapping alone, and nothing about a mapping belongs to a thread.
unsafe impl Send for Shared {}
// SAFETY: a shared reference gives atomic words, and spans, which are made for bytes that others write meanwhile.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps a segment to be read and written to.
    pub(crate) fn map(segment: &Segment) -> io::Result<Self> {
        let len = segment.len();
        // SAFETY: a new mapping where the kernel finds room takes no memory from anybody. The segment is `len` bytes long
        // and cannot shrink, so that no page of it can be missing.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                segment.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// The word at this place, a multiple of 8.
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at % 8 == 0 && at < self.len, "a word of the ring");
        // SAFETY: the mapping starts at a page and is whole pages long, so that all 8 bytes are in it, aligned, for as long
        // as `self` is borrowed. This process reaches them by atomic operations only; what the peer does to them is
        // outside this program, and any value is a valid one.
        unsafe { AtomicU64::from_ptr(self.start.add(at).cast().as_ptr()) }
    }

    /// `len` bytes from this place on.
    pub(crate) fn span(&self, at: usize, len: usize) -> Span<'_> {
        let end = at.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len), "within the ring");
        // SAFETY: checked to lie in the mapping, which stays, readable and writable, for as long as `self` is borrowed. No
        // reference to bytes that a span is made of is: words lie elsewhere.
        unsafe { Span::from_raw_parts(self.start.add(at), len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the pages are this value's own, and nothing that borrows it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

fn empty_message() -> libc::msghdr {
    // SAFETY: msghdr is plain data for which all zeros (no name, no control message, no parts) is a valid value.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{fcntl, FcntlArg, FdFlag};
    use roadrunner_mem::PageBuffer;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_passed_stays_in_this_process_and_nobody_waits_for_it() {
        let (near, far) = UnixStream::pair().expect("sockets");
        let mut pages = PageBuffer::new(1).expect("memory");
        let memory = Segment::new(1).expect("memory");
        let mut no_page = PageBuffer::new(1).expect("memory");
        let nothing = no_page.span().split_at(0).0;
        let sent = send(far.as_fd(), &[1], nothing, Some(memory.as_fd()));
        assert_eq!(sent.expect("room"), 1);
        let mut passed = Passed::default();
        let received = recv(near.as_fd(), pages.span(), &mut passed);
        assert_eq!((received.expect("a byte"), passed.cut), (1, false));
        let descriptor = passed.descriptors.pop().expect("the memory");
        assert!(passed.descriptors.is_empty());
        let theirs = descriptor.into_segment(memory.len() as u64);
        let theirs = theirs.expect("sealed");
        let flags = fcntl(theirs.as_fd(), FcntlArg::F_GETFD).expect("it is open");
        assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC));

        let error = recv(near.as_fd(), pages.span(), &mut passed).expect_err("nothing there");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let error = std::iter::repeat_with(|| send(far.as_fd(), &[0; 4096], nothing, None))
            .find_map(Result::err)
            .expect("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
