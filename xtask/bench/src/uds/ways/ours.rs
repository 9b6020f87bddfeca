//! Links of `roadrunner-uds`.

use super::{Accepts, Receives, Sends};
use anyhow::{bail, Context, Result};
use roadrunner_core::{Deadline, Delivery, Payload, Region, Span, Transfer};
use roadrunner_mem::{PageBuffer, SlotOptions, Slots, PAGE_SIZE};
use roadrunner_uds::{connect as connect_to, Address, Link, Listener, Options, Preference};
use std::path::Path;
use std::time::Duration;

/// Where a function that does not cooperate has its payload.
const ANY_POINTER: u64 = 0x1238;
/// Only on a trusted link do spliced pages come back.
const TRUSTED_SPLICE: &str = "splice-trusted";
/// Boundaries at which whole page tables move.
const TABLE: u64 = 2 << 20;

fn options(way: &str) -> Result<Options> {
    let preference = match way {
        "auto" | "slot" | "copied" => Preference::Auto,
        "write" => Preference::Write,
        "splice" | TRUSTED_SPLICE => Preference::Splice,
        "segment" => Preference::Segment,
        "ring" => Preference::Ring,
        _ => bail!("there is no way {way:?}"),
    };
    Ok(Options::default()
        .prefer(preference)
        .trusted(way == TRUSTED_SPLICE)
        .slots(way != "copied"))
}

pub(in crate::uds) fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

pub(super) fn listen(way: &str, bytes: u64, directory: &Path) -> Result<(String, Accepts)> {
    let address: Address = directory.join("uds").display().to_string().parse()?;
    let mut listener = Listener::bind(address.clone(), options(way)?)?;
    let slots = way != "copied";
    let accept = move || {
        Ok(Box::new(Receiver {
            link: listener.accept(deadline())?,
            _listener: listener,
            memory: PageBuffer::new(bytes as usize)?,
            slots: slots.then(Slots::default),
            last: None,
        }) as Box<dyn Receives>)
    };
    Ok((address.to_string(), Box::new(accept)))
}

struct Receiver {
    link: Link,
    _listener: Listener,
    memory: PageBuffer,
    slots: Option<Slots>,
    last: Option<Delivery>,
}

impl Receives for Receiver {
    fn recv(&mut self) -> Result<Span<'_>> {
        let delivery = match &mut self.slots {
            Some(slots) => self.link.recv_with(slots, &mut self.memory, deadline())?,
            None => self.link.recv(&mut self.memory, deadline())?,
        };
        let region = delivery.region();
        self.last = Some(delivery);
        Ok(region.span(&mut self.memory)?)
    }

    fn release(&mut self) -> Result<()> {
        if let (Some(slots), Some(last)) = (&mut self.slots, &self.last) {
            slots.release(&mut self.memory, last.region().offset())?;
        }
        Ok(())
    }

    fn method(&self) -> String {
        let method = |last: &Delivery| last.receipt().method().name().to_owned();
        self.last.as_ref().map(method).unwrap_or_default()
    }
}

pub(super) fn connect(way: &str, bytes: u64, address: &str) -> Result<Box<dyn Sends>> {
    let link = connect_to(&address.parse()?, "bench", &options(way)?, deadline())?;
    if way == "slot" {
        return Ok(Box::new(Handover::new(link, bytes)?));
    }
    let (start, given) = match way {
        "splice" | TRUSTED_SPLICE => (0, true),
        _ => (ANY_POINTER, false),
    };
    Ok(Box::new(Sender {
        link,
        memory: PageBuffer::new((start + bytes) as usize)?,
        region: Region::new(start, bytes),
        given,
    }))
}

/// A function that says where its payload is.
struct Sender {
    link: Link,
    memory: PageBuffer,
    region: Region,
    given: bool,
}

impl Sends for Sender {
    fn place(&mut self) -> Result<Span<'_>> {
        Ok(self.region.span(&mut self.memory)?)
    }

    fn send(&mut self) -> Result<()> {
        let payload = if self.given {
            Payload::given(&mut self.memory, self.region)?
        } else {
            Payload::kept(&mut self.memory, self.region)?
        };
        self.link.send(payload, deadline())?;
        Ok(())
    }
}

/// A function that asks for a slot, fills it, and hands it over. One is filled while the other is read.
struct Handover {
    link: Link,
    memory: PageBuffer,
    slots: Slots,
    bytes: u64,
    loan: Region,
}

impl Handover {
    fn new(link: Link, bytes: u64) -> Result<Self> {
        let room = bytes.next_multiple_of(TABLE);
        let mut memory = PageBuffer::new(2 * room as usize)?;
        let mut slots = Slots::for_audience(SlotOptions::default(), link.audience());
        for place in 0..2 {
            let len = bytes.next_multiple_of(PAGE_SIZE as u64);
            let region = Region::new(place * room, len);
            slots.bind(&mut memory, region)?;
            slots.release(&mut memory, region.offset())?;
        }
        Ok(Self {
            link,
            memory,
            slots,
            bytes,
            loan: Region::new(0, 0),
        })
    }
}

impl Sends for Handover {
    fn place(&mut self) -> Result<Span<'_>> {
        loop {
            if let Some(region) = self.slots.loan(&mut self.memory, self.bytes) {
                self.loan = region;
                return Ok(region.span(&mut self.memory)?);
            }
            self.link.listen(deadline())?;
        }
    }

    fn send(&mut self) -> Result<()> {
        let payload = self
            .slots
            .hand_over(&mut self.memory, self.loan, None)?
            .context("the slot is not on loan")?;
        self.link.send_shared(&payload, deadline())?;
        Ok(())
    }
}
