//! Handovers to and fro, as fast as the two processes can: what one takes while a link is in use.

use super::part::Task;
use super::places::Places;
use super::ways::ours::deadline;
use crate::bench::{Bench, Experiment};
use crate::clock;
use crate::measure::{Candidate, Watch};
use crate::payload::Pattern;
use crate::peer::{Control, Peer};
use crate::results::{time, Ratio};
use anyhow::{ensure, Context, Result};
use roadrunner_core::{Payload, Region, Sink, Span, Transfer};
use roadrunner_mem::{SlotOptions, Slots, PAGE_SIZE};
use roadrunner_uds::{connect, Address, Link, Listener, Options};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a small handover is about.
const SMALL: u64 = 4_000;
const LARGE: u64 = 500_000_000;
/// A raw message.
const RAW: u64 = 64;

const RAW_SOCKET: &str = "socket";
const INLINE: &str = "uds-inline";
const TRUSTED: &str = "uds-trusted";
const STRICT: &str = "uds-slot";

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let sizes = bench.sizes(&[SMALL, 1_000_000, 100_000_000, LARGE]);
    bench.expect(sizes.len() + 1);
    let raw = [RAW_SOCKET, INLINE].map(|way| candidate(way, RAW));
    let raw = bench.measure(Experiment::new("uds.pingpong", RAW), raw.into())?;
    let raw = raw.p50(RAW_SOCKET)?;
    let mut trusted = Vec::new();
    for bytes in sizes {
        let ways = [TRUSTED, STRICT].map(|way| candidate(way, bytes));
        let measured = bench.measure(Experiment::new("uds.pingpong", bytes), ways.into())?;
        trusted.push(measured.p50(TRUSTED)?);
    }
    let (Some(small), Some(large)) = (trusted.first(), trusted.last()) else {
        return Ok(());
    };
    let both = || format!("{} and {}", time(*large), time(*small));
    let name = "uds.slot_trusted.size_independence";
    bench.ratio(Ratio::at_most(name, large / small, 2.0).because(both));
    let ratio = Ratio::at_most("uds.slot_over_pingpong", small / raw, 0.3);
    bench.ratio(ratio.because(|| {
        format!(
            "{} and {}; a line of the cache takes {} to the other core and back",
            time(*small),
            time(raw),
            time(line_and_back())
        )
    }));
    Ok(())
}

/// Nanoseconds in which two cores see each other's writes once each. Virtual cores may share a cache now and none later.
fn line_and_back() -> f64 {
    const TIMES: u64 = 20_000;
    /// Looks before the other one gets the core, if there is only one for both.
    const PATIENCE: u32 = 10_000;
    let word = AtomicU64::new(0);
    let turns = |first: u64| {
        for turn in (first..2 * TIMES).step_by(2) {
            let mut looks = 0;
            while word.load(Ordering::Acquire) != turn {
                looks += 1;
                if looks % PATIENCE == 0 {
                    thread::yield_now();
                }
                std::hint::spin_loop();
            }
            word.store(turn + 1, Ordering::Release);
        }
    };
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| turns(1));
        turns(0);
    });
    began.elapsed().as_secs_f64() * 1e9 / TIMES as f64
}

/// What the side that starts says of a round.
#[derive(Debug, Serialize, Deserialize)]
struct Took {
    time: Duration,
    cpu: Duration,
    method: String,
}

/// One way of the payload is what counts: half of there and back.
fn candidate(way: &'static str, bytes: u64) -> Candidate<'static> {
    let transport = if way == RAW_SOCKET { "socket" } else { "uds" };
    Candidate::new(way, transport, move || {
        let directory = tempfile::tempdir()?;
        let mut sides = Sides::start(way, bytes, directory)?;
        Ok(move |watch: &mut Watch| {
            let exchanges = 200;
            let [took, theirs] = sides.round(exchanges)?;
            watch.add_time(took.time);
            for cpu in [took.cpu, theirs.cpu] {
                let (user, sys) = (cpu, Duration::ZERO);
                watch.add_cpu(crate::usage::Cpu { user, sys });
            }
            watch.delivered_by(&took.method, 2 * exchanges);
            // Both sides look at the number of every payload, and at all bytes of the last.
            watch.verified_all(true, 2 * exchanges)
        })
    })
}

struct Sides {
    ping: Peer,
    pong: Peer,
    _directory: TempDir,
}

impl Sides {
    fn start(way: &str, bytes: u64, directory: TempDir) -> Result<Self> {
        let mut task = Task {
            way: way.to_owned(),
            bytes,
            directory: directory.path().to_owned(),
            address: String::new(),
        };
        let mut pong = Peer::start("uds.pong")?;
        pong.control.say(&task)?;
        task.address = pong.control.hear()?;
        let mut ping = Peer::start("uds.ping")?;
        ping.control.say(&task)?;
        Ok(Self {
            ping,
            pong,
            _directory: directory,
        })
    }

    fn round(&mut self, exchanges: u64) -> Result<[Took; 2]> {
        self.pong.control.say(&exchanges)?;
        self.ping.control.say(&exchanges)?;
        let took = self.ping.control.hear().context("ping")?;
        Ok([took, self.pong.control.hear().context("pong")?])
    }
}

/// One side.
trait Side {
    fn send(&mut self, number: u64) -> Result<()>;
    /// Whether it is the payload of this number, as far as its end shows; `whole` looks at the rest as well.
    fn recv(&mut self, number: u64, whole: bool) -> Result<bool>;
    fn method(&self) -> String;
}

/// The peer `uds.ping`.
pub(super) fn ping(control: &mut Control) -> Result<()> {
    let task: Task = control.hear()?;
    let side: Box<dyn Side> = match task.way.as_str() {
        RAW_SOCKET => Box::new(Raw(UnixStream::connect(&task.address)?)),
        way => {
            let link = connect(&task.address.parse()?, "ping", &options(way), deadline())?;
            ours(way, link, task.bytes)?
        }
    };
    rounds(control, side, |side, number, last| {
        side.send(number)?;
        side.recv(number, last)
    })
}

/// The peer `uds.pong`.
pub(super) fn pong(control: &mut Control) -> Result<()> {
    let task: Task = control.hear()?;
    let path = task.directory.join("pong").display().to_string();
    let side: Box<dyn Side> = match task.way.as_str() {
        RAW_SOCKET => {
            let listener = UnixListener::bind(&path)?;
            control.say(&path)?;
            Box::new(Raw(listener.accept()?.0))
        }
        way => {
            let address: Address = path.parse()?;
            let mut listener = Listener::bind(address, options(way))?;
            control.say(&path)?;
            ours(way, listener.accept(deadline())?, task.bytes)?
        }
    };
    rounds(control, side, |side, number, last| {
        let same = side.recv(number, last)?;
        side.send(number)?;
        Ok(same)
    })
}

fn rounds(
    control: &mut Control,
    mut side: Box<dyn Side>,
    turn: impl Fn(&mut dyn Side, u64, bool) -> Result<bool>,
) -> Result<()> {
    let mut number = 0;
    while let Some(exchanges) = control.hear_or_end::<u64>()? {
        let (began, spent) = (clock::now(), clock::spent());
        for _ in 0..exchanges {
            ensure!(turn(&mut *side, number, false)?, "another payload came");
            number += 1;
        }
        let (time, cpu) = (clock::now() - began, clock::spent() - spent);
        // Every byte of one more, for which nobody waits.
        ensure!(turn(&mut *side, number, true)?, "another payload came");
        number += 1;
        control.say(&Took {
            time,
            cpu,
            method: side.method(),
        })?;
    }
    Ok(())
}

struct Raw(UnixStream);

impl Side for Raw {
    fn send(&mut self, number: u64) -> Result<()> {
        let mut message = [0; RAW as usize];
        message[..8].copy_from_slice(&number.to_le_bytes());
        Ok(self.0.write_all(&message)?)
    }

    fn recv(&mut self, number: u64, _whole: bool) -> Result<bool> {
        let mut message = [0; RAW as usize];
        self.0.read_exact(&mut message)?;
        Ok(message[..8] == number.to_le_bytes())
    }

    fn method(&self) -> String {
        "write".to_owned()
    }
}

fn options(way: &str) -> Options {
    Options::default()
        .trusted(way == TRUSTED)
        .slots(way != INLINE)
}

fn ours(way: &str, link: Link, bytes: u64) -> Result<Box<dyn Side>> {
    Ok(if way == INLINE {
        Box::new(Inline {
            link,
            memory: Places::new(bytes, 2)?,
            bytes,
            method: String::new(),
        })
    } else {
        Box::new(Handovers::new(link, bytes)?)
    })
}

struct Inline {
    link: Link,
    memory: Places,
    bytes: u64,
    method: String,
}

impl Side for Inline {
    fn send(&mut self, number: u64) -> Result<()> {
        let region = self.memory.reserve(self.bytes, 8)?;
        mark(ends(self.memory.span(region)?).1, number);
        let payload = Payload::kept(self.memory.memory(), region)?;
        self.link.send(payload, deadline())?;
        self.memory.release(region);
        Ok(())
    }

    fn recv(&mut self, number: u64, _whole: bool) -> Result<bool> {
        let delivery = self.link.recv(&mut self.memory, deadline())?;
        self.method = delivery.receipt().method().name().to_owned();
        let same = is_marked(ends(self.memory.span(delivery.region())?).1, number);
        self.memory.release(delivery.region());
        Ok(same)
    }

    fn method(&self) -> String {
        self.method.clone()
    }
}

/// What stays as it was filled once, and the number at the end.
fn ends(span: Span<'_>) -> (Span<'_>, Span<'_>) {
    span.split_at(span.len().saturating_sub(size_of::<u64>()))
}

fn mark(end: Span<'_>, number: u64) {
    end.copy_from_slice(&number.to_le_bytes());
}

fn is_marked(end: Span<'_>, number: u64) -> bool {
    let mut mark = [0; size_of::<u64>()];
    end.copy_to_slice(&mut mark);
    mark == number.to_le_bytes()
}

/// Handovers of one slot each way.
struct Handovers {
    link: Link,
    bytes: u64,
    memory: Places,
    slots: Slots,
    theirs: Places,
    received: Slots,
    pattern: Pattern,
    method: String,
}

impl Handovers {
    fn new(link: Link, bytes: u64) -> Result<Self> {
        let mut memory = Places::new(bytes, 1)?;
        let mut slots = Slots::for_audience(SlotOptions::default(), link.audience());
        let place = memory.reserve(bytes.next_multiple_of(PAGE_SIZE as u64), 1)?;
        slots.bind(memory.memory(), place)?;
        let pattern = Pattern::new();
        let payload = Region::new(place.offset(), bytes);
        pattern.fill(ends(memory.span(payload)?).0, 0);
        slots.release(memory.memory(), place.offset())?;
        Ok(Self {
            link,
            bytes,
            memory,
            slots,
            theirs: Places::new(bytes, 2)?,
            received: Slots::default(),
            pattern,
            method: String::new(),
        })
    }
}

impl Side for Handovers {
    fn send(&mut self, number: u64) -> Result<()> {
        let region = loop {
            match self.slots.loan(self.memory.memory(), self.bytes) {
                Some(region) => break region,
                // It is on its way back.
                None => self.link.listen(deadline())?,
            };
        };
        mark(ends(self.memory.span(region)?).1, number);
        let trust = self.link.trust();
        let payload = self.slots.hand_over(self.memory.memory(), region, trust)?;
        let payload = payload.context("the slot is not on loan")?;
        self.link.send_shared(&payload, deadline())?;
        Ok(())
    }

    fn recv(&mut self, number: u64, whole: bool) -> Result<bool> {
        let (link, theirs) = (&mut self.link, &mut self.theirs);
        let delivery = link.recv_with(&mut self.received, theirs, deadline())?;
        self.method = delivery.receipt().method().name().to_owned();
        let region = delivery.region();
        let (body, end) = ends(theirs.span(region)?);
        let mut same = is_marked(end, number);
        if whole {
            same &= self.pattern.check(body, 0);
        }
        theirs.done(&mut self.received, region)?;
        Ok(same)
    }

    fn method(&self) -> String {
        self.method.clone()
    }
}
