//! What the two processes of a way are told.

use super::ways;
use crate::ends;
use crate::peer::Control;
use crate::usage;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What a process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) way: String,
    pub(crate) bytes: u64,
    /// Where to listen, or where the receiver is.
    pub(crate) address: String,
    /// What an encrypted way shows, and trusts: a certificate and its key.
    #[serde(default)]
    pub(crate) identity: Option<(String, String)>,
}

/// The peer `net.receiver`.
pub(super) fn receive(control: &mut Control) -> Result<()> {
    let idle = usage::peak_rss()?;
    let task: Task = control.hear()?;
    let (address, accept) = ways::listen(&task)?;
    control.say(&address)?;
    ends::receive(control, idle, task.bytes, &mut *accept()?).with_context(|| task.way.clone())
}

/// The peer `net.sender`.
pub(super) fn send(control: &mut Control) -> Result<()> {
    let idle = usage::peak_rss()?;
    let task: Task = control.hear()?;
    let mut sender = ways::connect(&task)?;
    ends::send(control, idle, &mut *sender).with_context(|| task.way.clone())
}
