//! What the two processes of a way do: rounds, as they are told.

use super::clock;
use super::ways;
use crate::payload::Pattern;
use crate::peer::Control;
use crate::usage::{self, Cpu};
use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) way: String,
    pub(crate) bytes: u64,
    /// Where to listen, or where the receiver is.
    pub(crate) address: String,
}

/// Payloads of one round.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Order {
    /// The number of the first.
    pub(super) first: u64,
    pub(super) count: u64,
}

/// What one of the two processes has to say of a round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Report {
    /// The sender: when it began to fill the first payload. The receiver: when it had the last one.
    pub(super) began: Duration,
    /// The sender: when it had filled the last payload. The receiver: when it was done with it.
    pub(super) ended: Duration,
    /// Processor time of neither filling nor looking. Only where a round is one payload.
    pub(super) moving: Duration,
    pub(super) cpu: Cpu,
    pub(super) peak: u64,
    /// Resident before there was a memory.
    pub(super) idle: u64,
    /// The receiver: how they came.
    pub(super) method: String,
}

/// Does rounds until there are no more orders.
pub(super) fn rounds(
    control: &mut Control,
    idle: u64,
    mut round: impl FnMut(Order, &mut Report) -> Result<()>,
) -> Result<()> {
    while let Some(order) = control.hear_or_end::<Order>()? {
        let mut report = Report::default();
        let (before, spent) = (Cpu::of_process(), clock::spent());
        round(order, &mut report)?;
        report.moving = (clock::spent() - spent).saturating_sub(report.moving);
        report.cpu = Cpu::of_process() - before;
        report.peak = usage::peak_rss()?;
        report.idle = idle;
        control.say(&report)?;
    }
    Ok(())
}

/// Counts in `beside` the processor time of what is done beside the transfer, if that is large enough to be told apart.
fn beside<T>(order: Order, beside: &mut Duration, work: impl FnOnce() -> T) -> T {
    if order.count > 1 {
        return work();
    }
    let before = clock::spent();
    let done = work();
    *beside += clock::spent() - before;
    done
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
