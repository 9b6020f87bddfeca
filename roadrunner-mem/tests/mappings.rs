//! How many mappings exchanges leave behind. A program of its own with one test: what it counts is the whole process's.

use roadrunner_core::{LinearMemory, Method, Payload, Region, Sink, TransferError};
use roadrunner_mem::{transfer, PageBuffer, Policy, PAGE_SIZE};

const PAGES: u64 = 64 << 10;

fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    maps.lines().count()
}

/// A page-backed memory that reserves where it is told.
struct Fixed(PageBuffer, u64);

impl Sink for Fixed {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(Region::new(self.1, len))
    }
    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.0
    }
    fn release(&mut self, _region: Region) {}
}

#[test]
fn their_number_is_bounded() {
    let page = PAGE_SIZE as u64;
    let mut policy = Policy::default();
    policy.force = Some(Method::Exchange);
    let memory = || PageBuffer::new((PAGES * page) as usize).expect("memory");
    let (mut source, mut sink) = (memory(), Fixed(memory(), 0));
    let exchanging = policy.clone();
    let mut exchange = |from: u64, to: u64, count: u64| {
        sink.1 = to * page;
        let region = Region::new(from * page, count * page);
        let payload = Payload::given(&mut source, region).expect("inside");
        let delivery = transfer(payload, &mut sink, &exchanging).expect("room");
        delivery.receipt().method()
    };

    // The same regions again and again: always an exchange, and no mapping more than after the first few, when the pool has
    // what it needs.
    let before = mappings();
    for _ in 0..5 {
        exchange(3, 700, 2);
    }
    let first = mappings();
    for round in 0..20_000 {
        assert_eq!(exchange(3, 700, 2), Method::Exchange, "round {round}");
    }
    let same = mappings();
    assert!(first <= before + 12, "{before}, then {first} after five");
    // The pool's thread has a few of its own.
    assert!(same <= first + 16, "{first}, then {same} after 20,000");

    // Ever new regions, one mapping each on either side: exchanges stop half-way to the limit, and copies go on.
    let limit: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .expect("/proc is mounted")
        .trim()
        .parse()
        .expect("a number");
    let mut copied = 0;
    for at in (0..PAGES - 1).step_by(2) {
        copied += u32::from(exchange(at, PAGES - 2 - at, 1) == Method::Copy);
    }
    let after = mappings();
    assert!(after <= limit / 2 + 8, "{after} mappings of {limit}");
    assert!(
        copied > 0 || limit > 2 * PAGES as usize,
        "never stopped, with {after} mappings of {limit}"
    );
    drop((source, sink));
    drop((policy, exchanging));
    let released = mappings();
    assert!(
        released <= before + 8,
        "{before}, then {released} in the end"
    );
}
