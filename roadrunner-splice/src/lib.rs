#![doc = include_str!("../README.md")]
// The example in the README is a whole program.
#![allow(clippy::needless_doctest_main)]

mod checksum;
mod chooser;
mod congestion;
mod incomplete;
mod link;
mod listener;
mod options;
mod places;
mod secret;
mod session;
mod socket;
mod streams;
#[allow(unsafe_code)]
mod sys;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
#[cfg(feature = "tls")]
mod tls;
mod wire;
mod zerocopy;

pub use link::{connect, Link};
pub use listener::Listener;
pub use options::{Options, Preference};
pub use places::origin;
pub use roadrunner_mem::{Server, Service};
pub use secret::{Secret, SecretError};
pub use session::{Session, SessionListener};
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError};
pub use wire::TcpWire;
pub use zerocopy::ZeroCopyBy;
