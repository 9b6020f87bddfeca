//! Descriptors that a peer passed, and how they are closed without waiting for the peer.

use nix::fcntl::{fcntl, FcntlArg};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use roadrunner_core::TransferError;
use roadrunner_mem::Segment;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A descriptor that the peer passed, this process's own by now.
///
/// To close one may take as long as whoever made it likes: a socket may linger (socket(7)), another one may have such a socket
/// in it, and a file system in user space may never answer. Only memory is nobody's but the kernel's: all else is closed by a
/// thread. Behind one that it does not get closed there is room for as many as two messages have: what comes then is closed by
/// whoever has it, because there must not be more and more of them. Nor is there a remedy for what the kernel closes within
/// recvmsg(2) because this process has as many descriptors as it may.
#[derive(Debug)]
pub(crate) struct Foreign(Option<OwnedFd>);

impl Foreign {
    pub(crate) fn new(descriptor: OwnedFd) -> Self {
        Self(Some(descriptor))
    }

    /// The segment of so many bytes that it has to be.
    ///
    /// # Errors
    /// As [`Segment::from_received`].
    pub(crate) fn into_segment(mut self, len: u64) -> Result<Segment, TransferError> {
        let memory = self.0.take_if(|descriptor| is_memory(descriptor));
        let memory = memory.ok_or_else(|| {
            TransferError::Refused("a passed descriptor is no memfd: it knows no seals".to_owned())
        })?;
        Segment::from_received(memory, len)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(descriptor) = self.0.take() {
            if !is_memory(&descriptor) {
                close_elsewhere(descriptor);
            }
        }
    }
}

/// Only memfds know seals, and files of file systems in memory: neither this nor closing one asks anybody.
fn is_memory(descriptor: &OwnedFd) -> bool {
    fcntl(descriptor, FcntlArg::F_GET_SEALS).is_ok()
}

/// How long whoever drops a descriptor waits for the thread that closes it: what is meant well is closed in microseconds, and
/// nothing is left of it then. Once somebody has waited in vain nobody waits any more, or peers could have him do so again and
/// again.
const MOMENT: Duration = Duration::from_secs(1);

/// The most that wait for the thread. There is no call that gives a descriptor up without waiting.
const MOST: usize = 512;

/// What the thread has to do.
struct Closing {
    descriptors: VecDeque<OwnedFd>,
    /// There is a thread.
    is_at_work: bool,
    /// Somebody has waited for it in vain.
    was_stuck: bool,
}

static CLOSING: Mutex<Closing> = Mutex::new(Closing {
    descriptors: VecDeque::new(),
    is_at_work: false,
    was_stuck: false,
});
static IDLE: Condvar = Condvar::new();

/// Whether so many more can be closed without waiting for whoever made them.
pub(crate) fn has_room_for(count: usize) -> bool {
    let closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
    closing.descriptors.len() + count <= MOST
}

/// Closes what may be anything.
fn close_elsewhere(descriptor: OwnedFd) {
    const NO: libc::linger = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    // Ends sooner what would only linger. What is no socket has nothing to linger for.
    let _ = setsockopt(&descriptor, sockopt::Linger, &NO);
    let mut closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
    if closing.descriptors.len() >= MOST {
        // Only while it is stuck.
        drop(closing);
        return;
    }
    if !closing.is_at_work {
        let thread = thread::Builder::new().name("roadrunner-close".to_owned());
        if thread.spawn(close_all).is_err() {
            // Better late than never.
            drop(closing);
            return;
        }
        closing.is_at_work = true;
    }
    closing.descriptors.push_back(descriptor);
    let is_awaited = |closing: &mut Closing| closing.is_at_work && !closing.was_stuck;
    let waited = IDLE.wait_timeout_while(closing, MOMENT, is_awaited);
    let (mut closing, waited) = waited.unwrap_or_else(PoisonError::into_inner);
    closing.was_stuck |= waited.timed_out();
}

/// Closes all that there is, and ends.
fn close_all() {
    loop {
        let mut closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(descriptor) = closing.descriptors.pop_front() else {
            closing.is_at_work = false;
            IDLE.notify_all();
            return;
        };
        drop(closing);
        drop(descriptor);
    }
}
