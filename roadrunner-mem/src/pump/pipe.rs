//! Pipes that pages are spliced through.

use crate::doorbell::locked;
use crate::sys::{vmsplice, PAGE};
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::unistd::pipe2;
use roadrunner_core::Span;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// Empty pipes that are kept.
const MOST_KEPT: usize = 8;

/// A pool of pipes for any number of links; clones share it. It keeps up to 8 empty pipes and makes others as they are
/// needed: as many as payloads are spliced at the same time.
#[derive(Debug, Clone)]
pub struct Pipes(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    size: usize,
    empty: Mutex<Vec<Pipe>>,
}

impl Pipes {
    /// A pool of pipes that hold `size` bytes each, which is also the size of one step through them. The system rounds
    /// it up to a power of two of pages, and gives an unprivileged user no more than 1 MiB, nor many large ones (pipe(7)):
    /// beyond that a pipe is as small as the system makes it.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self(Arc::new(Pool {
            size,
            empty: Mutex::default(),
        }))
    }

    pub(super) fn take(&self) -> io::Result<Pipe> {
        match locked(&self.0.empty).pop() {
            Some(pipe) => Ok(pipe),
            None => Pipe::new(self.0.size),
        }
    }

    /// Takes back a pipe that has nothing in it.
    pub(super) fn keep(&self, pipe: Pipe) {
        let mut empty = locked(&self.0.empty);
        if empty.len() < MOST_KEPT {
            empty.push(pipe);
        }
    }
}

/// A pipe with nothing in it, while it is kept.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) reading: OwnedFd,
    writing: OwnedFd,
    capacity: usize,
}

impl Pipe {
    fn new(size: usize) -> io::Result<Self> {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Refused when this user has many large pipes; the default works as well, in smaller steps.
        let wished = i32::try_from(size).unwrap_or(i32::MAX);
        let _ = fcntl(&writing, FcntlArg::F_SETPIPE_SZ(wished));
        let capacity = fcntl(&writing, FcntlArg::F_GETPIPE_SZ)?;
        Ok(Self {
            reading,
            writing,
            capacity: usize::try_from(capacity).unwrap_or(PAGE),
        })
    }

    /// Makes the empty pipe refer to the first of `pages`, and says to how many bytes of them.
    pub(super) fn fill(&self, pages: Span<'_>) -> io::Result<usize> {
        let chunk = pages.split_at(self.capacity).0;
        loop {
            match vmsplice(self.writing.as_fd(), chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody waits for room, and the link would take this for a deadline that has passed.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::other("a pipe with nothing in it has no room"))
                }
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_pipes_are_kept_up_to_a_number() {
        let pipes = Pipes::new(64 << 10);
        let taken: Vec<_> = (0..MOST_KEPT + 3)
            .map(|_| pipes.take().expect("descriptors"))
            .collect();
        for pipe in taken {
            pipes.clone().keep(pipe);
        }
        assert_eq!(locked(&pipes.0.empty).len(), MOST_KEPT);
    }
}
