//! What the two processes of a way do: rounds, as they are told.

use super::ways;
use crate::clock;
use crate::orders::{beside, rounds};
use crate::payload::Pattern;
use crate::peer::Control;
use crate::usage;
use anyhow::{ensure, Context, Result};
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
            receiver.release()?;
        }
        report.ended = clock::now();
        report.method = receiver.method();
        Ok(())
    })
    .with_context(|| task.way.clone())
}

/// The peer `uds.sender`.
pub(super) fn send(control: &mut Control) -> Result<()> {
    let idle = usage::peak_rss()?;
    let task: Task = control.hear()?;
    let mut sender = ways::connect(&task.way, task.bytes, &task.address)?;
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
