//! What copying and exchanging a payload cost in one process: `cargo run --release --example exchange`.
//!
//! *transfer* is the call alone: one copy; the exchange with cleared pages coming back; the same where both trust each
//! other. *round* is what a workflow sees: the sender fills the payload, it is transferred, the receiver sums it. *link*
//! is the same round between two threads, each of which works while the other does. Medians, in microseconds.

use roadrunner_core::{
    Deadline, LinearMemory, Method, Payload, Region, Sink, Transfer, TransferError,
};
use roadrunner_mem::{link, transfer, PageBuffer, Policy};
use std::time::{Duration, Instant};

const SIZES: [u64; 10] = [
    64 << 10,
    256 << 10,
    512 << 10,
    640 << 10,
    1 << 20,
    2 << 20,
    4 << 20,
    6 << 20,
    16 << 20,
    100 << 20,
];

fn main() -> Result<(), TransferError> {
    println!(
        "{:>9}  {:>9} {:>9} {:>9}  {:>9} {:>9} {:>9}  {:>9} {:>9} {:>9}",
        "", "transfer", "", "", "round", "", "", "link", "", ""
    );
    print!("{:>9}", "KiB");
    for _ in 0..3 {
        print!("  {:>9} {:>9} {:>9}", "copy", "exchange", "trusted");
    }
    println!();
    for size in SIZES {
        let mut alone = Vec::new();
        let mut rounds = Vec::new();
        let mut linked = Vec::new();
        for policy in policies() {
            let (transfer, round) = in_one_thread(size, &policy)?;
            alone.push(transfer);
            rounds.push(round);
            linked.push(between_threads(size, policy)?);
        }
        print!("{:>9}", size >> 10);
        for columns in [alone, rounds, linked] {
            print!(" ");
            for time in columns {
                print!(" {:>9.1}", time.as_secs_f64() * 1e6);
            }
        }
        println!();
    }
    Ok(())
}

fn policies() -> [Policy; 3] {
    let force = |method, trusted| {
        let mut policy = Policy::default();
        (policy.force, policy.trusted) = (Some(method), trusted);
        // A sender that runs ahead has ever more pages in flight; a workflow has few.
        policy.messages = 2;
        policy
    };
    [
        force(Method::Copy, false),
        force(Method::Exchange, false),
        force(Method::Exchange, true),
    ]
}

fn repeats(size: u64) -> usize {
    ((1 << 30) / size).clamp(25, 1000) as usize
}

fn in_one_thread(size: u64, policy: &Policy) -> Result<(Duration, Duration), TransferError> {
    let (mut source, mut target) = (pages(size)?, pages(size)?);
    let region = Region::new(0, size);
    let (mut transfers, mut rounds) = (Vec::new(), Vec::new());
    for round in 0..repeats(size) {
        let start = Instant::now();
        produce(&mut source, region, round as u8)?;
        let payload = Payload::given(&mut source, region)?;
        let sent = Instant::now();
        let delivery = transfer(payload, &mut target, policy)?;
        transfers.push(sent.elapsed());
        consume(&mut target, delivery.region(), round as u8)?;
        rounds.push(start.elapsed());
    }
    Ok((median(transfers), median(rounds)))
}

fn between_threads(size: u64, policy: Policy) -> Result<Duration, TransferError> {
    let (mut here, mut there) = link(policy);
    let deadline = Deadline::after(Duration::from_secs(60));
    let receiver = std::thread::spawn(move || {
        let mut target = pages(size)?;
        let mut rounds = Vec::new();
        for round in 0..repeats(size) {
            let start = Instant::now();
            let delivery = there.recv(&mut target, deadline)?;
            consume(&mut target, delivery.region(), round as u8)?;
            rounds.push(start.elapsed());
        }
        Ok(median(rounds))
    });
    let mut source = pages(size)?;
    let region = Region::new(0, size);
    for round in 0..repeats(size) {
        produce(&mut source, region, round as u8)?;
        here.send(Payload::given(&mut source, region)?, deadline)?;
    }
    receiver.join().unwrap_or(Err(TransferError::Broken))
}

fn pages(size: u64) -> Result<PageBuffer, TransferError> {
    let mut buffer = PageBuffer::new(size as usize).map_err(|source| TransferError::Io {
        doing: "map pages",
        source,
    })?;
    let all = buffer.reserve(size, 1)?;
    produce(&mut buffer, all, 0)?;
    Ok(buffer)
}

/// One write to every 64-bit word of the payload.
fn produce(memory: &mut PageBuffer, region: Region, value: u8) -> Result<(), TransferError> {
    let piece = [value; 4096];
    let mut rest = region.span(memory)?;
    while !rest.is_empty() {
        let (next, behind) = rest.split_at(piece.len());
        next.copy_from_slice(&piece);
        rest = behind;
    }
    Ok(())
}

/// One read of every 64-bit word of the payload.
fn consume(memory: &mut dyn LinearMemory, region: Region, value: u8) -> Result<(), TransferError> {
    let mut piece = [0; 4096];
    let mut rest = region.span(memory)?;
    while !rest.is_empty() {
        let (next, behind) = rest.split_at(piece.len());
        next.copy_to_slice(&mut piece);
        assert!(
            piece.iter().all(|byte| *byte == value),
            "the payload changed"
        );
        rest = behind;
    }
    Ok(())
}
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
