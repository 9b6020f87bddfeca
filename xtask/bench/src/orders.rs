//! What two processes are told to do in turns, and what they say of it.

use crate::clock;
use crate::peer::Control;
use crate::usage::{self, Cpu};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Payloads of one round.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The number of the first.
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// What one of the two processes has to say of a round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The sender: when it began to fill the first payload. The receiver: when it had the last one.
    pub(crate) began: Duration,
    /// The sender: when it had filled the last payload. The receiver: when it was done with it.
    pub(crate) ended: Duration,
    /// Processor time of neither filling nor looking. Only where a round is one payload.
    pub(crate) moving: Duration,
    pub(crate) cpu: Cpu,
    pub(crate) peak: u64,
    /// Resident before there was a memory.
    pub(crate) idle: u64,
    /// The receiver: how they came. The sender: what the receiver cannot know of it.
    pub(crate) method: String,
    /// How often the process had to wait for something.
    pub(crate) waits: u64,
}

/// Does rounds until there are no more orders.
pub(crate) fn rounds(
    control: &mut Control,
    idle: u64,
    mut round: impl FnMut(Order, &mut Report) -> Result<()>,
) -> Result<()> {
    while let Some(order) = control.hear_or_end::<Order>()? {
        let mut report = Report::default();
        let (before, spent, waits) = (Cpu::of_process(), clock::spent(), usage::waits());
        round(order, &mut report)?;
        report.moving = (clock::spent() - spent).saturating_sub(report.moving);
        report.cpu = Cpu::of_process() - before;
        report.waits = usage::waits() - waits;
        report.peak = usage::peak_rss()?;
        report.idle = idle;
        control.say(&report)?;
    }
    Ok(())
}

/// Counts in `beside` the processor time of what is done beside the transfer, if that is large enough to be told apart.
pub(crate) fn beside<T>(order: Order, beside: &mut Duration, work: impl FnOnce() -> T) -> T {
    if order.count > 1 {
        return work();
    }
    let before = clock::spent();
    let done = work();
    *beside += clock::spent() - before;
    done
}
