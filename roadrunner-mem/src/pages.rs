//! A payload between its two ends: the pages that it came in.

use crate::sys::{clear, swap_bytes, Exchanged, Movable, PageBuffer, Pages};
use roadrunner_core::{LinearMemory, Method, Region, Sink, Span, TransferError};
use std::io;

/// Bytes of whole pages that may change hands in this region; 0 if the memory does not let them.
pub(crate) fn exchangeable(
    memory: &mut dyn LinearMemory,
    region: Region,
) -> Result<usize, TransferError> {
    Ok(Movable::of(memory, region)?.map_or(0, |bytes| bytes.parts().1.span().len()))
}

/// The bytes of a region of `memory` change places with as many in `buffer`, from `offset` on: whole pages by
/// `mremap(2)`, where `memory` is [private and anonymous](roadrunner_core::Backing::PrivateAnonymous) and both ranges
/// start equally far into a page; everything else byte by byte. Says which of the two it was.
///
/// Both ranges stay mapped, readable and writable, and nothing is lost if the kernel refuses. Within the call pages of
/// either may be elsewhere for a moment: nobody may look at the memory meanwhile, as its mutable borrow says.
///
/// # Errors
/// [`OutOfBounds`](TransferError::OutOfBounds) if one of the ranges does not lie within its memory; nothing has happened
/// then.
pub fn exchange(
    memory: &mut dyn LinearMemory,
    region: Region,
    buffer: &mut PageBuffer,
    offset: u64,
) -> Result<Exchanged, TransferError> {
    let there = Region::new(offset, region.len());
    if let (Some(ours), Some(theirs)) = (Movable::of(memory, region)?, Movable::of(buffer, there)?)
    {
        return Ok(ours.swap_with(theirs));
    }
    swap_bytes(region.span(memory)?, there.span(buffer)?);
    Ok(Exchanged::Copied)
}

/// Moves a given payload from its memory to another at once, whole pages by exchange where that can be. What comes back
/// for them is cleared before, unless `trusted`.
pub(crate) fn hand_over(
    source: &mut dyn LinearMemory,
    from: Region,
    target: &mut dyn LinearMemory,
    to: Region,
    trusted: bool,
) -> Result<Exchanged, TransferError> {
    if let (Some(source), Some(target)) = (Movable::of(source, from)?, Movable::of(target, to)?) {
        if source.is_like(&target) {
            if !trusted {
                clear(target.span());
            }
            return Ok(source.move_to(target));
        }
    }
    to.span(target)?.copy_from(from.span(source)?);
    Ok(Exchanged::Copied)
}

/// A payload that has left its memory and reached no other yet: less than a page, whole pages, less than a page.
#[derive(Debug)]
pub(crate) struct Staged {
    head: Box<[u8]>,
    pages: PageBuffer,
    tail: Box<[u8]>,
    copied: bool,
}

impl Staged {
    /// Takes a payload out of its memory, which gets cleared pages for it; if `trusted`, pages that hold whatever `used`
    /// held. There have to be whole pages that may change hands.
    pub(crate) fn take(
        memory: &mut dyn LinearMemory,
        region: Region,
        used: Option<Used>,
        trusted: bool,
    ) -> Result<Self, TransferError> {
        let parts = Movable::of(memory, region)?.map(Movable::parts);
        let Some((head, pages, tail)) = parts.filter(|(_, pages, _)| !pages.span().is_empty())
        else {
            return Err(no_pages(io::ErrorKind::Unsupported.into()));
        };
        let room = pages.span().len();
        let ready = used
            .filter(|used| used.fits(room as u64))
            .map(|used| used.ready(room, trusted));
        let taken = match ready {
            Some(ready) => pages.replace(ready).map(|(taken, _)| taken),
            None => match pages.take() {
                Some(taken) => Ok(taken),
                None => Err(PageBuffer::new(room).map_err(no_pages)?),
            },
        };
        let (taken, copied) = match taken {
            Ok(taken) => (taken, false),
            // In parts, or by copying.
            Err(mut taken) => {
                let moved = pages.move_to(Pages::of(&mut taken));
                (taken, moved == Exchanged::Copied)
            }
        };
        Ok(Self {
            head: copy_of(head),
            pages: taken,
            tail: copy_of(tail),
            copied,
        })
    }

    pub(crate) fn len(&self) -> u64 {
        (self.head.len() + self.pages.len() + self.tail.len()) as u64
    }

    /// How it left its memory.
    pub(crate) fn method(&self) -> Method {
        method_of(self.copies())
    }

    /// Times it has been copied so far.
    pub(crate) fn copies(&self) -> u8 {
        u8::from(self.copied)
    }

    /// Puts the payload into a region of the sink's memory that is as long. Says what crossed how, how many times it has
    /// been copied in all, and gives back pages for the next one, which may hold what the region held.
    pub(crate) fn put(
        mut self,
        sink: &mut dyn Sink,
        to: Region,
    ) -> Result<(Method, u8, Used), TransferError> {
        let before = self.copies();
        let memory = sink.memory();
        let (their_head, rest) = to.span(memory)?.split_at(self.head.len());
        let (_, their_tail) = rest.split_at(self.pages.len());
        their_head.copy_from_slice(&self.head);
        their_tail.copy_from_slice(&self.tail);
        let alike = |(head, _, _): &(Span<'_>, _, _)| head.len() == self.head.len();
        let movable = Movable::of(memory, to)?.map(Movable::parts).filter(alike);
        let (moved, used) = match movable {
            Some((_, pages, _)) => match pages.replace(self.pages) {
                Ok((old, moved)) => (moved, old),
                // In parts, or by copying.
                Err(mut ours) => (Pages::of(&mut ours).move_to(pages), ours),
            },
            None => {
                let (_, rest) = to.span(memory)?.split_at(self.head.len());
                rest.copy_from(self.pages.span());
                (Exchanged::Copied, self.pages)
            }
        };
        let copies = before + u8::from(moved == Exchanged::Copied);
        Ok((method_of(copies), copies, Used::new(used)))
    }
}

fn method_of(copies: u8) -> Method {
    if copies == 0 {
        Method::Exchange
    } else {
        Method::Copy
    }
}

fn copy_of(span: Span<'_>) -> Box<[u8]> {
    let mut bytes = vec![0; span.len()];
    span.copy_to_slice(&mut bytes);
    bytes.into()
}

fn no_pages(source: io::Error) -> TransferError {
    TransferError::Io {
        doing: "map pages for a payload",
        source,
    }
}

/// Pages that held somebody's bytes.
#[derive(Debug)]
pub(crate) struct Used {
    buffer: PageBuffer,
    /// How many bytes from the start on hold nothing any more.
    cleared: usize,
}

impl Used {
    pub(crate) fn new(buffer: PageBuffer) -> Self {
        Self { buffer, cleared: 0 }
    }

    pub(crate) fn len(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Whether `room` bytes of pages can be made of these, wasting no more than is used.
    pub(crate) fn fits(&self, room: u64) -> bool {
        (room..=room.saturating_mul(2)).contains(&self.len())
    }

    /// Clears `count` bytes more, if there are so many; false if there is nothing left to clear.
    pub(crate) fn clear_some(&mut self, count: usize) -> bool {
        let (_, rest) = self.buffer.span().split_at(self.cleared);
        let (next, _) = rest.split_at(count);
        self.cleared += next.len();
        clear(next);
        !next.is_empty()
    }

    /// The first `len` bytes.
    fn ready(mut self, len: usize, trusted: bool) -> PageBuffer {
        self.buffer.truncate(len);
        if !trusted {
            self.clear_some(usize::MAX);
        }
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    /// Moves `len` bytes from `start` in one memory to `to` in another, and compares every byte of both.
    fn check(
        start: usize,
        len: usize,
        to: usize,
        outcomes: &[Option<Errno>],
    ) -> Option<(Method, u8)> {
        let (mut source, mut target) = (filled(0x5a), filled(0xa5));
        let (before, target_before) = (source.as_slice().to_vec(), target.as_slice().to_vec());
        let from = Region::new(start as u64, len as u64);
        let there = Region::new(to as u64, len as u64);
        faults::plan(outcomes);
        let whole_pages = (start + len) / PAGE > start.div_ceil(PAGE);
        let staged = match Staged::take(&mut source, from, None, false) {
            Ok(staged) if whole_pages => staged,
            Err(_) if !whole_pages => {
                assert!(source.as_slice() == before, "nothing to take");
                return None;
            }
            other => panic!("{other:?} of {len} bytes from {start} on"),
        };
        let payload = &before[start..start + len];
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
        let all = used.len() as usize;
        assert!(used
            .ready(all, false)
            .as_slice()
            .iter()
            .all(|byte| *byte == 0));
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
            if let Some(told) = check(start, len, to, &[]) {
                prop_assert_eq!(told, expected);
            }
        }

        /// Whichever of the moves the kernel refuses, and for whatever reason: the bytes are where they belong, and what
        /// was copied is not called an exchange.
        #[test]
        fn a_refused_move_leaves_both_memories_whole(
            (start, len) in region(),
            outcomes in proptest::collection::vec(
                proptest::option::of(prop_oneof![Just(Errno::ENOMEM), Just(Errno::EFAULT)]), 0..10)
        ) {
            let refused = outcomes.iter().flatten().next().is_some();
            if let Some(told) = check(start, len, start, &outcomes) {
                prop_assert!(refused || told == (Method::Exchange, 0), "{:?}", told);
            }
        }
    }

    /// From the nth move on the kernel refuses everything. The moves are: out of the source, out of the target, into the
    /// target.
    #[test]
    fn refusals_are_told() {
        for (allowed, told) in [
            (0, (Method::Copy, 2)),
            (1, (Method::Copy, 1)),
            (2, (Method::Copy, 1)),
            (3, (Method::Exchange, 0)),
        ] {
            let mut outcomes = vec![None; allowed];
            outcomes.extend([Some(Errno::ENOMEM); 20]);
            assert_eq!(
                check(PAGE, 3 * PAGE, PAGE, &outcomes),
                Some(told),
                "{allowed} moves"
            );
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
        drop(Staged::take(&mut source, middle, None, false).expect("memory"));
        source.span().copy_from_slice(&vec![9; LARGE]);
        let all = Region::new(0, LARGE as u64);
        let staged = Staged::take(&mut source, all, None, false).expect("memory");
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
        let mut used = None;
        let mut after_one = 0;
        for round in 0..2_000_u64 {
            let region = Region::new(100, 5 * PAGE as u64);
            let staged = Staged::take(&mut source, region, used.take(), false).expect("memory");
            let (method, _, pages) = staged.put(&mut sink, region).expect("inside");
            assert_eq!(method, Method::Exchange);
            used = Some(pages);
            if round == 0 {
                after_one = mappings();
            }
        }
        // Other tests of this process map and unmap meanwhile.
        let grown = mappings().saturating_sub(after_one);
        assert!(grown < 500, "{grown} mappings more");
    }
}
