//! Small payloads between two threads, from linear memory to linear memory: our link beside a bounded channel of `Vec`s.
//!
//! A *ping-pong* is a payload there and the same back, which are two payloads. In a *stream* the sender runs
//! ahead as far as the link lets it, and its time ends when the last payload of a batch has been read.

use super::{memory, Placed};
use crate::bench::{Bench, Experiment};
use crate::functions::soon;
use crate::measure::{Candidate, Receipts, Watch};
use crate::payload::Pattern;
use crate::results::{time, Ratio};
use anyhow::{anyhow, ensure, Context, Result};
use crossbeam_channel::{bounded, Receiver, Sender};
use roadrunner_core::{Deadline, Method, Payload, Receipt, Region, Sink, Transfer, TransferError};
use roadrunner_mem::{link, Link, Policy};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

const PING: &str = "mem.small.pingpong";
const STREAM: &str = "mem.small.stream";
const SIZES: [u64; 5] = [64, 1_000, 4_096, 16_384, 65_536];
/// Round trips, or payloads, of one round.
const BATCH: u64 = 1_000;
/// What a link holds in flight.
const CAPACITY: usize = 64;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    bench.expect(2 * SIZES.len());
    for bytes in SIZES {
        let mut ratios = Vec::new();
        for (name, streamed) in [(PING, false), (STREAM, true)] {
            let candidates = vec![
                candidate("channel", "crossbeam", bytes, streamed, channels),
                candidate("auto", "mem", bytes, streamed, links),
            ];
            let measured = bench.measure(Experiment::new(name, bytes), candidates)?;
            let (theirs, ours) = (measured.p50("channel")?, measured.p50("auto")?);
            ratios.push((theirs / ours, name, theirs, ours));
        }
        if bytes != SIZES[0] {
            continue;
        }
        // Of the two the one that is worse for us.
        let Some((ratio, name, theirs, ours)) = ratios
            .into_iter()
            .min_by(|one, other| one.0.total_cmp(&other.0))
        else {
            continue;
        };
        bench.ratio(
            Ratio::at_least("mem.small_over_channel.64B", ratio, 1.0).because(|| {
                format!(
                    "{name}: {} through the channel, {} through ours",
                    time(theirs),
                    time(ours)
                )
            }),
        );
    }
    Ok(())
}

/// One end of what is measured.
trait End: Send + 'static {
    /// A batch begins.
    fn begin(&mut self) {}
    fn send(&mut self, from: &mut Placed, region: Region) -> Result<Receipt>;
    fn recv(&mut self, to: &mut Placed) -> Result<(Region, Receipt)>;
}

/// Our link. As the channel's operations have no deadline, a batch has one.
struct Ours {
    link: Link,
    deadline: Deadline,
}

impl End for Ours {
    fn begin(&mut self) {
        self.deadline = soon();
    }

    fn send(&mut self, from: &mut Placed, region: Region) -> Result<Receipt> {
        let payload = Payload::given(&mut from.0, region)?;
        Ok(self.link.send(payload, self.deadline)?)
    }

    fn recv(&mut self, to: &mut Placed) -> Result<(Region, Receipt)> {
        let delivery = self.link.recv(to, self.deadline)?;
        Ok((delivery.region(), delivery.receipt()))
    }
}

/// The `Vec` is filled from a linear memory, and read into one.
struct Channel {
    there: Sender<Vec<u8>>,
    here: Receiver<Vec<u8>>,
}

impl End for Channel {
    fn send(&mut self, from: &mut Placed, region: Region) -> Result<Receipt> {
        let span = region.span(from.memory())?;
        let mut bytes = vec![0; span.len()];
        span.copy_to_slice(&mut bytes);
        self.there
            .send(bytes)
            .map_err(|_| anyhow!("the other end is gone"))?;
        Ok(Receipt::new(region.len(), Method::Copy, 1))
    }

    fn recv(&mut self, to: &mut Placed) -> Result<(Region, Receipt)> {
        let bytes = self.here.recv().map_err(|_| TransferError::PeerClosed)?;
        let region = to.reserve(bytes.len() as u64, 16)?;
        region.span(to.memory())?.copy_from_slice(&bytes);
        Ok((region, Receipt::new(region.len(), Method::Copy, 2)))
    }
}

fn links() -> (Ours, Ours) {
    let (here, there) = link(Policy::default());
    let end = |link| Ours {
        link,
        deadline: soon(),
    };
    (end(here), end(there))
}

fn channels() -> (Channel, Channel) {
    let ((there, other_here), (other_there, here)) = (bounded(CAPACITY), bounded(CAPACITY));
    let end = |there, here| Channel { there, here };
    (end(there, here), end(other_there, other_here))
}

fn candidate<E: End>(
    name: &'static str,
    transport: &'static str,
    bytes: u64,
    streamed: bool,
    ends: fn() -> (E, E),
) -> Candidate<'static> {
    Candidate::new(name, transport, move || {
        let mut near = Near::new(bytes, streamed, ends())?;
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            let numbers = number..number + BATCH;
            number = numbers.end;
            let far = watch.time(|| {
                if streamed {
                    near.stream(numbers)
                } else {
                    near.ping(numbers)
                }
            })?;
            let delivered = if streamed { BATCH } else { 2 * BATCH };
            ensure!(far.receipts.total() == delivered, "payloads are missing");
            watch.delivered_all(far.receipts);
            watch.verified_all(far.same, delivered)
        })
    })
}

/// What became of a batch.
#[derive(Clone, Copy, Default)]
struct Arrived {
    receipts: Receipts,
    same: bool,
}

/// The end that times, and the thread with the other one.
struct Near<E: End> {
    /// Taken as this is dropped, which ends the thread.
    end: Option<E>,
    thread: Option<JoinHandle<()>>,
    far: Arc<Far>,
    source: Placed,
    target: Placed,
    region: Region,
    pattern: Pattern,
}

/// What the other thread tells of batches.
#[derive(Default)]
struct Far {
    batches: AtomicU64,
    last: Mutex<Arrived>,
}

impl<E: End> Near<E> {
    fn new(bytes: u64, streamed: bool, (end, other): (E, E)) -> Result<Self> {
        let far = Arc::new(Far::default());
        let theirs = far.clone();
        let memory = || anyhow::Ok(Placed(memory(bytes)?));
        let room = memory()?;
        let thread = std::thread::spawn(move || {
            // Ends with an error: the other end is dropped.
            let _ = if streamed {
                swallow(other, room, &theirs)
            } else {
                echo(other, room)
            };
        });
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
            far,
            source: memory()?,
            target: memory()?,
            region: Region::new(0, bytes),
            pattern: Pattern::new(),
        })
    }

    fn send(&mut self, number: u64) -> Result<Receipt> {
        self.pattern
            .fill(self.region.span(&mut self.source.0)?, number);
        let end = self.end.as_mut().context("it is being dropped")?;
        end.send(&mut self.source, self.region)
    }

    fn begin(&mut self) {
        if let Some(end) = &mut self.end {
            end.begin();
        }
    }

    fn ping(&mut self, numbers: Range<u64>) -> Result<Arrived> {
        self.begin();
        let mut arrived = Arrived {
            same: true,
            ..Arrived::default()
        };
        for number in numbers {
            arrived.receipts.add(self.send(number)?);
            let end = self.end.as_mut().context("it is being dropped")?;
            let (region, receipt) = end.recv(&mut self.target)?;
            arrived.receipts.add(receipt);
            arrived.same &= self
                .pattern
                .check(region.span(self.target.memory())?, number);
        }
        Ok(arrived)
    }

    fn stream(&mut self, numbers: Range<u64>) -> Result<Arrived> {
        let batch = numbers.end / BATCH;
        self.begin();
        for number in numbers {
            self.send(number)?;
        }
        // A few payloads are under way.
        while self.far.batches.load(Ordering::Acquire) < batch {
            ensure!(
                self.thread
                    .as_ref()
                    .is_some_and(|thread| !thread.is_finished()),
                "the receiving thread has ended"
            );
            std::thread::yield_now();
        }
        Ok(*locked(&self.far.last))
    }
}

impl<E: End> Drop for Near<E> {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic, and there is nobody to tell.
            let _ = thread.join();
        }
    }
}

fn echo(mut end: impl End, mut room: Placed) -> Result<()> {
    loop {
        end.begin();
        for _ in 0..BATCH {
            let (region, _) = end.recv(&mut room)?;
            end.send(&mut room, region)?;
        }
    }
}

fn swallow(mut end: impl End, mut room: Placed, far: &Far) -> Result<()> {
    let pattern = Pattern::new();
    for batch in 0.. {
        let mut arrived = Arrived {
            same: true,
            ..Arrived::default()
        };
        end.begin();
        for number in batch * BATCH..(batch + 1) * BATCH {
            let (region, receipt) = end.recv(&mut room)?;
            arrived.same &= pattern.check(region.span(room.memory())?, number);
            arrived.receipts.add(receipt);
        }
        *locked(&far.last) = arrived;
        far.batches.store(batch + 1, Ordering::Release);
    }
    Ok(())
}

fn locked(arrived: &Mutex<Arrived>) -> MutexGuard<'_, Arrived> {
    arrived.lock().unwrap_or_else(PoisonError::into_inner)
}
