//! `splice(2)` into a socket whose peer is gone raises `SIGPIPE`, and no flag prevents it (tried: a program with the
//! signal's default action dies). A library must not kill its program, whatever that has chosen to do with the signal.

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{pthread_sigmask, SigSet, SigmaskHow, Signal};
use std::io;
use std::marker::PhantomData;

/// While it lives, `SIGPIPE` does not reach this thread; one that a `splice` of its own raised is taken back.
pub(crate) struct SigpipeBlocked {
    before: SigSet,
    was_pending: bool,
    /// The mask is the thread's: the value stays there.
    not_send: PhantomData<*const ()>,
}

impl SigpipeBlocked {
    pub(crate) fn new() -> io::Result<Self> {
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&sigpipe()), Some(&mut before))?;
        Ok(Self {
            before,
            was_pending: is_pending(),
            not_send: PhantomData,
        })
    }

    /// Takes back the signal that came with an `EPIPE`.
    pub(crate) fn take_back(&self) {
        if self.was_pending {
            return;
        }
        let at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: both structures outlive the call, and no information about the signal is asked for.
        unsafe { libc::sigtimedwait(sigpipe().as_ref(), std::ptr::null_mut(), &at_once) };
    }
}

impl Drop for SigpipeBlocked {
    fn drop(&mut self) {
        // It cannot fail: the mask is one that the thread had before.
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

fn sigpipe() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGPIPE);
    set
}

fn is_pending() -> bool {
    let mut set = SigSet::empty().as_ref().to_owned();
    // SAFETY: `set` is a signal set to write to and to read from.
    unsafe {
        Errno::result(libc::sigpending(&mut set)).is_ok()
            && libc::sigismember(&set, libc::SIGPIPE) == 1
    }
}
