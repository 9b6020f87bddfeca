//! Produce, transfer, consume, over and over: what a workflow pays, page faults that a transfer leaves behind included.

use super::{Ends, LARGE};
use crate::bench::{Bench, Experiment};
use crate::measure::{Candidate, Receipts, Watch};
use crate::payload::Pattern;
use crate::results::{time, Ratio};
use anyhow::Result;
use roadrunner_core::memory::preferred_alignment;
use roadrunner_core::{Delivery, Method, Payload, Receipt, Sink, TransferError};
use roadrunner_mem::{transfer, Policy};
use std::cell::RefCell;
use std::rc::{Rc, Weak};

const STEADY: &str = "mem.steady";

/// From what fits a cache line to what fits no cache.
const SIZES: [u64; 13] = [
    64,
    1_000,
    4_096,
    16_384,
    65_536,
    262_144,
    1_000_000,
    2_000_000,
    4_000_000,
    10_000_000,
    40_000_000,
    LARGE,
    500_000_000,
];

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let sizes = bench.sizes(&SIZES);
    bench.expect(sizes.len());
    let large = bench.bytes(LARGE);
    let mut worst: Option<(f64, u64)> = None;
    for bytes in sizes {
        let room = Room::new(bytes);
        let candidates = vec![
            rounds("copy", "memcpy", &room, by_hand),
            rounds("auto", "mem", &room, auto),
            idle(&room),
        ];
        let measured = bench.measure(Experiment::new(STEADY, bytes), candidates)?;
        let ratio = measured.ratio("copy", "auto")?;
        if bytes == large {
            let p50 = |name| measured.p50(name).map(time);
            let (copy, auto, idle) = (p50("copy")?, p50("auto")?, p50("none")?);
            let name = "mem.auto_over_copy.steady.100MB";
            bench.ratio(Ratio::at_least(name, ratio, 1.7).because(|| {
                format!("{auto} beside {copy} with a copy and {idle} with no transfer at all")
            }));
        }
        let lower = worst.is_none_or(|(least, _)| ratio < least);
        if ratio.is_finite() && lower {
            worst = Some((ratio, bytes));
        }
    }
    if let Some((ratio, bytes)) = worst {
        bench.ratio(
            Ratio::at_least("mem.auto_over_copy.steady.worst", ratio, 0.95)
                .because(|| format!("at {bytes} bytes")),
        );
    }
    Ok(())
}

/// The memories of the candidates. Below the size from which pages change hands all of them do the same with theirs, which are
/// the same then: which pages the kernel happened to give one or the other makes a tenth of the time.
struct Room {
    bytes: u64,
    shared: RefCell<Weak<RefCell<Ends>>>,
}

impl Room {
    fn new(bytes: u64) -> Self {
        Self {
            bytes,
            shared: RefCell::default(),
        }
    }

    fn ends(&self) -> Result<Rc<RefCell<Ends>>> {
        if let Some(ends) = self.shared.borrow().upgrade() {
            return Ok(ends);
        }
        let ends = Rc::new(RefCell::new(Ends::new(self.bytes)?));
        if self.bytes < Policy::default().exchange {
            *self.shared.borrow_mut() = Rc::downgrade(&ends);
        }
        Ok(ends)
    }
}

/// Payloads of this size that make a round: enough to be timed.
fn batch(bytes: u64) -> u64 {
    (1_000_000 / bytes).clamp(1, 10_000)
}

type Step = fn(&mut Ends, &Policy) -> Result<Delivery, TransferError>;

fn auto(ends: &mut Ends, policy: &Policy) -> Result<Delivery, TransferError> {
    let payload = Payload::given(&mut ends.source, ends.region)?;
    transfer(payload, &mut ends.target, policy)
}

/// What a runtime does that has nothing but memcpy: reserve in the receiver, check both ends, copy.
fn by_hand(ends: &mut Ends, _policy: &Policy) -> Result<Delivery, TransferError> {
    let len = ends.region.len();
    let region = ends.target.reserve(len, preferred_alignment(len))?;
    let source = ends.region.span(&mut ends.source)?;
    region.span(ends.target.memory())?.copy_from(source);
    Ok(Delivery::new(region, Receipt::new(len, Method::Copy, 1)))
}

fn rounds<'r>(
    name: &'static str,
    transport: &'static str,
    room: &'r Room,
    step: Step,
) -> Candidate<'r> {
    let bytes = room.bytes;
    Candidate::new(name, transport, move || {
        let ends = room.ends()?;
        let policy = Policy::default();
        let pattern = Pattern::new();
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            let mut receipts = Receipts::default();
            let mut same = true;
            let numbers = number..number + batch(bytes);
            number = numbers.end;
            let mut ends = ends.borrow_mut();
            let ends = &mut *ends;
            watch.time(|| {
                for number in numbers {
                    pattern.fill(ends.region.span(&mut ends.source)?, number);
                    let delivery = step(ends, &policy)?;
                    let region = delivery.region();
                    same &= pattern.check(region.span(ends.target.memory())?, number);
                    receipts.add(delivery.receipt());
                }
                Ok::<_, TransferError>(())
            })?;
            watch.delivered_all(receipts);
            watch.verified_all(same, batch(bytes))
        })
    })
}

/// The limit: the payload is consumed where it was produced.
fn idle(room: &Room) -> Candidate<'_> {
    let bytes = room.bytes;
    Candidate::new("none", "none", move || {
        let ends = room.ends()?;
        let pattern = Pattern::new();
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            let numbers = number..number + batch(bytes);
            number = numbers.end;
            let mut same = true;
            let mut ends = ends.borrow_mut();
            let ends = &mut *ends;
            watch.time(|| {
                for number in numbers {
                    pattern.fill(ends.region.span(&mut ends.source)?, number);
                    same &= pattern.check(ends.region.span(&mut ends.source)?, number);
                }
                Ok::<_, TransferError>(())
            })?;
            watch.delivered_by("none", batch(bytes));
            watch.verified_all(same, batch(bytes))
        })
    })
}
