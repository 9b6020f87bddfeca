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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// What comes with an `EPIPE`.
    fn raise() {
        let (reader, mut writer) = std::os::unix::net::UnixStream::pair().expect("sockets");
        drop(reader);
        let error = writer.write_all(&[0]).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        // The standard library's sockets raise nothing.
        nix::sys::signal::raise(Signal::SIGPIPE).expect("a signal");
    }

    fn is_blocked() -> bool {
        let mask = SigSet::thread_get_mask().expect("a mask");
        mask.contains(Signal::SIGPIPE)
    }

    #[test]
    fn a_signal_of_its_own_is_taken_back_and_the_mask_is_as_before() {
        assert!(!is_blocked() && !is_pending());
        let blocked = SigpipeBlocked::new().expect("a mask");
        assert!(is_blocked());
        raise();
        assert!(is_pending());
        blocked.take_back();
        assert!(!is_pending());
        // There may be none.
        blocked.take_back();
        drop(blocked);
        assert!(!is_blocked());
    }

    #[test]
    fn a_signal_that_was_there_before_stays() {
        // It stays in the thread, which another test may have next.
        let thread = std::thread::spawn(|| {
            pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&sigpipe()), None).expect("a mask");
            raise();
            let blocked = SigpipeBlocked::new().expect("a mask");
            blocked.take_back();
            drop(blocked);
            assert!(is_pending() && is_blocked());
        });
        thread.join().expect("no panic");
    }
}
