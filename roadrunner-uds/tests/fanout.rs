//! One payload for many receivers takes the memory of one. The only test of this file, because it measures the process.

use roadrunner_core::testing::{fill, pattern, skipped, soon};
use roadrunner_core::{LinearMemory, Method, Region, Sink, TransferError};
use roadrunner_mem::{PageBuffer, SlotOptions, Slots};
use roadrunner_uds::{pair, Options};

const LEN: u64 = 16 << 20;
const RECEIVERS: usize = 100;

/// Reserves the start of a memory, once.
struct Start<'a>(&'a mut PageBuffer);

impl Sink for Start<'_> {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(Region::new(0, len))
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.0
    }

    fn release(&mut self, _region: Region) {}
}

/// Bytes of memory that this process has, each shared page divided by the number of its mappings.
fn proportional() -> Option<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

#[test]
fn a_payload_that_many_read_is_in_memory_once() {
    let bytes = pattern(LEN, 1);
    let mut seen = vec![1; LEN as usize];
    let Some(before) = proportional() else {
        return skipped("map", "this kernel does not say what memory a process has");
    };
    for loaned in [true, false] {
        let mut source = PageBuffer::new(LEN as usize).expect("memory");
        let mut slots = Slots::new(SlotOptions::default());
        let region = Region::new(0, LEN);
        if loaned {
            slots.bind(&mut source, region).expect("a slot");
        }
        fill(&mut source, 0, &bytes);
        let payload = if loaned {
            let handed = slots.hand_over(&mut source, region, None);
            handed.expect("handed over").expect("a loaned slot")
        } else {
            slots.share(&mut source, region).expect("a segment")
        };
        drop(source);
        let mut held = Vec::new();
        for receiver in 0..RECEIVERS {
            let (mut a, mut b) = pair("many", &Options::default()).expect("a pair");
            let mut memory = PageBuffer::new(LEN as usize).expect("addresses");
            let mut theirs = Slots::default();
            a.send_shared(&payload, soon()).expect("sent");
            let delivery = b
                .recv_with(&mut theirs, &mut Start(&mut memory), soon())
                .expect("received");
            let expected = if loaned { Method::Slot } else { Method::Map };
            assert_eq!(delivery.receipt().method(), expected);
            let span = delivery.region().span(&mut memory).expect("inside");
            span.copy_to_slice(&mut seen);
            assert!(seen == bytes, "receiver {receiver}");
            held.push((a, b, memory, theirs));
        }
        let taken = proportional().expect("as before").saturating_sub(before);
        assert!(
            taken <= LEN + LEN / 2,
            "{taken} bytes for {RECEIVERS} receivers of {LEN}"
        );
        drop(held);
    }
}
