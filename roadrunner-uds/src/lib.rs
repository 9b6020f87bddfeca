#![doc = include_str!("../README.md")]
// The example in the README is a whole program.
#![allow(clippy::needless_doctest_main)]

mod address;
mod bind;
mod foreign;
mod link;
mod listener;
mod options;
mod ring;
mod segments;
mod socket;
#[allow(unsafe_code)]
mod sys;
mod wire;

pub use address::{Address, AddressError};
pub use link::{connect, pair, Link};
pub use listener::Listener;
pub use options::{Options, Preference};
pub use roadrunner_mem::{Server, Service};
pub use wire::{Peer, UnixWire};
