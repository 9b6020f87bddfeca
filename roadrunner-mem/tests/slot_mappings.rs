//! How many mappings a function can make of its slots. A program of its own with one test: what it counts is the whole
//! process's.

use nix::sys::mman::{madvise, MmapAdvise};
use roadrunner_core::{Deadline, LinearMemory, Region, Sink, TransferError};
use roadrunner_mem::{link, PageBuffer, Policy, SlotOptions, Slots, PAGE_SIZE};
use std::time::Duration;

const PAGE: u64 = PAGE_SIZE as u64;
const PAGES: u64 = 80 << 10;

fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    maps.lines().count()
}

fn limit() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    let limit = limit.expect("/proc is mounted");
    limit.trim().parse().expect("a number")
}

/// As a runtime's memory, whose mapping is of another kind than what takes the place of a part of it.
#[allow(unsafe_code)]
fn memory() -> PageBuffer {
    let memory = PageBuffer::new((PAGES * PAGE) as usize).expect("memory");
    let start = memory.base().cast();
    // SAFETY: the range is the memory's own, and no byte of it changes.
    unsafe { madvise(start, memory.len(), MmapAdvise::MADV_DONTFORK) }.expect("mapped");
    memory
}

/// A memory whose allocator gives every other page.
struct Sparse(PageBuffer, u64);

impl Sink for Sparse {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        let region = Region::new(self.1 % ((PAGES - 8) * PAGE), len);
        self.1 += (len + PAGE).next_multiple_of(2 * PAGE);
        Ok(region)
    }
    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.0
    }
    fn release(&mut self, _region: Region) {}
}

#[test]
fn no_function_takes_the_mappings_of_all() {
    let before = mappings();

    // Ever new places for slots, none of which is kept.
    let (mut here, mut slots) = (memory(), Slots::new(SlotOptions::default()));
    let mut refused = 0;
    for page in (1..PAGES - 1).step_by(2) {
        let place = Region::new(page * PAGE, PAGE);
        match slots.bind(&mut here, place) {
            Ok(()) => {
                slots.release(&mut here, place.offset()).expect("loaned");
            }
            Err(TransferError::NoRoom { .. }) => refused += 1,
            Err(error) => panic!("{error} after {page} pages"),
        }
    }
    let bound = mappings();
    assert!(refused > 0 && bound < before + 4000, "{bound} mappings");
    assert!(slots.places().count() <= 1000);
    // What it has goes on working.
    let region = slots.loan(&mut here, PAGE).expect("one that is kept");
    slots.release(&mut here, region.offset()).expect("loaned");
    drop(slots);

    // Ever new places for what is received.
    let (mut one, mut other) = link(Policy::default());
    let mut sender = Slots::new(SlotOptions::default());
    let mut slots = Slots::new(SlotOptions::default());
    let mut sink = Sparse(memory(), 0);
    let soon = Deadline::after(Duration::from_secs(120));
    let mut copied = 0;
    for round in 0..PAGES / 2 - 1 {
        // Of another length than the first places, which are kept.
        let pages = if round < 4 { 4 + round } else { 1 };
        let payload = sender.share(&mut here, Region::new(0, pages * PAGE));
        one.send_shared(&payload.expect("room"), soon)
            .expect("room");
        let delivery = other.recv_with(&mut slots, &mut sink, soon).expect("sent");
        copied += u32::from(delivery.receipt().copies() > 1);
        let offset = delivery.region().offset();
        slots.release(&mut sink.0, offset).expect("received");
    }
    let after = mappings();
    assert!(
        after <= limit() / 2 + 8,
        "{after} mappings, {copied} copied"
    );
}
