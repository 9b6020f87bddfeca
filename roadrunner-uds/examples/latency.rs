//! How long a small payload takes from one process to another: `cargo run --release --example latency [rounds]`.
//!
//! The program starts itself as the other side, which answers everything with as much. Printed is half of a round, the best
//! and the median, for a raw socket, for links with a ring and without, and for slots that stay mapped at both ends.

use roadrunner_core::{Deadline, Payload, Region, Transfer};
use roadrunner_mem::{PageBuffer, SlotOptions, Slots};
use roadrunner_uds::{connect, Address, Link, Listener, Options};
use std::error::Error;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

const WAYS: [&str; 5] = ["raw", "socket", "ring", "slot", "trusted"];
const SIZES: [u64; 3] = [64, 4096, 500 << 20];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [rounds, way, bytes, name] = &arguments[..] {
        return answer(rounds.parse()?, way, bytes.parse()?, name);
    }
    let rounds = arguments.first().map_or(Ok(10_000), |text| text.parse())?;
    for way in WAYS {
        for bytes in SIZES {
            let in_slots = way == "slot" || way == "trusted";
            if in_slots || bytes < 10_000 {
                let rounds = if bytes > 10_000 { rounds / 20 } else { rounds };
                ask(rounds, way, bytes)?;
            }
        }
    }
    Ok(())
}

fn options(way: &str) -> Options {
    Options::default()
        .ring(if way == "socket" { 0 } else { 256 << 10 })
        .trusted(way == "trusted")
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn ask(rounds: usize, way: &str, bytes: u64) -> Result<(), Box<dyn Error>> {
    let name = format!("roadrunner-latency-{}-{way}-{bytes}", std::process::id());
    let other = |rounds: usize| {
        Command::new(std::env::current_exe()?)
            .args([&rounds.to_string(), way, &bytes.to_string(), &name])
            .spawn()
    };
    let mut times = Vec::new();
    let mut child;
    if way == "raw" {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        child = other(rounds)?;
        let mut stream = listener.accept()?.0;
        let mut buffer = vec![1; bytes as usize];
        for _ in 0..rounds {
            let before = Instant::now();
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)?;
            times.push(before.elapsed() / 2);
        }
    } else {
        let mut listener = Listener::bind(Address::abstract_name(&name)?, options(way))?;
        child = other(rounds)?;
        let mut end = End::new(listener.accept(deadline())?, way, bytes)?;
        for _ in 0..rounds {
            let before = Instant::now();
            end.send()?;
            end.receive()?;
            times.push(before.elapsed() / 2);
        }
    }
    child.wait()?;
    times.sort();
    println!(
        "{way}, {bytes} bytes: best {:.1?}, median {:.1?}",
        times[0],
        times[times.len() / 2]
    );
    Ok(())
}

fn answer(rounds: usize, way: &str, bytes: u64, name: &str) -> Result<(), Box<dyn Error>> {
    if way == "raw" {
        let mut stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
        let mut buffer = vec![1; bytes as usize];
        for _ in 0..rounds {
            stream.read_exact(&mut buffer)?;
            stream.write_all(&buffer)?;
        }
        return Ok(());
    }
    let address = Address::abstract_name(name)?;
    let mut end = End::new(
        connect(&address, "latency", &options(way), deadline())?,
        way,
        bytes,
    )?;
    for _ in 0..rounds {
        end.receive()?;
        end.send()?;
    }
    Ok(())
}

/// A link and a function's memory.
struct End {
    link: Link,
    memory: PageBuffer,
    slots: Slots,
    bytes: u64,
    in_slots: bool,
    /// Where the next slot may be.
    next: u64,
}

impl End {
    fn new(link: Link, way: &str, bytes: u64) -> Result<Self, Box<dyn Error>> {
        let mut options = SlotOptions::default();
        options.bytes = 8 << 30;
        Ok(Self {
            slots: Slots::for_audience(options, link.audience()),
            link,
            memory: PageBuffer::new(16 << 30)?,
            bytes,
            in_slots: way == "slot" || way == "trusted",
            next: 0,
        })
    }

    fn send(&mut self) -> Result<(), Box<dyn Error>> {
        let Self { link, memory, .. } = self;
        if !self.in_slots {
            let region = Region::new(0, self.bytes);
            link.send(Payload::kept(memory, region)?, deadline())?;
            return Ok(());
        }
        let region = match self.slots.loan(memory, self.bytes) {
            Some(region) => region,
            None => {
                let region = Region::new(self.next, self.bytes.next_multiple_of(4096));
                self.next += region.len().next_multiple_of(2 << 20);
                self.slots.bind(memory, region)?;
                region
            }
        };
        let payload = self.slots.hand_over(memory, region, link.trust())?;
        link.send_shared(&payload.ok_or("no loaned slot")?, deadline())?;
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Box<dyn Error>> {
        let mut sink = Heap(&mut self.memory, &mut self.next);
        let delivery = self
            .link
            .recv_with(&mut self.slots, &mut sink, deadline())?;
        if self.in_slots {
            let offset = delivery.region().offset();
            self.slots.release(&mut self.memory, offset)?;
        }
        Ok(())
    }
}

/// Places for slots, never given back; all other payloads are received into the same place.
struct Heap<'a>(&'a mut PageBuffer, &'a mut u64);

impl roadrunner_core::Sink for Heap<'_> {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, roadrunner_core::TransferError> {
        if align < 4096 {
            return Ok(Region::new(0, len));
        }
        let offset = self.1.next_multiple_of(align.max(2 << 20));
        *self.1 = offset + len;
        Ok(Region::new(offset, len))
    }

    fn memory(&mut self) -> &mut dyn roadrunner_core::LinearMemory {
        self.0
    }

    fn release(&mut self, _region: Region) {}
}
