//! The ways of a payload from one process's linear memory into another's over TCP.

#[cfg(feature = "peers")]
mod grpc;
#[cfg(feature = "peers")]
mod http;
pub(super) mod ours;
pub(super) mod tcp;

pub(crate) use super::part::Task;
use super::ping::Talks;
use super::TCP;
pub(crate) use crate::ends::{Receives, Sends};
use anyhow::Result;
use roadrunner_core::Deadline;
use std::time::Duration;

pub(crate) type Accepts<T> = Box<dyn FnOnce() -> Result<Box<T>>>;

/// Where the receiver listens, and what to do once the sender has been told.
pub(crate) type Listens = (String, Accepts<dyn Receives>);
/// The same for small payloads to and fro.
pub(super) type ListensToTalk = (String, Accepts<dyn Talks>);

pub(crate) fn listen(task: &Task) -> Result<Listens> {
    match task.way.as_str() {
        #[cfg(feature = "peers")]
        super::HTTP => http::listen(task),
        #[cfg(feature = "peers")]
        super::GRPC => grpc::listen(task),
        TCP => tcp::listen(task),
        _ => ours::listen(task),
    }
}

pub(crate) fn connect(task: &Task) -> Result<Box<dyn Sends>> {
    match task.way.as_str() {
        #[cfg(feature = "peers")]
        super::HTTP => http::connect(task),
        #[cfg(feature = "peers")]
        super::GRPC => grpc::connect(task),
        TCP => tcp::connect(task),
        _ => ours::connect(task),
    }
}

/// By which anything is done, unless something is wrong.
pub(super) fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}
