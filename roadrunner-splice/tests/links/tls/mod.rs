//! Links that are encrypted, and those who should not be at the other end.

mod hands;
mod links;
mod sessions;

use crate::common::certificates::{tls, with_identity, Identity};
use crate::common::secret;
use roadrunner_core::TransferError;
use roadrunner_splice::{Listener, Options, Tls};

fn listener(options: Options) -> Listener {
    Listener::bind("127.0.0.1:0", options).expect("a free port")
}

fn is_refused(error: &TransferError) -> bool {
    matches!(error, TransferError::Refused(_))
}

/// What most links of these tests have.
pub(crate) fn encrypted() -> Options {
    Options::default().secret(secret()).tls(tls())
}

fn being(identity: &Identity) -> Tls {
    with_identity(Tls::new(), identity)
}
