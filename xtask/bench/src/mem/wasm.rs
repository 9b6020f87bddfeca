//! Between two functions on WasmEdge, compiled ahead of time: pages that change hands, slots, and what WasmEdge's SDK has
//! for it.

use super::getset::{self, Round};
use super::LARGE;
use crate::bench::{Bench, Experiment};
use crate::functions::{base, soon, Consumer, Modules, Producer};
use crate::measure::{Candidate, Watch};
use crate::peer::Peer;
use crate::results::{time, Ratio};
use anyhow::Result;
use roadrunner_core::{Delivery, Region, TransferError};
use roadrunner_mem::{link, transfer, Link, Policy};

const TRANSFER: &str = "mem.wasm.transfer";
const STEADY: &str = "mem.wasm.steady";
const SIZES: [u64; 5] = [4_096, 65_536, 2_000_000, 10_000_000, LARGE];

/// Below this the guest crate's `loan` gives ordinary buffers.
const LOANS: u64 = 1 << 20;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let Some(modules) = Modules::find(bench, "mem.wasm") else {
        return Ok(());
    };
    let sizes = bench.sizes(&SIZES);
    bench.expect(2 * sizes.len());
    for bytes in sizes {
        for (name, whole) in [(TRANSFER, false), (STEADY, true)] {
            let candidate = |way| ours(way, &modules, bytes, whole);
            let mut candidates = vec![getset(bytes, whole), candidate(Way::Auto)];
            if bytes >= LOANS {
                candidates.extend([Way::Slot, Way::TrustedSlot].map(candidate));
            }
            let measured = bench.measure(Experiment::new(name, bytes), candidates)?;
            if whole || bytes != bench.bytes(LARGE) {
                continue;
            }
            let theirs = measured.p50("getset")?;
            let (auto, slot) = (measured.p50("auto")?, measured.p50("slot")?);
            let ratio = Ratio::at_least(
                "mem.wasm.user_over_getset.100MB",
                theirs / slot.min(auto),
                500.0,
            );
            bench.ratio(ratio.because(|| {
                format!(
                    "get_data and set_data take {}, auto {}, a strict slot {}",
                    time(theirs),
                    time(auto),
                    time(slot)
                )
            }));
        }
    }
    Ok(())
}

/// How a payload goes from function to function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From an ordinary buffer, as the policy says.
    Auto,
    /// Handed over in a slot.
    Slot,
    /// In one whose mappings stay.
    TrustedSlot,
}

/// The functions fill and read the payload; `whole` times that too.
fn ours(way: Way, modules: &Modules, bytes: u64, whole: bool) -> Candidate<'_> {
    let name = match way {
        Way::Auto => "auto",
        Way::Slot => "slot",
        Way::TrustedSlot => "slot-trusted",
    };
    Candidate::new(name, "wasmedge", move || {
        let mut policy = Policy::default();
        policy.trusted = way == Way::TrustedSlot;
        let mut hop = Hop {
            producer: Producer::new(modules)?,
            consumer: Consumer::new(modules)?,
            link: link(policy.clone()),
            policy,
        };
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            number += 1;
            let base = base(number);
            let loan = way != Way::Auto;
            let reply = watch.part(whole, || hop.producer.produce(bytes, base, loan))?;
            let delivery = watch.time(|| match way {
                Way::Auto => hop.transfer(reply),
                Way::Slot | Way::TrustedSlot => hop.hand_over(reply),
            })?;
            watch.delivered(delivery.receipt());
            watch.part(whole, || hop.producer.function.free(reply))?;
            let same = watch.part(whole, || hop.consumer.consume(delivery.region(), base))?;
            watch.verified(same)
        })
    })
}

/// Two functions, and a way between them.
struct Hop {
    producer: Producer,
    consumer: Consumer,
    link: (Link, Link),
    policy: Policy,
}

impl Hop {
    fn transfer(&mut self, reply: Region) -> Result<Delivery, TransferError> {
        let mut given = self.producer.function.given(reply)?;
        transfer(given.payload()?, &mut self.consumer.function, &self.policy)
    }

    fn hand_over(&mut self, reply: Region) -> Result<Delivery, TransferError> {
        let (here, there) = &mut self.link;
        self.producer.function.given(reply)?.send(here, soon())?;
        self.consumer.function.receive(there, soon())
    }
}

/// In a process of its own: the SDK comes with other signal handlers than the adapter.
fn getset<'a>(bytes: u64, whole: bool) -> Candidate<'a> {
    Candidate::new("getset", "wasmedge-sdk", move || {
        let mut peer = Peer::start(getset::NAME)?;
        peer.control.say(&bytes)?;
        let mut number = 0;
        Ok(move |watch: &mut Watch| {
            number += 1;
            peer.control.say(&base(number))?;
            let round: Round = watch.beside(|| peer.control.hear())?;
            let (time, cpu) = if whole { round.whole } else { round.transfer };
            watch.add_time(time);
            watch.add_cpu(cpu);
            watch.add_peak(round.peak);
            watch.delivered_by("copy", 1);
            watch.verified(round.same)
        })
    })
}
