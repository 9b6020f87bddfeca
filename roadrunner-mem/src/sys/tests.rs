//! A memory as runtimes have it: read-write pages at the start of a reservation that nobody may touch, grown in place.

use super::{PageBuffer, PAGE};
use crate::{exchange, link, transfer, Exchanged, Policy};
use nix::libc;
use roadrunner_core::{
    Backing, Deadline, HostMemory, LinearMemory, Method, Payload, Region, Sink, Transfer,
    TransferError,
};
use std::ptr::NonNull;

const RESERVED: usize = 64 << 20;

struct Grown {
    start: NonNull<u8>,
    len: usize,
    reserve_at: u64,
}

impl Grown {
    fn new(len: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping takes no memory from anybody.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                RESERVED,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        let mut memory = Self {
            start: NonNull::new(start.cast()).expect("not at 0"),
            len: 0,
            reserve_at: 0,
        };
        memory.grow(len);
        memory
    }

    fn grow(&mut self, by: usize) {
        assert!(by % PAGE == 0 && self.len + by <= RESERVED);
        // SAFETY: inside the reservation, which is this value's own.
        let grown = unsafe {
            libc::mmap(
                self.start.as_ptr().add(self.len).cast(),
                by,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        assert_ne!(grown, libc::MAP_FAILED);
        self.len += by;
    }

    fn all(&self) -> Region {
        Region::new(0, self.len as u64)
    }

    fn fill(&mut self, seed: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..self.len)
            .map(|at| (at * 7 + at / 251 + seed) as u8)
            .collect();
        let all = self.all();
        all.span(self).expect("all of it").copy_from_slice(&bytes);
        bytes
    }

    fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        let all = self.all();
        all.span(self).expect("all of it").copy_to_slice(&mut bytes);
        bytes
    }
}

impl Drop for Grown {
    fn drop(&mut self) {
        // SAFETY: the reservation is this value's own, and not used after this.
        let released = unsafe { libc::munmap(self.start.as_ptr().cast(), RESERVED) };
        assert_eq!(released, 0);
    }
}

// SAFETY: `len` bytes from `start` on are private anonymous pages, readable and writable, until it is dropped.
unsafe impl LinearMemory for Grown {
    fn base(&self) -> NonNull<u8> {
        self.start
    }
    fn len(&self) -> usize {
        self.len
    }
    fn backing(&self) -> Backing {
        Backing::PrivateAnonymous
    }
}

impl Sink for Grown {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(Region::new(self.reserve_at, len))
    }
    fn memory(&mut self) -> &mut dyn LinearMemory {
        self
    }
    fn release(&mut self, _region: Region) {}
}

/// Whether the live part is mapped without a hole, all of it private, readable and writable.
fn is_whole(memory: &Grown) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let mut at = memory.start.as_ptr() as usize;
    let end = at + memory.len;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').expect("a range");
        let (from, to) = range.split_once('-').expect("two ends");
        let number = |text| usize::from_str_radix(text, 16).expect("a number");
        if at < end && (number(from)..number(to)).contains(&at) {
            if !rest.starts_with("rw-p") {
                return false;
            }
            at = number(to);
        }
    }
    at >= end
}

#[test]
fn a_memory_in_a_reservation_stays_whole_and_can_grow() {
    let mut memory = Grown::new(4 << 20);
    let mut buffer = PageBuffer::new(4 << 20).expect("memory");
    for round in 0..50 {
        if round % 10 == 9 {
            memory.grow(1 << 20);
        }
        let ours = memory.fill(round);
        let theirs = vec![round as u8; 4 << 20];
        buffer.span().copy_from_slice(&theirs);
        // Regions that lie across earlier ones, and across where the memory has grown.
        let start = (round * 37 % 300) * PAGE;
        let len = (256 + round * 29 % 400) * PAGE;
        let region = Region::new(start as u64, len as u64);
        let how = exchange(&mut memory, region, &mut buffer, start as u64).expect("inside");
        let now = memory.bytes();
        assert!(now[..start] == ours[..start] && now[start + len..] == ours[start + len..]);
        assert!(
            now[start..start + len] == theirs[start..start + len],
            "{how:?}"
        );
        assert!(buffer.as_slice()[start..start + len] == ours[start..start + len]);
        assert!(is_whole(&memory), "round {round}: a hole");
        // Later there are too many mappings in so few pages.
        if round < 3 {
            assert_eq!(how, Exchanged::Pages, "round {round}");
        }
    }
}

#[test]
fn payloads_cross_between_memories_in_reservations() {
    let (mut source, mut sink) = (Grown::new(4 << 20), Grown::new(5 << 20));
    let policy = Policy {
        exchange: 1 << 20,
        ..Policy::default()
    };
    let (mut here, mut there) = link(policy.clone());
    for round in 0..20 {
        let (ours, theirs) = (source.fill(round), sink.fill(round + 99));
        let (start, len) = (13 + round % 2 * PAGE, (2 << 20) + 5);
        sink.reserve_at = (round % 3 * 16 * PAGE + start) as u64;
        let region = Region::new(start as u64, len as u64);
        let payload = Payload::given(&mut source, region).expect("inside");
        let receipt = if round % 4 < 2 {
            let deadline = Deadline::now();
            here.send(payload, deadline).expect("room");
            there.recv(&mut sink, deadline).expect("sent").receipt()
        } else {
            let delivery = transfer(payload, &mut sink, &policy);
            delivery.expect("room").receipt()
        };
        // Later there are too many mappings in so few pages.
        if round < 4 {
            assert_eq!((receipt.method(), receipt.copies()), (Method::Exchange, 0));
        }
        let (now, there_now) = (source.bytes(), sink.bytes());
        let end = start + len;
        assert!(now[..start] == ours[..start] && now[end..] == ours[end..]);
        let at = sink.reserve_at as usize;
        assert!(there_now[at..at + len] == ours[start..end]);
        assert!(there_now[..at] == theirs[..at] && there_now[at + len..] == theirs[at + len..]);
        // What came back holds nothing; of a copied payload it is the payload itself.
        let pages = start.next_multiple_of(PAGE)..end / PAGE * PAGE;
        let came_back = now[pages.clone()].iter().zip(&ours[pages]);
        for (byte, ours) in came_back {
            assert!(
                *byte == 0 || receipt.copies() > 0 && byte == ours,
                "round {round}"
            );
        }
        assert!(is_whole(&source) && is_whole(&sink));
    }
}

#[test]
fn a_transfer_that_fails_leaves_everything_where_it_was() {
    let mut source = Grown::new(4 << 20);
    let ours = source.fill(1);
    let mut sink = Grown::new(1 << 20);
    let theirs = sink.fill(2);
    let mut policy = Policy::default();
    let all = source.all();
    let mut given = |sink: &mut dyn Sink, policy: &Policy| {
        let payload = Payload::given(&mut source, all).expect("inside");
        let refused = transfer(payload, sink, policy).expect_err("no room");
        assert!(source.bytes() == ours, "{refused}");
        refused
    };
    let refused = given(&mut sink, &policy);
    assert!(
        matches!(refused, TransferError::OutOfBounds { .. }),
        "{refused}"
    );
    assert!(sink.bytes() == theirs);
    let refused = given(&mut HostMemory::with_limit(9), &policy);
    assert!(matches!(refused, TransferError::NoRoom { .. }), "{refused}");
    policy.limit = (4 << 20) - 1;
    let refused = given(&mut HostMemory::new(), &policy);
    assert!(
        matches!(refused, TransferError::TooLarge { .. }),
        "{refused}"
    );
}

/// Two handles to one memory are not allowed; a runtime that makes them all the same gets a copy, not a hole.
#[test]
fn overlapping_ranges_are_copied() {
    struct Alias(NonNull<u8>, usize);
    // SAFETY: the memory outlives both handles below, which are used for one copy only.
    unsafe impl LinearMemory for Alias {
        fn base(&self) -> NonNull<u8> {
            self.0
        }
        fn len(&self) -> usize {
            self.1
        }
        fn backing(&self) -> Backing {
            Backing::PrivateAnonymous
        }
    }
    impl Sink for Alias {
        fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
            Ok(Region::new(PAGE as u64, len))
        }
        fn memory(&mut self) -> &mut dyn LinearMemory {
            self
        }
        fn release(&mut self, _region: Region) {}
    }
    let mut memory = Grown::new(4 << 20);
    let ours = memory.fill(7);
    let (mut one, mut other) = (
        Alias(memory.start, memory.len),
        Alias(memory.start, memory.len),
    );
    let len = 2 << 20;
    let payload = Payload::given(&mut one, Region::new(0, len as u64)).expect("inside");
    let delivery = transfer(payload, &mut other, &Policy::default()).expect("room");
    assert_eq!(delivery.receipt().method(), Method::Copy);
    let now = memory.bytes();
    assert!(now[PAGE..PAGE + len] == ours[..len] && now[PAGE + len..] == ours[PAGE + len..]);
}

#[test]
fn a_slot_goes_back_to_where_it_came_from() {
    use super::{Sharing, View, TABLE};
    let segment = crate::Segment::new(2 * TABLE).expect("a segment");
    let mut memory = PageBuffer::new(2 * TABLE).expect("memory");
    // Somebody else of this process may have mapped something there meanwhile, but not each time.
    let again = (0..20).any(|_| {
        let mut view = View::new(&segment, Sharing::Shared).expect("a view");
        let place = view.span().as_ptr();
        view.put(memory.span()).expect("it is put in");
        let mut view = View::take(memory.span()).expect("it is taken out");
        view.span().as_ptr() == place
    });
    assert!(again, "another place was looked for each time");
}

#[test]
fn a_buffer_is_cut_into_what_there_is_of_it() {
    use super::TABLE;
    let mut whole = PageBuffer::new(3 * TABLE).expect("memory");
    assert_eq!((whole.len(), whole.lies_at()), (3 * TABLE, 0));
    whole.span().copy_from_slice(&vec![7; 3 * TABLE]);
    assert!(whole.split_front(0).is_none(), "nothing");
    let front = whole.split_front(PAGE).expect("a page");
    assert_eq!((front.len(), whole.len()), (PAGE, 3 * TABLE - PAGE));
    assert_eq!((front.lies_at(), whole.lies_at()), (0, PAGE));
    let (first, rest) = whole.cut(PAGE);
    let rest = rest.expect("what follows the page table");
    assert_eq!((first.len(), first.lies_at()), (PAGE, PAGE));
    assert_eq!((rest.len(), rest.lies_at()), (2 * TABLE - PAGE, PAGE));
    let all = rest.len();
    let (rest, none) = rest.cut(all);
    assert!(none.is_none() && rest.as_slice().iter().all(|byte| *byte == 7));
}

#[test]
fn a_buffer_keeps_its_pages_from_payload_to_payload() {
    let mut sink = PageBuffer::new(2 * PAGE).expect("memory");
    sink.span().copy_from_slice(&[7; 2 * PAGE]);
    for len in [0, 1, 2 * PAGE as u64] {
        let region = sink.reserve(len, 1).expect("room");
        assert_eq!((region.offset(), region.len()), (0, len));
        assert!(
            sink.as_slice().iter().all(|byte| *byte == 7),
            "the same pages"
        );
    }
    let more = 2 * PAGE as u64 + 1;
    assert_eq!(sink.reserve(more, 1).expect("room").len(), more);
    assert_eq!(LinearMemory::len(&sink), 3 * PAGE);
    assert!(sink.reserve(u64::MAX, 1).is_err());
}
