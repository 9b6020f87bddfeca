//! How long a payload takes between two processes: `cargo run --release --example measure [MB] [buffer bytes, or default]`.
//!
//! The program starts itself as the sender, sends the payload ten times, and prints the best and the median time from
//! one delivery to the next, on one line.

use roadrunner_core::{
    Deadline, HostMemory, LinearMemory, Payload, Region, Sink, Transfer, TransferError,
};
use roadrunner_uds::{connect, Address, Listener, Options};
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 10;

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
    let megabytes: usize = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let mut options = Options::default();
    let buffer = arguments.next().unwrap_or_else(|| "default".to_owned());
    if buffer != "default" {
        options = options.buffer(buffer.parse()?);
    }
    let deadline = Deadline::after(Duration::from_secs(60));
    if let Some(address) = arguments.next() {
        let mut link = connect(&address.parse()?, "measure", &options, deadline)?;
        let mut memory = HostMemory::from(vec![7; megabytes * 1_000_000]);
        let region = memory.region();
        for _ in 0..=ROUNDS {
            link.send(Payload::kept(&mut memory, region)?, deadline)?;
        }
        link.close(deadline)?;
        return Ok(());
    }
    let address: Address = format!("@roadrunner-measure-{}", std::process::id()).parse()?;
    let mut listener = Listener::bind(address.clone(), options)?;
    let mut sender = Command::new(std::env::current_exe()?)
        .arg(megabytes.to_string())
        .arg(buffer)
        .arg(address.to_string())
        .spawn()?;
    let mut link = listener.accept(deadline)?;
    let mut sink = Warm(HostMemory::new());
    let warm_up = link.recv(&mut sink, deadline)?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let before = Instant::now();
        link.recv(&mut sink, deadline)?;
        times.push(before.elapsed());
    }
    sender.wait()?;
    times.sort();
    println!(
        "{megabytes} MB, {}: best {:.1?}, median {:.1?}",
        warm_up.receipt().method(),
        times[0],
        times[ROUNDS / 2]
    );
    Ok(())
}
