//! How long a payload takes between two processes over loopback, written and spliced:
//! `cargo run --release --example measure [MB]`.
//!
//! The program starts itself as the sender, which fills and gives away the payload twenty times, and prints the best and
//! the median time of a round from one delivery to the next, filling included, and the processor time of either side.

#[allow(unsafe_code, dead_code, unreachable_pub)]
#[path = "../tests/common/pages.rs"]
mod pages;

use pages::PageMemory;
use roadrunner_core::{
    Deadline, HostMemory, LinearMemory, Payload, Region, Sink, Transfer, TransferError,
};
use roadrunner_splice::{connect, Listener, Options, Preference};
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 20;

/// A sink whose buffer is reused, as a function's allocator would.
struct Warm(HostMemory);

impl Sink for Warm {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        if self.0.region().len() < len {
            self.0 = HostMemory::from(vec![1; len as usize]);
        }
        Ok(Region::new(0, len))
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.0
    }

    fn release(&mut self, _region: Region) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let megabytes: u64 = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let deadline = Deadline::after(Duration::from_secs(60));
    if let (Some(way), Some(address)) = (arguments.next(), arguments.next()) {
        return send(megabytes * 1_000_000, &options(&way), &address, deadline);
    }
    for way in ["write", "splice"] {
        let mut listener = Listener::bind("127.0.0.1:0", options(way))?;
        let mut sender = Command::new(std::env::current_exe()?)
            .args([&megabytes.to_string(), way, &listener.address().to_string()])
            .spawn()?;
        let mut link = listener.accept(deadline)?;
        let mut sink = Warm(HostMemory::new());
        link.recv(&mut sink, deadline)?;
        let mut times = Vec::new();
        let mut method = None;
        for _ in 0..ROUNDS {
            let before = Instant::now();
            method = Some(link.recv(&mut sink, deadline)?.receipt().method());
            times.push(before.elapsed());
        }
        sender.wait()?;
        times.sort();
        println!(
            "{megabytes} MB {}: best {:.1?}, median {:.1?}",
            method.map_or("", |method| method.name()),
            times[0],
            times[ROUNDS / 2]
        );
    }
    Ok(())
}

fn options(way: &str) -> Options {
    Options::default().prefer(match way {
        "write" => Preference::Write,
        _ => Preference::Splice,
    })
}

fn send(
    len: u64,
    options: &Options,
    address: &str,
    deadline: Deadline,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut link = connect(address, "measure", options, deadline)?;
    let mut memory = PageMemory::new(len);
    let region = Region::new(0, len);
    let mut sending = Duration::ZERO;
    for round in 0..=ROUNDS {
        fill(region.span(&mut memory)?, round as u8);
        let before = Instant::now();
        link.send(Payload::given(&mut memory, region)?, deadline)?;
        sending += before.elapsed();
    }
    link.close(deadline)?;
    let each = sending / (ROUNDS as u32 + 1);
    println!("    in send: {each:.1?} on average");
    Ok(())
}

/// What a function does before it gives a payload away.
fn fill(mut span: roadrunner_core::Span<'_>, value: u8) {
    let block = [value; 64 << 10];
    while !span.is_empty() {
        let written = span.copy_from_slice(&block);
        span = span.split_at(written).1;
    }
}
