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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PageBuffer;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn a_pipe_takes_what_it_has_room_for_and_nobody_waits() {
        const LEN: usize = 3 << 20;
        let mut pages = PageBuffer::new(LEN).expect("memory");
        let bytes: Vec<u8> = (0..LEN).map(|at| (at / 4093) as u8).collect();
        pages.span().copy_from_slice(&bytes);
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let taken = vmsplice(writer.as_fd(), pages.span()).expect("room");
        assert!((1..LEN).contains(&taken), "{taken}");
        let error = vmsplice(writer.as_fd(), pages.span()).expect_err("it is full");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(writer);
        let mut read = Vec::new();
        File::from(reader).read_to_end(&mut read).expect("a pipe");
        assert!(read == bytes[..taken]);
    }
}
