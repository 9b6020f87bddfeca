//! What a link chooses when nobody prescribes the way.

use roadrunner_core::testing::skipped;
use roadrunner_core::{Deadline, Method, Payload, Receipt, Region, Transfer};
use roadrunner_mem::{PageBuffer, Slots};
use roadrunner_uds::{pair, Link, Options};
use std::thread;
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A linear memory, and its slots.
struct Receiver {
    memory: PageBuffer,
    slots: Slots,
}

impl Receiver {
    fn new() -> Self {
        Self {
            memory: PageBuffer::new(4 << 20).expect("room"),
            slots: Slots::default(),
        }
    }
}

/// Sends a payload of its own bytes, and gives the receipt of who received it, in the same bytes.
fn hop((a, b): &mut (Link, Link), to: &mut Receiver, len: u64, give: bool) -> Receipt {
    let Receiver { memory, slots } = to;
    let mut source = PageBuffer::new(len as usize).expect("room");
    let bytes: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
    let region = Region::new(0, len);
    region
        .span(&mut source)
        .expect("inside")
        .copy_from_slice(&bytes);
    thread::scope(|scope| {
        scope.spawn(|| {
            let payload = match give {
                true => Payload::given(&mut source, region),
                false => Payload::kept(&mut source, region),
            };
            a.send(payload.expect("inside"), soon()).expect("sent")
        });
        let delivery = b.recv_with(slots, memory, soon()).expect("received");
        let mut got = vec![0; len as usize];
        let region = delivery.region();
        region.span(memory).expect("inside").copy_to_slice(&mut got);
        assert!(got == bytes);
        slots.release(memory, region.offset()).expect("released");
        delivery.receipt()
    })
}

#[test]
fn large_payloads_go_in_segments_to_whom_has_said_that_it_maps_them() {
    let options = Options::default().slots(true);
    for give in [false, true] {
        for (len, mapped) in [(MIB - 1, false), (MIB, true), (3 * MIB + 5, true)] {
            // A memory that always offers the same place keeps that for a slot of one length.
            let mut ends = pair("auto", &options).expect("a pair");
            let receipt = hop(&mut ends, &mut Receiver::new(), len, give);
            let method = receipt.method();
            assert_eq!(method == Method::Map, mapped, "{len}: {receipt:?}");
        }
    }
}

#[test]
fn others_go_through_the_ring_while_the_peer_waits_there() {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skipped("uds", "with one core nobody waits at a ring");
    }
    let mut ends = pair("auto", &Options::default()).expect("a pair");
    let mut to = Receiver::new();
    // From its first receive on it is known how the peer waits.
    hop(&mut ends, &mut to, 1, false);
    for give in [false, true] {
        let small = hop(&mut ends, &mut to, 16 * KIB - 1, give);
        assert_eq!(small.method(), Method::Inline);
        for len in [16 * KIB + 1, 2 * MIB] {
            let receipt = hop(&mut ends, &mut to, len, give);
            assert_eq!(
                (receipt.method(), receipt.copies()),
                (Method::Copy, 2),
                "{len}"
            );
        }
    }
}
