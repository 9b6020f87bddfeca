//! Links that are encrypted, and those who should not be at the other end.

#![cfg(feature = "tls")]

#[path = "../common/mod.rs"]
mod common;
mod hands;
mod links;
mod sessions;

use roadrunner_core::TransferError;
use roadrunner_splice::{Listener, Options};

fn listener(options: Options) -> Listener {
    Listener::bind("127.0.0.1:0", options).expect("a free port")
}

fn is_refused(error: &TransferError) -> bool {
    matches!(error, TransferError::Refused(_))
}
