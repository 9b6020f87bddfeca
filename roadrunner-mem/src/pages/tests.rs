use super::*;
use crate::pool::{PagePool, PoolOptions};
use crate::sys::{faults, PAGE};
use nix::errno::Errno;
use proptest::prelude::*;
use roadrunner_core::HostMemory;

const ROOM: usize = 12 * PAGE;

/// A memory whose every byte tells where it is and whose it is.
fn filled(seed: u8) -> PageBuffer {
    let mut buffer = PageBuffer::new(ROOM).expect("memory");
    let bytes: Vec<u8> = (0..ROOM)
        .map(|at| (at * 7 + at / 251) as u8 ^ seed)
        .collect();
    buffer.span().copy_from_slice(&bytes);
    buffer
}

fn region() -> impl Strategy<Value = (usize, usize)> {
    let near_pages = |most: usize| {
        prop_oneof![
            (0..=most / PAGE, -2_i64..=2).prop_map(move |(pages, delta)| {
                ((pages * PAGE) as i64 + delta).clamp(0, most as i64) as usize
            }),
            0..=most,
        ]
    };
    near_pages(ROOM).prop_flat_map(move |start| (Just(start), near_pages(ROOM - start)))
}

/// A pool that does nothing by itself, with pages that held something.
fn pool_with(lens: &[usize]) -> PagePool {
    let pool = PagePool::new(PoolOptions {
        background: false,
        ..PoolOptions::default()
    });
    for len in lens {
        let mut buffer = PageBuffer::new(*len).expect("memory");
        buffer.span().copy_from_slice(&vec![0x77; *len]);
        pool.put(buffer, None);
    }
    pool
}

fn by(pool: &PagePool) -> Policy {
    Policy {
        pool: pool.clone(),
        ..Policy::default()
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Moves `len` bytes from `start` in one memory to `to` in another, and compares every byte of both.
fn check(
    start: usize,
    len: usize,
    to: usize,
    pool: &PagePool,
    outcomes: &[Option<Errno>],
) -> Option<(Method, u8)> {
    let (mut source, mut target) = (filled(0x5a), filled(0xa5));
    let (before, target_before) = (source.as_slice().to_vec(), target.as_slice().to_vec());
    let from = Region::new(start as u64, len as u64);
    let there = Region::new(to as u64, len as u64);
    faults::plan(outcomes);
    let whole_pages = (start + len) / PAGE > start.div_ceil(PAGE);
    let staged = match Staged::take(&mut source, from, &by(pool), None) {
        Ok(staged) if whole_pages => staged,
        Err(_) if !whole_pages => {
            assert!(source.as_slice() == before, "nothing to take");
            return None;
        }
        other => panic!("{other:?} of {len} bytes from {start} on"),
    };
    let payload = &before[start..start + len];
    let left = &source.as_slice()[start..start + len];
    let right = |(now, before): (&u8, &u8)| *now == 0 || now == before;
    assert!(left.iter().zip(payload).all(right), "what came back");
    // As soon as it has been taken the source may be overwritten.
    from.span(&mut source)
        .expect("inside")
        .copy_from_slice(&vec![0xee; len]);
    let mut sink = Fixed(target, there);
    let (method, copies, used) = staged.put(&mut sink, there).expect("inside");
    faults::plan(&[]);
    target = sink.0;
    assert!(&target.as_slice()[to..to + len] == payload, "the payload");
    assert!(target.as_slice()[..to] == target_before[..to], "before it");
    assert!(
        target.as_slice()[to + len..] == target_before[to + len..],
        "behind it"
    );
    assert!(
        source.as_slice()[..start] == before[..start],
        "the sender's, before it"
    );
    assert!(
        source.as_slice()[start + len..] == before[start + len..],
        "behind it"
    );
    let all = used.len();
    let pool = pool_with(&[]);
    pool.put(used, None);
    let cleared = pool.take(all, 0, None).expect("as many");
    assert!(is_zero(cleared.as_slice()));
    Some((method, copies))
}

struct Fixed(PageBuffer, Region);

impl Sink for Fixed {
    fn reserve(&mut self, _len: u64, _align: u64) -> Result<Region, TransferError> {
        Ok(self.1)
    }
    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut self.0
    }
    fn release(&mut self, _region: Region) {}
}

proptest! {
    #[test]
    fn only_the_payload_crosses((start, len) in region(), shift in prop_oneof![Just(0), 0..ROOM]) {
        let to = (start + shift) % (ROOM - len + 1);
        let exchanged = start % PAGE == to % PAGE;
        let expected = if exchanged { (Method::Exchange, 0) } else { (Method::Copy, 1) };
        for pool in [pool_with(&[]), pool_with(&[len.next_multiple_of(PAGE) + PAGE, ROOM])] {
            if let Some(told) = check(start, len, to, &pool, &[]) {
                prop_assert_eq!(told, expected);
            }
        }
    }

    /// Whichever of the moves the kernel refuses, and for whatever reason: the bytes are where they belong, and what
    /// was copied is not called an exchange.
    #[test]
    fn a_refused_move_leaves_both_memories_whole(
        (start, len) in region(),
        pooled: bool,
        outcomes in proptest::collection::vec(
            proptest::option::of(prop_oneof![Just(Errno::ENOMEM), Just(Errno::EFAULT)]), 0..10)
    ) {
        let refused = outcomes.iter().flatten().next().is_some();
        let pool = pool_with(if pooled { &[ROOM, ROOM / 2, ROOM / 4] } else { &[] });
        if let Some(told) = check(start, len, start, &pool, &outcomes) {
            prop_assert!(refused || told == (Method::Exchange, 0), "{:?}", told);
        }
    }
}

/// From the nth move on the kernel refuses everything. The moves are: out of the source, with a pool into the source,
/// out of the target, into the target.
#[test]
fn refusals_are_told() {
    let (copied, once) = ((Method::Copy, 2), (Method::Copy, 1));
    let exchanged = (Method::Exchange, 0);
    let pages = 3 * PAGE;
    for (lens, tolds) in [
        (&[][..], &[copied, once, once, exchanged][..]),
        (&[pages][..], &[copied, once, once, once, exchanged][..]),
    ] {
        for (allowed, told) in tolds.iter().enumerate() {
            let mut outcomes = vec![None; allowed];
            outcomes.extend([Some(Errno::ENOMEM); 20]);
            assert_eq!(
                check(PAGE, pages, PAGE, &pool_with(lens), &outcomes),
                Some(*told),
                "{allowed} moves, pool of {lens:?}"
            );
        }
    }
}

/// The moves of a transfer in one thread with a pool are: out of the source, out of the target, into the target, into the
/// source. If the kernel refuses to take pages out, it is done without the pool; all else that it refuses by a copy.
#[test]
fn a_transfer_whose_moves_are_refused_is_whole() {
    const LEN: usize = 3 * PAGE;
    let all = Region::new(PAGE as u64 - 9, LEN as u64 + 20);
    let place = PAGE - 9..LEN + PAGE + 11;
    for allowed in 0..=8 {
        for lasting in [false, true] {
            let policy = Policy {
                pool: pool_with(&[LEN]),
                ..Policy::default()
            };
            let (mut source, mut target) = (filled(0x5a), filled(0xa5));
            let (ours, theirs) = (source.as_slice().to_vec(), target.as_slice().to_vec());
            let mut outcomes = vec![None; allowed];
            outcomes.extend(vec![Some(Errno::ENOMEM); if lasting { 20 } else { 1 }]);
            faults::plan(&outcomes);
            let how = hand_over(&mut source, all, &mut target, all, &policy);
            faults::plan(&[]);
            let how = how.expect("inside");
            let (now, there) = (source.as_slice(), target.as_slice());
            assert!(there[place.clone()] == ours[place.clone()], "the payload");
            assert!(there[..place.start] == theirs[..place.start]);
            assert!(there[place.end..] == theirs[place.end..]);
            assert!(now[..place.start] == ours[..place.start]);
            assert!(now[place.end..] == ours[place.end..]);
            let back = &now[PAGE..PAGE + LEN];
            match how {
                Exchanged::Pages => assert!(is_zero(back), "after {allowed} moves"),
                // Copied, or put back by hand: the payload, or nothing.
                Exchanged::Copied => assert!(back == &ours[PAGE..PAGE + LEN] || is_zero(back)),
            }
            let copied = allowed == 2 || (lasting && allowed < 2);
            assert_eq!(how == Exchanged::Copied, copied, "{allowed} moves");
            let report = policy.pool.report();
            assert_eq!(report.bytes(), LEN as u64, "nothing is lost: {report}");
        }
    }
}

#[test]
fn ranges_of_several_mappings_are_exchanged_in_parts() {
    let pages_with = |byte| {
        let mut buffer = PageBuffer::new(LARGE).expect("memory");
        buffer.span().copy_from_slice(&vec![byte; LARGE]);
        buffer
    };
    const LARGE: usize = 4 << 20;
    let (mut source, target) = (pages_with(1), pages_with(2));
    // Leaves the middle of the source a mapping of its own.
    let middle = Region::new(300 * PAGE as u64, 20 * PAGE as u64);
    let pool = pool_with(&[]);
    drop(Staged::take(&mut source, middle, &by(&pool), None).expect("memory"));
    source.span().copy_from_slice(&vec![9; LARGE]);
    let all = Region::new(0, LARGE as u64);
    let staged = Staged::take(&mut source, all, &by(&pool), None).expect("memory");
    assert_eq!(staged.method(), Method::Exchange);
    let mut sink = Fixed(target, all);
    let (method, copies, _) = staged.put(&mut sink, all).expect("inside");
    assert_eq!((method, copies), (Method::Exchange, 0));
    assert!(sink.0.as_slice() == vec![9; LARGE]);
}

proptest! {
    /// Whatever the kernel refuses: all of both ranges changes places, and nothing else.
    #[test]
    fn an_exchange_swaps_two_ranges(
        (start, len) in region(),
        shift in prop_oneof![Just(0), 0..ROOM],
        opaque: bool,
        outcomes in proptest::collection::vec(
            proptest::option::of(prop_oneof![Just(Errno::ENOMEM), Just(Errno::EFAULT)]), 0..10)
    ) {
        let to = (start + shift) % (ROOM - len + 1);
        let mut buffer = filled(0xa5);
        let mut pages = filled(0x5a);
        let mut host = HostMemory::from(pages.as_slice().to_vec());
        let mut ours = pages.as_slice().to_vec();
        let mut theirs = buffer.as_slice().to_vec();
        ours[start..start + len].swap_with_slice(&mut theirs[to..to + len]);
        let memory: &mut dyn LinearMemory = if opaque { &mut host } else { &mut pages };
        faults::plan(&outcomes);
        let region = Region::new(start as u64, len as u64);
        let how = exchange(memory, region, &mut buffer, to as u64).expect("inside");
        faults::plan(&[]);
        let now = if opaque { host.as_slice() } else { pages.as_slice() };
        prop_assert!(now == ours && buffer.as_slice() == theirs);
        let alike = !opaque && start % PAGE == to % PAGE;
        if !outcomes.iter().any(Option::is_some) {
            prop_assert_eq!(how == Exchanged::Pages, alike);
        }
    }
}

#[test]
fn a_piece_that_is_refused_is_swapped_by_hand() {
    const LARGE: usize = 4 << 20;
    let pages_with = |byte| {
        let mut buffer = PageBuffer::new(LARGE).expect("memory");
        buffer.span().copy_from_slice(&vec![byte; LARGE]);
        buffer
    };
    let (mut memory, mut buffer) = (pages_with(1), pages_with(2));
    let mut outcomes = vec![Some(Errno::EFAULT)];
    outcomes.extend([Some(Errno::ENOMEM); 20]);
    faults::plan(&outcomes);
    let all = Region::new(0, LARGE as u64);
    let how = exchange(&mut memory, all, &mut buffer, 0).expect("inside");
    faults::plan(&[]);
    assert_eq!(how, Exchanged::Copied);
    assert!(memory.as_slice() == vec![2; LARGE] && buffer.as_slice() == vec![1; LARGE]);
}

#[test]
fn an_exchange_outside_changes_nothing() {
    let (mut memory, mut buffer) = (filled(1), filled(2));
    let room = ROOM as u64;
    for (region, offset) in [
        (Region::new(1, room), 0),
        (Region::new(0, room), 1),
        (Region::new(u64::MAX, 2), 0),
        (Region::new(0, 1), u64::MAX),
    ] {
        let refused = exchange(&mut memory, region, &mut buffer, offset);
        assert!(matches!(refused, Err(TransferError::OutOfBounds { .. })));
    }
    assert!(memory.as_slice() == filled(1).as_slice());
    assert!(buffer.as_slice() == filled(2).as_slice());
}

#[test]
fn mappings_do_not_grow_in_number() {
    let mappings = || {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("readable");
        maps.lines().count()
    };
    let (mut source, target) = (filled(1), filled(2));
    let mut sink = Fixed(target, Region::new(0, 0));
    let pool = pool_with(&[]);
    let mut after_one = 0;
    for round in 0..2_000_u64 {
        let region = Region::new(100, 5 * PAGE as u64);
        let staged = Staged::take(&mut source, region, &by(&pool), None).expect("memory");
        let (method, _, pages) = staged.put(&mut sink, region).expect("inside");
        assert_eq!(method, Method::Exchange);
        pool.put(pages, None);
        if round == 0 {
            after_one = mappings();
        }
    }
    // Other tests of this process map and unmap meanwhile.
    let grown = mappings().saturating_sub(after_one);
    assert!(grown < 500, "{grown} mappings more");
}
