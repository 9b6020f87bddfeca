//! What the two processes of a way can do, and the rounds that they do with it, as they are told.

use crate::clock;
use crate::orders::{beside, rounds};
use crate::payload::Pattern;
use crate::peer::Control;
use anyhow::{ensure, Result};
use roadrunner_core::Span;

/// The process that sends.
pub(crate) trait Sends {
    /// Where the function is to write its next payload.
    fn place(&mut self) -> Result<Span<'_>>;
    fn send(&mut self) -> Result<()>;
    /// What the receiver cannot know of how the last one went; mostly nothing.
    fn by(&self) -> String {
        String::new()
    }
}

/// The process that receives.
pub(crate) trait Receives {
    /// The next payload, in the function's memory.
    fn recv(&mut self) -> Result<Span<'_>>;
    /// The function is done with it.
    fn release(&mut self) -> Result<()> {
        Ok(())
    }
    /// How the last one came.
    fn method(&self) -> String;
}

/// Receives payloads of so many bytes, and looks at them.
pub(crate) fn receive(
    control: &mut Control,
    idle: u64,
    bytes: u64,
    receiver: &mut dyn Receives,
) -> Result<()> {
    let pattern = Pattern::new();
    rounds(control, idle, |order, report| {
        let numbers = order.first..order.first + order.count;
        for number in numbers.clone() {
            let span = receiver.recv()?;
            if number + 1 == numbers.end {
                report.began = clock::now();
            }
            ensure!(span.len() as u64 == bytes, "payload {number} came cut");
            let same = beside(order, &mut report.moving, || pattern.check(span, number));
            ensure!(same, "payload {number} came with other bytes");
            receiver.release()?;
        }
        report.ended = clock::now();
        report.method = receiver.method();
        Ok(())
    })
}

/// Fills payloads, and sends them.
pub(crate) fn send(control: &mut Control, idle: u64, sender: &mut dyn Sends) -> Result<()> {
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
        report.method = sender.by();
        Ok(())
    })
}
