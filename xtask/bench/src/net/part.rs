//! What the two processes of a way do: rounds, as they are told.

use super::ways;
use crate::clock;
use crate::orders::{beside, rounds};
use crate::payload::Pattern;
use crate::peer::Control;
use crate::usage;
use anyhow::{ensure, Context, Result};
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
    let mut receiver = accept()?;
    let pattern = Pattern::new();
    rounds(control, idle, |order, report| {
        let numbers = order.first..order.first + order.count;
        for number in numbers.clone() {
            let span = receiver.recv()?;
            if number + 1 == numbers.end {
                report.began = clock::now();
            }
            ensure!(span.len() as u64 == task.bytes, "payload {number} came cut");
            let same = beside(order, &mut report.moving, || pattern.check(span, number));
            ensure!(same, "payload {number} came with other bytes");
        }
        report.ended = clock::now();
        report.method = receiver.method();
        Ok(())
    })
    .with_context(|| task.way.clone())
}

/// The peer `net.sender`.
pub(super) fn send(control: &mut Control) -> Result<()> {
    let idle = usage::peak_rss()?;
    let task: Task = control.hear()?;
    let mut sender = ways::connect(&task)?;
    let pattern = Pattern::new();
    rounds(control, idle, |order, report| {
        let numbers = order.first..order.first + order.count;
        report.began = clock::now();
        for number in numbers.clone() {
            let span = sender.place()?;
            beside(order, &mut report.moving, || pattern.fill(span, number));
            if number + 1 == numbers.end {
                report.ended = clock::now();
            }
            sender.send()?;
        }
        Ok(())
    })
    .with_context(|| task.way.clone())
}
