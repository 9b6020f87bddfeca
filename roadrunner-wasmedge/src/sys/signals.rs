//! Signals that whoever started this program had it ignore.

use nix::libc;
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use std::mem::MaybeUninit;
use std::ptr;

/// Whatever `install` makes of these signals: one that was ignored before is ignored afterwards.
pub(crate) fn keeping_ignored<R>(signals: &[Signal], install: impl FnOnce() -> R) -> R {
    let ignored: Vec<_> = signals.iter().filter(|one| is_ignored(**one)).collect();
    let installed = install();
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in ignored {
        // SAFETY: there is no handler that would have to be safe.
        let again = unsafe { sigaction(*signal, &ignore) };
        // It was possible before.
        let _ = again;
    }
    installed
}

fn is_ignored(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2) with no new action writes the present one; should it fail, zeros are an action too, the default.
    let action = unsafe {
        libc::sigaction(signal as libc::c_int, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}
