//! What one copy costs: between the memories of two functions, and between two buffers.

use super::hop::{Departure, Receiving};
use crate::functions::{Consumer, Modules, Producer};
use crate::measure::{Candidate, Watch};
use roadrunner_core::Sink;
use std::time::Instant;

/// That of links for large payloads.
const ALIGNMENT: u64 = 2 << 20;

/// The host copies once, from the one linear memory to the other: what any runtime's host could do.
pub(super) fn host(bytes: u64, modules: &Modules) -> Candidate<'_> {
    Candidate::new("host-copy", "wasmedge", move || {
        let (mut from, mut to) = (Producer::new(modules)?, Consumer::new(modules)?);
        let mut base = 0;
        Ok(move |watch: &mut Watch| {
            base += 1;
            let mut departure = Departure::begin();
            let reply = from.produce(bytes, base, false)?;
            departure.produced();
            departure.sent();
            let mut receiving = Receiving::begin();
            let asked = Instant::now();
            let room = to.function.reserve(bytes, ALIGNMENT)?;
            let allocated = asked.elapsed();
            let source = reply.span(from.function.memory())?;
            room.span(to.function.memory())?.copy_from(source);
            receiving.arrived(allocated);
            let sum = to.sum(room)?;
            let arrival = receiving.consumed(sum, "copy");
            from.function.free(reply)?;
            departure.tell(&arrival, watch);
            watch.verified(sum == sequence::expected(bytes, base))
        })
    })
}

/// One `memcpy`, of memory that has been touched before: what this machine can do at most if bytes are copied at all.
pub(super) fn memcpy<'a>(bytes: u64) -> Candidate<'a> {
    Candidate::new("memcpy", "native", move || {
        let len = usize::try_from(bytes)?;
        let (mut from, mut to) = (vec![1_u8; len], vec![1_u8; len]);
        let mut base = 0;
        Ok(move |watch: &mut Watch| {
            base += 1;
            let mut departure = Departure::begin();
            sequence::fill(&mut from, base);
            departure.produced();
            departure.sent();
            let mut receiving = Receiving::begin();
            to.copy_from_slice(&from);
            receiving.arrived(Default::default());
            let sum = sequence::sum(&to);
            let arrival = receiving.consumed(sum, "memcpy");
            departure.tell(&arrival, watch);
            watch.verified(sum == sequence::expected(bytes, base))
        })
    })
}
