//! What a payload costs between two processes, by each method:
//! `cargo run --release --example measure [bytes] [rounds] [chunk]`.
//!
//! The program starts itself as the sender, which fills and gives away the payload; the receiver reads one byte of each
//! page. Printed are the best and the median time of a round from one delivery to the next, filling included, and the
//! processor time that a round costs in `send` and in `recv`.

use nix::sys::resource::{getrusage, UsageWho};
use roadrunner_core::{Deadline, Payload, Region, Span, Transfer};
use roadrunner_mem::{PageBuffer, SlotOptions, Slots, PAGE_SIZE};
use roadrunner_uds::{connect, Address, Link, Listener, Options, Preference};
use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

/// The payload is filled in a slot, which may stay where it is.
const SLOT: &str = "slot";
const TRUSTED: &str = "trusted";
const WAYS: [(&str, Preference); 6] = [
    ("write", Preference::Write),
    ("splice", Preference::Splice),
    ("ring", Preference::Ring),
    ("segment", Preference::Segment),
    (SLOT, Preference::Auto),
    (TRUSTED, Preference::Auto),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let number = |at: usize, usual| {
        arguments
            .get(at)
            .map_or(Ok(usual), |text: &String| text.parse())
    };
    let (bytes, rounds, chunk) = (
        number(0, 100_000_000)?,
        number(1, 20)?,
        number(2, 256 << 10)?,
    );
    if let [.., way, address] = &arguments[arguments.len().min(3)..] {
        let link = connect(
            &address.parse()?,
            "measure",
            &options(way, chunk),
            deadline(),
        )?;
        return if [SLOT, TRUSTED].contains(&way.as_str()) {
            send_slots(link, bytes, rounds)
        } else {
            send(link, bytes, rounds)
        };
    }
    for (way, _) in WAYS {
        receive(bytes, rounds, chunk, way)?;
    }
    Ok(())
}

fn options(way: &str, chunk: u64) -> Options {
    let preference = WAYS.iter().find(|(name, _)| *name == way);
    Options::default()
        .prefer(preference.map_or_else(Preference::default, |(_, preference)| *preference))
        .chunk(chunk as usize)
        .splice_from(0)
        .segment_from(0)
        .ring_from(0)
        .trusted(way == TRUSTED)
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn receive(bytes: u64, rounds: u64, chunk: u64, way: &str) -> Result<(), Box<dyn Error>> {
    let address: Address = format!("@roadrunner-measure-{}", std::process::id()).parse()?;
    let mut listener = Listener::bind(address.clone(), options(way, chunk))?;
    let mut sender = Command::new(std::env::current_exe()?)
        .args([bytes, rounds, chunk].map(|number| number.to_string()))
        .args([way, &address.to_string()])
        .spawn()?;
    let mut link = listener.accept(deadline())?;
    let mut memory = PageBuffer::new(bytes as usize)?;
    let mut slots = Slots::default();
    let warm_up = link.recv_with(&mut slots, &mut memory, deadline())?;
    slots.release(&mut memory, warm_up.region().offset())?;
    let mut times = Vec::new();
    let mut receiving = Duration::ZERO;
    for _ in 0..rounds {
        let (before, cpu) = (Instant::now(), cpu()?);
        let region = link
            .recv_with(&mut slots, &mut memory, deadline())?
            .region();
        receiving += self::cpu()? - cpu;
        look(region.span(&mut memory)?);
        slots.release(&mut memory, region.offset())?;
        times.push(before.elapsed());
    }
    sender.wait()?;
    times.sort();
    println!(
        "{bytes} bytes, {}: best {:.1?}, median {:.1?}; recv {:.1?} of processor time",
        warm_up.receipt().method(),
        times[0],
        times[times.len() / 2],
        receiving / rounds as u32
    );
    Ok(())
}

fn send(mut link: Link, bytes: u64, rounds: u64) -> Result<(), Box<dyn Error>> {
    let mut memory = PageBuffer::new(bytes as usize)?;
    let region = Region::new(0, bytes);
    let mut sending = Duration::ZERO;
    for round in 0..=rounds {
        fill(region.span(&mut memory)?, round as u8);
        let before = cpu()?;
        link.send(Payload::given(&mut memory, region)?, deadline())?;
        if round > 0 {
            sending += cpu()? - before;
        }
    }
    finish(link, sending / rounds as u32)
}

fn finish(mut link: Link, sending: Duration) -> Result<(), Box<dyn Error>> {
    link.close(deadline())?;
    println!("    send {sending:.1?} of processor time");
    Ok(())
}

/// As [`send`], with the payload filled where it is handed over from.
fn send_slots(mut link: Link, bytes: u64, rounds: u64) -> Result<(), Box<dyn Error>> {
    // One is filled while the other is read.
    const TABLE: u64 = 2 << 20;
    let room = bytes.next_multiple_of(TABLE);
    let mut memory = PageBuffer::new(2 * room as usize)?;
    let mut slots = Slots::for_audience(SlotOptions::default(), link.audience());
    for place in 0..2 {
        let len = bytes.next_multiple_of(PAGE_SIZE as u64);
        let region = Region::new(place * room, len);
        slots.bind(&mut memory, region)?;
        fill(region.span(&mut memory)?, 0);
        slots.release(&mut memory, region.offset())?;
    }
    let mut sending = Duration::ZERO;
    for round in 0..=rounds {
        let region = loop {
            match slots.loan(&mut memory, bytes) {
                Some(region) => break region,
                None => {
                    link.listen(deadline())?;
                }
            }
        };
        fill(region.span(&mut memory)?, round as u8);
        let before = cpu()?;
        let payload = slots.hand_over(&mut memory, region, link.trust())?;
        let payload = payload.ok_or("the slot is not on loan")?;
        link.send_shared(&payload, deadline())?;
        if round > 0 {
            sending += cpu()? - before;
        }
    }
    finish(link, sending / rounds as u32)
}

/// Processor time of this process so far.
fn cpu() -> nix::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let spent = [usage.user_time(), usage.system_time()];
    Ok(spent
        .into_iter()
        .map(|time| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64))
        .sum())
}

/// What a function does before it gives a payload away.
fn fill(mut span: Span<'_>, value: u8) {
    let block = [value; 64 << 10];
    while !span.is_empty() {
        let written = span.copy_from_slice(&block);
        span = span.split_at(written).1;
    }
}

/// What a function does at the least with one that it got.
fn look(mut span: Span<'_>) {
    let mut byte = [0];
    while !span.is_empty() {
        span.copy_to_slice(&mut byte);
        std::hint::black_box(byte);
        span = span.split_at(PAGE_SIZE).1;
    }
}
