//! What the two processes of a way are told.

use super::ways;
use crate::ends;
use crate::peer::Control;
use crate::usage;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) way: String,
    pub(super) bytes: u64,
    /// For sockets and the like.
    pub(super) directory: PathBuf,
    /// Where the receiver is; empty for the receiver itself.
    pub(super) address: String,
}

/// The peer `uds.receiver`.
pub(super) fn receive(control: &mut Control) -> Result<()> {
    let idle = usage::peak_rss()?;
    let task: Task = control.hear()?;
    let (address, accept) = ways::listen(&task.way, task.bytes, &task.directory)?;
    control.say(&address)?;
    ends::receive(control, idle, task.bytes, &mut *accept()?).with_context(|| task.way.clone())
}

/// The peer `uds.sender`.
pub(super) fn send(control: &mut Control) -> Result<()> {
    let idle = usage::peak_rss()?;
    let task: Task = control.hear()?;
    let mut sender = ways::connect(&task.way, task.bytes, &task.address)?;
    ends::send(control, idle, &mut *sender).with_context(|| task.way.clone())
}
