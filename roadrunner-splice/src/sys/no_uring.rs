//! What stands in for io_uring where the crate is built without it.

use roadrunner_core::{Deadline, Span};
use std::io;
use std::os::fd::BorrowedFd;

/// There is none.
#[derive(Debug)]
pub(crate) enum Ring {}

impl Ring {
    pub(crate) fn new() -> io::Result<Self> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "roadrunner-splice was built without its feature io-uring",
        ))
    }

    pub(crate) fn send(
        &mut self,
        _socket: BorrowedFd<'_>,
        _head: &[u8],
        _body: Span<'_>,
        _deadline: Deadline,
    ) -> io::Result<io::Result<usize>> {
        match *self {}
    }

    pub(crate) fn wait(&self, _deadline: Deadline) {
        match *self {}
    }

    pub(crate) fn waiting(&self) -> u32 {
        match *self {}
    }

    pub(crate) fn take_answers(&mut self) -> u32 {
        match *self {}
    }

    pub(crate) fn has_copied(&mut self) -> bool {
        match *self {}
    }
}
