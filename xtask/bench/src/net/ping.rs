//! Round trips of small payloads.

use super::pairs::{candidate, Stage, What};
use super::part::Task;
use super::rounds::told;
use super::ways::{ours, tcp};
use super::{AUTO, TCP};
use crate::bench::{Bench, Experiment};
use crate::clock;
use crate::orders::rounds;
use crate::payload::Pattern;
use crate::peer::Control;
use crate::results::Ratio;
use anyhow::{ensure, Result};
use roadrunner_core::Span;

const BYTES: u64 = 64;
const TRIPS: u64 = 500;

const STAGE: Stage<'static> = Stage {
    sender: "net.ping",
    receiver: "net.pong",
    hosts: None,
};

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    bench.expect(1);
    let candidates = [TCP, AUTO]
        .map(|way| candidate(STAGE, way, BYTES, TRIPS, What::Exchange))
        .into();
    let measured = bench.measure(Experiment::new("net.round_trip", BYTES), candidates)?;
    let ratio = measured.paired(AUTO, TCP)?;
    bench.ratio(
        Ratio::at_most("net.small_rtt.64B", ratio, 1.15).because(|| told(&measured, &[TCP, AUTO])),
    );
    Ok(())
}

/// One end of a connection that small payloads go to and fro over.
pub(super) trait Talks {
    /// Sends what is in the memory.
    fn say(&mut self) -> Result<()>;
    /// Receives into it.
    fn hear(&mut self) -> Result<()>;
    fn memory(&mut self) -> Result<Span<'_>>;
}

/// The peer `net.pong`.
pub(super) fn pong(control: &mut Control) -> Result<()> {
    let task: Task = control.hear()?;
    let (address, accept) = match task.way.as_str() {
        TCP => tcp::listen_to_talk(&task)?,
        _ => ours::listen_to_talk(&task)?,
    };
    control.say(&address)?;
    let mut talk = accept()?;
    rounds(control, 0, |order, report| {
        for _ in 0..order.count {
            talk.hear()?;
            talk.say()?;
        }
        report.method = "inline".to_owned();
        Ok(())
    })
}

/// The peer `net.ping`.
pub(super) fn ping(control: &mut Control) -> Result<()> {
    let task: Task = control.hear()?;
    let mut talk = match task.way.as_str() {
        TCP => tcp::connect_to_talk(&task)?,
        _ => ours::connect_to_talk(&task)?,
    };
    let pattern = Pattern::new();
    rounds(control, 0, |order, report| {
        report.began = clock::now();
        for number in order.first..order.first + order.count {
            pattern.fill(talk.memory()?, number);
            talk.say()?;
            talk.hear()?;
            ensure!(pattern.check(talk.memory()?, number), "another answer came");
        }
        report.ended = clock::now();
        Ok(())
    })
}
