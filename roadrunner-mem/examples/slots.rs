//! What a handover of a slot costs beside a copy, both sides' work: `cargo run --release --example slots`.

use roadrunner_core::{Deadline, LinearMemory, Region, Sink, TransferError};
use roadrunner_mem::{link, PageBuffer, Policy, SlotOptions, Slots, PAGE_SIZE};
use std::time::{Duration, Instant};

const ROUNDS: usize = 25;

/// Gives the same region each time: the function has one payload at a time.
struct One<'a>(&'a mut PageBuffer);

impl Sink for One<'_> {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(Region::new(0, len))
    }
    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.0
    }
    fn release(&mut self, _region: Region) {}
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() -> Result<(), TransferError> {
    println!(
        "{:>11} {:>12} {:>12} {:>12}",
        "bytes", "copy", "strict", "trusted"
    );
    for len in [
        4 << 10,
        64 << 10,
        1 << 20,
        10_000_000,
        100_000_000,
        500_000_000,
    ] {
        let times = [copy(len)?, hand_over(len, false)?, hand_over(len, true)?];
        let [copy, strict, trusted] = times.map(|time| format!("{time:.2?}"));
        println!("{len:>11} {copy:>12} {strict:>12} {trusted:>12}");
    }
    Ok(())
}

fn memory(len: usize) -> Result<PageBuffer, TransferError> {
    PageBuffer::new(len).map_err(|source| TransferError::Io {
        doing: "map a memory",
        source,
    })
}

fn copy(len: usize) -> Result<Duration, TransferError> {
    let (mut from, mut to) = (memory(len)?, memory(len)?);
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        produce(&mut from, len, round);
        let began = Instant::now();
        to.span().copy_from(from.span());
        times.push(began.elapsed());
        consume(&to, len, round);
    }
    Ok(median(times))
}

fn hand_over(len: usize, trusted: bool) -> Result<Duration, TransferError> {
    let mut policy = Policy::default();
    policy.trusted = trusted;
    let (mut here, mut there) = link(policy);
    let soon = Deadline::after(Duration::from_secs(600));
    let (mut from, mut to) = (memory(len)?, memory(len)?);
    let (mut lent, mut received) = (
        Slots::new(SlotOptions::default()),
        Slots::new(SlotOptions::default()),
    );
    let place = Region::new(0, len.next_multiple_of(PAGE_SIZE) as u64);
    lent.bind(&mut from, place)?;
    let mut times = Vec::new();
    let mut region = Region::new(0, len as u64);
    for round in 0..ROUNDS {
        produce(&mut from, len, round);
        let began = Instant::now();
        let trust = here.trust();
        let payload = lent
            .hand_over(&mut from, region, trust)?
            .expect("it is on loan");
        here.send_shared(&payload, soon)?;
        drop(payload);
        let delivery = there.recv_with(&mut received, &mut One(&mut to), soon)?;
        let handed = began.elapsed();
        consume(&to, len, round);
        let began = Instant::now();
        received.release(&mut to, delivery.region().offset())?;
        region = lent
            .loan(&mut from, len as u64)
            .expect("it has been released");
        times.push(handed + began.elapsed());
    }
    Ok(median(times))
}

fn produce(memory: &mut PageBuffer, len: usize, round: usize) {
    let bytes = memory.span().split_at(len).0;
    let fill = vec![round as u8; 1 << 20];
    let mut rest = bytes;
    while !rest.is_empty() {
        rest = rest.split_at(rest.copy_from_slice(&fill)).1;
    }
}

fn consume(memory: &PageBuffer, len: usize, round: usize) {
    let sum: u64 = memory.as_slice()[..len]
        .iter()
        .map(|byte| u64::from(*byte))
        .sum();
    assert_eq!(sum, round as u64 * len as u64);
}
