//! The `roadrunner` program from outside: what it does with workflows, on this host and between hosts, and what it leaves.

mod bad_input;
mod hosts;
mod pictures;
mod scarce;
mod serve;
mod serve_hostile;
mod serve_limits;
#[cfg(feature = "tls")]
mod serve_tls;
mod soak;
mod support;
