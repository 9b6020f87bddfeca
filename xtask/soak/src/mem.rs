//! Pages and slots handed over in one process, again and again: what is there at the end is what was there at the
//! beginning.

use crate::progress;
use anyhow::{bail, ensure, Context, Result};
use fastrand::Rng;
use roadrunner_core::testing::fill;
use roadrunner_core::{
    Deadline, LinearMemory, Method, Payload, Region, Sink, Transfer, TransferError,
};
use roadrunner_faults::Counts;
use roadrunner_mem::{link, Link, PageBuffer, Policy, Slots, PAGE_SIZE};
use std::thread;
use std::time::{Duration, Instant};
use std::{fmt, fs};

const PATIENCE: Duration = Duration::from_secs(60);
/// Payloads have at most so many pages, and so have the slots.
const MOST_PAGES: u64 = 32;
const ROOM: u64 = 2 << 20;
/// What the process may have more of at the end than when it was warm.
const MAPPINGS: usize = 32;
/// Payloads on their way at most: few, as each may be pages with a mapping of their own, and more of them in the pool.
const IN_FLIGHT: usize = 8;
const RESIDENT: u64 = 16 << 20;
/// What is made once and kept is there after a tenth of the handovers, at most so many.
const WARM: u64 = 2_000;

/// How payloads are handed over, and by which method they may arrive.
#[derive(Debug, Clone, Copy)]
struct Way {
    name: &'static str,
    force: Option<Method>,
    trusted: bool,
    by_slot: bool,
    methods: &'static [Method],
}

const WAYS: [Way; 5] = [
    Way {
        name: "exchange",
        force: Some(Method::Exchange),
        trusted: false,
        by_slot: false,
        methods: &[Method::Exchange],
    },
    Way {
        name: "exchange, trusted",
        force: Some(Method::Exchange),
        trusted: true,
        by_slot: false,
        methods: &[Method::Exchange],
    },
    Way {
        name: "slot",
        force: None,
        trusted: false,
        by_slot: true,
        methods: &[Method::Slot],
    },
    Way {
        name: "slot, trusted",
        force: None,
        trusted: true,
        by_slot: true,
        methods: &[Method::Slot],
    },
    Way {
        name: "inline and copy",
        force: None,
        trusted: false,
        by_slot: false,
        methods: &[Method::Inline, Method::Copy],
    },
];

/// What a process takes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    counts: Counts,
    mappings: usize,
    /// Bytes that are resident.
    resident: u64,
}

impl Taken {
    fn now() -> Result<Self> {
        // Its second number is of resident pages: proc(5).
        let pages = fs::read_to_string("/proc/self/statm")?;
        let pages: u64 = pages
            .split(' ')
            .nth(1)
            .context("a line of /proc/self/statm")?
            .parse()?;
        Ok(Self {
            counts: Counts::now(None),
            mappings: fs::read_to_string("/proc/self/maps")?.lines().count(),
            resident: pages * PAGE_SIZE as u64,
        })
    }

    fn check(&self, before: &Self) -> Result<()> {
        if let Some(difference) = self.counts.difference(&before.counts) {
            bail!("left behind: {difference}");
        }
        self.check_bounds(before, MAPPINGS)
    }

    fn check_bounds(&self, before: &Self, mappings: usize) -> Result<()> {
        ensure!(
            self.mappings <= before.mappings + mappings,
            "{} mappings, {} before",
            self.mappings,
            before.mappings
        );
        ensure!(
            self.resident <= before.resident + RESIDENT,
            "{} resident bytes, {} before",
            self.resident,
            before.resident
        );
        Ok(())
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} descriptors, {} mappings and {} KiB resident",
            self.counts.descriptors(),
            self.mappings,
            self.resident >> 10
        )
    }
}

pub(crate) fn soak(rounds: u64, seed: u64) -> Result<()> {
    let bar = progress::bar("mem", rounds);
    let share = rounds.div_ceil(WAYS.len() as u64);
    for way in WAYS {
        let began = Instant::now();
        hand_over(way, share.min(WARM), seed, &|_| Ok(())).context(way.name)?;
        let before = Taken::now()?;
        // The two functions live, and take what they take.
        let (mut living, mut number, mut most) = (None::<Taken>, 0, 0);
        let mut check = |done: u64| -> Result<()> {
            bar.inc(done - number);
            number = done;
            let now = Taken::now()?;
            most = most.max(now.mappings);
            match &living {
                None if done >= share.min(WARM) => living = Some(now),
                None => {}
                Some(first) => now.check_bounds(first, MAPPINGS + PLACES as usize * IN_FLIGHT)?,
            }
            Ok(())
        };
        let told = std::cell::RefCell::new(&mut check);
        let ran = hand_over(way, share, seed, &|done| (told.borrow_mut())(done));
        let after = Taken::now()?;
        ran.and_then(|()| after.check(&before)).with_context(|| {
            format!(
                "{}; again: cargo xtask soak --only mem --rounds {rounds} --seed {seed}",
                way.name
            )
        })?;
        bar.suspend(|| {
            println!(
                "mem, {}: {share} handovers; {before} before, {after} after, {most} mappings at most meanwhile ({:.1} s)",
                way.name,
                began.elapsed().as_secs_f64()
            );
        });
    }
    bar.finish_and_clear();
    Ok(())
}

/// Hands `count` payloads over from one thread to another. The receiver calls `look` now and then.
fn hand_over(way: Way, count: u64, seed: u64, look: &dyn Fn(u64) -> Result<()>) -> Result<()> {
    let mut policy = Policy::default();
    policy.force = way.force;
    policy.trusted = way.trusted;
    policy.messages = IN_FLIGHT;
    let (here, there) = link(policy);
    let mut sender = Function::new(here)?;
    let mut receiver = Function::new(there)?;
    thread::scope(|scope| {
        let sending = scope.spawn(move || {
            (0..count).try_for_each(|number| {
                sender
                    .send(way, seed, number)
                    .with_context(|| format!("sending payload {number}"))
            })
        });
        let received = (0..count).try_for_each(|number| {
            receiver
                .receive(way, seed, number)
                .with_context(|| format!("receiving payload {number}"))?;
            if number % 1024 == 0 || number + 1 == count {
                look(number)?;
            }
            Ok(())
        });
        // One that failed lets the sender know; one that has all stays until the sender has heard so.
        let _receiver = received.is_ok().then_some(receiver);
        let sent = sending
            .join()
            .unwrap_or_else(|_| bail!("the sender panicked"));
        // Whichever fails first ends the other.
        match (received, sent) {
            (Err(received), Err(sent)) => bail!("{received:#}; {sent:#}"),
            (received, sent) => received.and(sent),
        }
    })
}

/// Of each payload these bytes are its own; looking at all of them would be all that is done here.
fn mark(seed: u64, number: u64) -> [u8; 8] {
    seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(number)
        .to_le_bytes()
}

/// Payloads that are exchanged lie in so many places, and those of one place are equally long: a range of several mappings
/// is copied where it is short.
const PLACES: u64 = 4;

fn place(way: Way, number: u64) -> u64 {
    match way.force {
        Some(_) => number % PLACES * ROOM,
        None => 0,
    }
}

fn len(way: Way, seed: u64, number: u64) -> u64 {
    let drawn = match way.force {
        Some(_) => number % PLACES,
        None => number,
    };
    let mut random = Rng::with_seed(seed ^ drawn);
    let pages = 1 + random.u64(..MOST_PAGES);
    match way.force {
        // Whole pages change hands.
        Some(_) => pages * PAGE_SIZE as u64,
        // One that is much shorter than a slot does not get it.
        None if way.by_slot => MOST_PAGES * PAGE_SIZE as u64 - random.u64(..40_000),
        None => pages * PAGE_SIZE as u64 - random.u64(..4000),
    }
}

struct Function {
    link: Link,
    memory: PageBuffer,
    slots: Slots,
    /// Slots lie behind the places of payloads, one after the other.
    next: u64,
}

impl Function {
    fn new(link: Link) -> Result<Self> {
        Ok(Self {
            link,
            memory: PageBuffer::new(1 << 36)?,
            slots: Slots::default(),
            next: PLACES * ROOM,
        })
    }

    fn send(&mut self, way: Way, seed: u64, number: u64) -> Result<()> {
        let len = len(way, seed, number);
        let deadline = Deadline::after(PATIENCE);
        if !way.by_slot {
            let region = Region::new(place(way, number), len);
            self.write_marks(region, mark(seed, number));
            self.link
                .send(Payload::given(&mut self.memory, region)?, deadline)?;
            self.write_marks(region, [0x5E; 8]);
            return Ok(());
        }
        let region = self.loan(len, deadline)?;
        self.write_marks(region, mark(seed, number));
        let trust = self.link.trust();
        match self.slots.hand_over(&mut self.memory, region, trust)? {
            Some(payload) => self.link.send_shared(&payload, deadline)?,
            None => bail!("a loaned slot could not be handed over"),
        };
        if !way.trusted {
            self.write_marks(region, [0x5E; 8]);
        }
        Ok(())
    }

    fn loan(&mut self, len: u64, deadline: Deadline) -> Result<Region> {
        /// All of one size, so that each takes every payload.
        const SLOT: u64 = MOST_PAGES * PAGE_SIZE as u64;
        const MOST: usize = 8;
        loop {
            if let Some(region) = self.slots.loan(&mut self.memory, len) {
                return Ok(region);
            }
            if self.slots.report().segments < MOST {
                let place = Region::new(self.next.next_multiple_of(ROOM), SLOT);
                self.next = place.offset() + place.len();
                self.slots.bind(&mut self.memory, place)?;
                return Ok(Region::new(place.offset(), len));
            }
            ensure!(!deadline.has_passed(), "no slot came back");
            thread::yield_now();
        }
    }

    fn receive(&mut self, way: Way, seed: u64, number: u64) -> Result<()> {
        let deadline = Deadline::after(PATIENCE);
        let mut sink = Heap(&mut self.memory, &mut self.next);
        let delivery = if way.by_slot {
            self.link.recv_with(&mut self.slots, &mut sink, deadline)?
        } else {
            let offset = place(way, number);
            self.link
                .recv(&mut Place(&mut self.memory, offset), deadline)?
        };
        let (region, method) = (delivery.region(), delivery.receipt().method());
        ensure!(way.methods.contains(&method), "it came by {method}");
        let expected = len(way, seed, number);
        ensure!(
            region.len() == expected,
            "{} bytes instead of {expected}",
            region.len()
        );
        let mut bytes = [0; 8];
        for place in marks(region) {
            place.span(&mut self.memory)?.copy_to_slice(&mut bytes);
            ensure!(
                bytes == mark(seed, number),
                "wrong bytes at {}",
                place.offset() - region.offset()
            );
        }
        if way.by_slot {
            self.slots.release(&mut self.memory, region.offset())?;
        }
        Ok(())
    }

    fn write_marks(&mut self, region: Region, mark: [u8; 8]) {
        for place in marks(region) {
            fill(&mut self.memory, place.offset(), &mark);
        }
    }
}

/// At the start of each page, and at the end.
fn marks(region: Region) -> impl Iterator<Item = Region> {
    let last = region.len() - 8;
    (0..region.len())
        .step_by(PAGE_SIZE)
        .filter(move |at| at + 8 <= last)
        .chain([last])
        .map(move |at| Region::new(region.offset() + at, 8))
}

/// Receives at one offset.
struct Place<'a>(&'a mut PageBuffer, u64);

impl Sink for Place<'_> {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(Region::new(self.1, len))
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.0
    }

    fn release(&mut self, _region: Region) {}
}

/// Gives places that are never given back, because slots keep them.
struct Heap<'a>(&'a mut PageBuffer, &'a mut u64);

impl Sink for Heap<'_> {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        let offset = self.1.next_multiple_of(align.max(ROOM));
        *self.1 = offset + len;
        Ok(Region::new(offset, len))
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.0
    }

    fn release(&mut self, _region: Region) {}
}
