//! One payload for many processes: what it takes in memory.

use super::part::Task;
use super::places::Places;
use super::ways::ours::deadline;
use crate::bench::{Bench, Experiment};
use crate::clock;
use crate::measure::{Candidate, Watch};
use crate::payload::Pattern;
use crate::peer::{Control, Peer};
use crate::results::Ratio;
use crate::usage::{self, Cpu};
use anyhow::{ensure, Context, Result};
use roadrunner_core::{Region, Sink};
use roadrunner_mem::{SlotOptions, Slots, PAGE_SIZE};
use roadrunner_uds::{connect, Link, Listener, Options};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::time::Duration;

const LARGE: u64 = 100_000_000;
const READERS: u32 = 100;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let bytes = bench.bytes(LARGE);
    let readers = if bench.is_smoke() { 3 } else { READERS };
    bench.expect(1);
    let grown = Cell::new(0);
    let measured = bench.measure(
        Experiment::new("uds.fanout", bytes).fanout(readers).heavy(),
        vec![candidate(bytes, readers, &grown)],
    )?;
    if measured.is_empty() {
        return Ok(());
    }
    let ratio = grown.get() as f64 / bytes as f64;
    bench.ratio(
        Ratio::at_most("uds.fanout100.memory", ratio, 1.5)
            .because(|| format!("{} bytes in {readers} processes", grown.get())),
    );
    Ok(())
}

/// What a process says of a round, with the payload still there.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Took {
    began: Duration,
    ended: Duration,
    cpu: Cpu,
    peak: u64,
    method: String,
}

/// All readers are there when the round starts; `grown` is what they and the sender take up more with the payload.
fn candidate<'a>(bytes: u64, readers: u32, grown: &'a Cell<u64>) -> Candidate<'a> {
    Candidate::new("uds-slot", "uds", move || {
        let directory = tempfile::tempdir()?;
        let mut task = Task {
            way: readers.to_string(),
            bytes,
            directory: directory.path().to_owned(),
            address: String::new(),
        };
        let mut all = vec![Peer::start("uds.fanout.sender")?];
        all[0].control.say(&task)?;
        task.address = all[0].control.hear()?;
        for _ in 0..readers {
            let mut reader = Peer::start("uds.fanout.reader")?;
            reader.control.say(&task)?;
            all.push(reader);
        }
        // A process has its share of what several map: all must be there before any looks at itself.
        for peer in &mut all {
            peer.control.hear::<()>().context("a process")?;
        }
        let mut empty = 0;
        for peer in &mut all {
            peer.control.say(&())?;
            empty += peer.control.hear::<u64>().context("a process")?;
        }
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            // The socket is in it.
            let _directory = &directory;
            for peer in &mut all {
                peer.control.say(&number)?;
            }
            number += 1;
            let mut took = Vec::new();
            for peer in &mut all {
                took.push(peer.control.hear::<Took>().context("a process")?);
            }
            // All of them look at themselves while all of them have it.
            let mut full = 0;
            for peer in &mut all {
                peer.control.say(&())?;
                full += peer.control.hear::<u64>()?;
            }
            // The readers release it before the sender hears of that.
            for peer in all.iter_mut().rev() {
                peer.control.say(&())?;
                peer.control.hear::<()>()?;
            }
            grown.set(full.saturating_sub(empty));
            let ended = took.iter().map(|took| took.ended).max().unwrap_or_default();
            watch.add_time(ended - took[0].began);
            watch.as_one();
            for took in &took {
                watch.add_cpu(took.cpu);
                watch.add_peak(took.peak);
            }
            for took in &took[1..] {
                watch.delivered_by(&took.method, 1);
                // Each ends at the first byte that is another.
                watch.verified(true)?;
            }
            Ok(())
        })
    })
}

/// The peer `uds.fanout.sender`.
pub(super) fn sender(control: &mut Control) -> Result<()> {
    let task: Task = control.hear()?;
    let readers: u32 = task.way.parse()?;
    let address = task.directory.join("fanout").display().to_string();
    let mut listener = Listener::bind(address.parse()?, Options::default())?;
    control.say(&address)?;
    let mut links = Vec::new();
    for _ in 0..readers {
        links.push(listener.accept(deadline())?);
    }
    let mut memory = Places::new(task.bytes, 1)?;
    let place = memory.reserve(task.bytes.next_multiple_of(PAGE_SIZE as u64), 1)?;
    let pattern = Pattern::new();
    control.say(&())?;
    control.hear::<()>()?;
    control.say(&usage::footprint()?)?;
    while let Some(number) = control.hear_or_end::<u64>()? {
        let (began, cpu) = (clock::now(), Cpu::of_process());
        let mut slots = Slots::new(SlotOptions::default());
        slots.bind(memory.memory(), place)?;
        let region = Region::new(place.offset(), task.bytes);
        pattern.fill(memory.span(region)?, number);
        let payload = slots
            .hand_over(memory.memory(), region, None)?
            .context("the slot is not on loan")?;
        for link in &mut links {
            link.send_shared(&payload, deadline())?;
        }
        drop(payload);
        say(control, began, cpu, String::new(), || {
            for link in &mut links {
                link.listen(deadline())?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The peer `uds.fanout.reader`.
pub(super) fn reader(control: &mut Control) -> Result<()> {
    let task: Task = control.hear()?;
    let address = task.address.parse()?;
    let mut link = connect(&address, "bench", &Options::default(), deadline())?;
    let mut memory = Places::new(task.bytes, 1)?;
    let mut slots = Slots::default();
    let pattern = Pattern::new();
    control.say(&())?;
    control.hear::<()>()?;
    control.say(&usage::footprint()?)?;
    while let Some(number) = control.hear_or_end::<u64>()? {
        let (began, cpu) = (clock::now(), Cpu::of_process());
        let delivery = link.recv_with(&mut slots, &mut memory, deadline())?;
        let region = delivery.region();
        let same = pattern.check(memory.span(region)?, number);
        ensure!(same, "payload {number} came with other bytes");
        let method = delivery.receipt().method().name().to_owned();
        say(control, began, cpu, method, || {
            memory.done(&mut slots, region)?;
            hear_out(&mut link)
        })?;
    }
    Ok(())
}

/// Tells the sender what was released.
fn hear_out(link: &mut Link) -> Result<()> {
    link.listen(roadrunner_core::Deadline::now())?;
    Ok(())
}

/// Reports a round, then the footprint when all have the payload, then lets go of it.
fn say(
    control: &mut Control,
    began: Duration,
    cpu: Cpu,
    method: String,
    release: impl FnOnce() -> Result<()>,
) -> Result<()> {
    control.say(&Took {
        began,
        ended: clock::now(),
        cpu: Cpu::of_process() - cpu,
        peak: usage::peak_rss()?,
        method,
    })?;
    control.hear::<()>()?;
    control.say(&usage::footprint()?)?;
    control.hear::<()>()?;
    release()?;
    control.say(&())
}
