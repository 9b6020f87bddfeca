//! The proof of the secret, against a stranger. There is a socket beneath it, so that it is slower than the other targets.

use crate::strangers::Ends;
use roadrunner_splice::{Options, Secret};
use std::cell::RefCell;

const SECRET: &[u8] = b"nobody can guess this one";

thread_local! {
    static ENDS: RefCell<Ends> = RefCell::new(Ends::new(options()));
}

fn options() -> Options {
    Options::default().secret(Secret::from_bytes(SECRET).expect("long enough"))
}

/// The first byte says whether the stranger connects or listens, and whether it knows how a greeting begins.
pub(crate) fn run(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let mut bytes = rest.to_vec();
    if first & 2 != 0 {
        bytes.splice(..0, *b"auth-RR1");
    }
    ENDS.with_borrow_mut(|ends| {
        if first & 1 == 0 {
            ends.called(&bytes);
        } else {
            ends.calls(bytes);
        }
    });
}
