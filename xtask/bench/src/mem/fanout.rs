//! One payload to many receivers, each on a thread and in a memory of its own. All of them read all of it, which is part
//! of the time: what is mapped and not copied is paid for then.

use super::{memory, Placed, LARGE};
use crate::bench::{Bench, Experiment};
use crate::functions::soon;
use crate::measure::{Candidate, Watch};
use crate::payload::Pattern;
use crate::results::Ratio;
use crate::usage;
use anyhow::{anyhow, Context, Result};
use crossbeam_channel::{bounded, unbounded, Receiver, Sender};
use roadrunner_core::{Payload, Receipt, Region, Sink, Transfer};
use roadrunner_mem::{link, Link, PageBuffer, Policy, SlotOptions, Slots, PAGE_SIZE};
use std::cell::Cell;
use std::thread::JoinHandle;

const FANOUT: &str = "mem.fanout";
const RECEIVERS: [u32; 3] = [1, 10, 100];
const BYTES: u64 = 10_000_000;
/// Of which memory is counted.
const MANY: u32 = 100;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    bench.expect(RECEIVERS.len() + 1);
    let bytes = bench.bytes(BYTES);
    for receivers in RECEIVERS {
        let candidates = [Way::Copy, Way::Shared, Way::Slot]
            .map(|way| candidate(way, bytes, receivers, None))
            .into();
        let experiment = Experiment::new(FANOUT, bytes).fanout(receivers);
        bench.measure(experiment, candidates)?;
    }
    let bytes = bench.bytes(LARGE);
    let growth = Cell::new(0);
    let experiment = Experiment::new(FANOUT, bytes).fanout(MANY).heavy();
    bench.measure(
        experiment,
        vec![candidate(Way::Slot, bytes, MANY, Some(&growth))],
    )?;
    if growth.get() == 0 {
        return Ok(());
    }
    let ratio = growth.get() as f64 / bytes as f64;
    bench.ratio(
        Ratio::at_most("mem.fanout100.memory", ratio, 1.5)
            .because(|| format!("it grew by {} MB", growth.get() / 1_000_000)),
    );
    Ok(())
}

/// How the payload gets to its receivers.
#[derive(Clone, Copy)]
enum Way {
    /// Into the memory of each.
    Copy,
    /// Into a segment once, which all of them map.
    Shared,
    /// In the slot that it was written to, which all of them map.
    Slot,
}

fn candidate(way: Way, bytes: u64, receivers: u32, growth: Option<&Cell<u64>>) -> Candidate<'_> {
    let name = match way {
        Way::Copy => "copy",
        Way::Shared => "shared",
        Way::Slot => "slot",
    };
    Candidate::new(name, "mem", move || {
        let mut sender = Sending::new(way, bytes, receivers)?;
        let before = usage::footprint()?;
        let pattern = Pattern::new();
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            number += 1;
            watch.beside(|| sender.fill(&pattern, number))?;
            let arrived = watch.time(|| sender.send_to_all(number))?;
            if let Some(growth) = growth {
                let now = watch.beside(usage::footprint)?;
                growth.set(growth.get().max(now.saturating_sub(before)));
            }
            for (receipt, same) in arrived {
                watch.delivered(receipt);
                watch.verified(same)?;
            }
            // A round is one payload, whoever gets it.
            watch.as_one();
            sender.release()
        })
    })
}

/// The function with the payload, and the threads of those that get it.
struct Sending {
    way: Way,
    memory: PageBuffer,
    slots: Slots,
    region: Region,
    receivers: Vec<Receiving>,
    arrived: Receiver<Result<(Receipt, bool)>>,
}

/// A receiver, as the sender knows it.
struct Receiving {
    /// Ends the thread when it is dropped.
    link: Option<Link>,
    /// Tells it the number of the payload that comes, or that it should release it.
    next: Sender<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Sending {
    fn new(way: Way, bytes: u64, receivers: u32) -> Result<Self> {
        let (tell, arrived) = unbounded();
        let receivers = (0..receivers)
            .map(|_| {
                let (here, there) = link(Policy::default());
                let (next, numbers) = bounded(1);
                let tell = tell.clone();
                let mut memory = Placed(memory(bytes)?);
                let thread =
                    std::thread::spawn(move || receive(there, &mut memory, &numbers, &tell));
                Ok(Receiving {
                    link: Some(here),
                    next,
                    thread: Some(thread),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            way,
            memory: memory(bytes)?,
            slots: Slots::new(SlotOptions::default()),
            region: Region::new(0, bytes),
            receivers,
            arrived,
        })
    }

    fn fill(&mut self, pattern: &Pattern, number: u64) -> Result<()> {
        if matches!(self.way, Way::Slot) {
            let len = self.region.len();
            match self.slots.loan(&mut self.memory, len) {
                Some(region) => self.region = region,
                None => {
                    let place = Region::new(0, len.next_multiple_of(PAGE_SIZE as u64));
                    self.slots.bind(&mut self.memory, place)?;
                }
            }
        }
        pattern.fill(self.region.span(&mut self.memory)?, number);
        Ok(())
    }

    /// Ends when everybody has read it.
    fn send_to_all(&mut self, number: u64) -> Result<Vec<(Receipt, bool)>> {
        let payload = match self.way {
            Way::Copy => None,
            Way::Shared => Some(self.slots.share(&mut self.memory, self.region)?),
            Way::Slot => self.slots.hand_over(&mut self.memory, self.region, None)?,
        };
        for receiver in &mut self.receivers {
            receiver.tell(number)?;
            let link = receiver.link.as_mut().context("it is being dropped")?;
            match &payload {
                Some(payload) => link.send_shared(payload, soon())?,
                None => link.send(Payload::kept(&mut self.memory, self.region)?, soon())?,
            };
        }
        self.receivers
            .iter()
            .map(|_| self.arrived.recv().map_err(anyhow::Error::from)?)
            .collect()
    }

    fn release(&mut self) -> Result<()> {
        self.receivers
            .iter()
            .try_for_each(|receiver| receiver.tell(0))?;
        // They say that they have.
        for _ in &self.receivers {
            self.arrived.recv()??;
        }
        Ok(())
    }
}

impl Receiving {
    fn tell(&self, number: u64) -> Result<()> {
        self.next
            .send(number)
            .map_err(|_| anyhow!("a receiving thread has ended"))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        for receiver in self.receivers.drain(..) {
            let Receiving { link, next, thread } = receiver;
            drop((link, next));
            if let Some(thread) = thread {
                // It does not panic, and there is nobody to tell.
                let _ = thread.join();
            }
        }
    }
}

/// Receives, reads, tells, and releases when it is told to, until nobody tells it anything more.
fn receive(
    mut link: Link,
    memory: &mut Placed,
    numbers: &Receiver<u64>,
    tell: &Sender<Result<(Receipt, bool)>>,
) {
    let mut slots = Slots::new(SlotOptions::default());
    let pattern = Pattern::new();
    while let Ok(number) = numbers.recv() {
        let mut once = || {
            let delivery = link.recv_with(&mut slots, memory, soon())?;
            let span = delivery.region().span(memory.memory())?;
            let same = pattern.check(span, number);
            if tell.send(Ok((delivery.receipt(), same))).is_err() || numbers.recv().is_err() {
                return Ok(());
            }
            slots.release(&mut memory.0, delivery.region().offset())?;
            let _ = tell.send(Ok((delivery.receipt(), same)));
            anyhow::Ok(())
        };
        if let Err(error) = once() {
            let _ = tell.send(Err(error));
            return;
        }
    }
}
