//! Pages that a pipe refers to.

use nix::errno::Errno;
use nix::libc;
use roadrunner_core::Span;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `vmsplice(2)` without waiting: the pipe refers to the pages of `pages` from then on, until what was spliced from it
/// has been read at the far end. Whoever writes to the pages before changes what is read there.
pub(crate) fn vmsplice(pipe: BorrowedFd<'_>, pages: Span<'_>) -> io::Result<usize> {
    let part = libc::iovec {
        iov_base: pages.as_ptr().cast(),
        iov_len: pages.len(),
    };
    // SAFETY: `part` describes the bytes of a Span, which are mapped; the kernel reads them and holds their pages by
    // references of its own, so that they may be unmapped at any time.
    let count = unsafe { libc::vmsplice(pipe.as_raw_fd(), &part, 1, libc::SPLICE_F_NONBLOCK) };
    usize::try_from(count).map_err(|_| Errno::last().into())
}
