//! The ways of a payload from one process's linear memory into another's: ours, and those that others use.

#[cfg(feature = "peers")]
mod iceoryx;
#[cfg(feature = "peers")]
mod ipc;
pub(super) mod ours;
pub(crate) mod redis;
mod socket;

pub(crate) use crate::ends::{Receives, Sends};
use anyhow::{bail, Result};
use std::path::Path;

/// Waits for a sender.
pub(crate) type Accepts = Box<dyn FnOnce() -> Result<Box<dyn Receives>>>;

/// One end that waits for the other: its address, and what takes the other in.
pub(crate) fn listen(way: &str, bytes: u64, directory: &Path) -> Result<(String, Accepts)> {
    match way.split_once('-').unwrap_or((way, "")) {
        ("uds", way) => ours::listen(way, bytes, directory),
        ("socket", tuned) => socket::listen(tuned, bytes, directory),
        ("redis", _) => redis::listen(bytes, directory),
        #[cfg(feature = "peers")]
        ("ipc", kind) => ipc::listen(kind, bytes),
        #[cfg(feature = "peers")]
        ("iceoryx2", _) => iceoryx::listen(bytes, directory),
        _ => bail!("there is no way {way:?} in this build"),
    }
}

pub(crate) fn connect(way: &str, bytes: u64, address: &str) -> Result<Box<dyn Sends>> {
    match way.split_once('-').unwrap_or((way, "")) {
        ("uds", way) => ours::connect(way, bytes, address),
        ("socket", tuned) => socket::connect(tuned, bytes, address),
        ("redis", _) => redis::connect(bytes, address),
        #[cfg(feature = "peers")]
        ("ipc", kind) => ipc::connect(kind, bytes, address),
        #[cfg(feature = "peers")]
        ("iceoryx2", _) => iceoryx::connect(bytes, address),
        _ => bail!("there is no way {way:?} in this build"),
    }
}
