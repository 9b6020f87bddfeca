//! A payload between its two ends: the pages that it came in.

use crate::sys::{clear, swap_bytes, Exchanged, Movable, PageBuffer, PAGE};
use roadrunner_core::{LinearMemory, Method, Region, Sink, Span, TransferError};

/// Bytes of whole pages that may change hands in this region; 0 if the memory does not let them.
pub(crate) fn exchangeable(
    memory: &mut dyn LinearMemory,
    region: Region,
) -> Result<usize, TransferError> {
    Ok(Movable::of(memory, region)?.map_or(0, |bytes| bytes.whole_pages()))
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
        if source.offset() == target.offset() {
            if !trusted {
                clear(target.span());
            }
            return Ok(source.move_to(target));
        }
    }
    to.span(target)?.copy_from(from.span(source)?);
    Ok(Exchanged::Copied)
}

/// A payload that has left its memory and reached no other yet.
#[derive(Debug)]
pub(crate) struct Staged {
    buffer: PageBuffer,
    /// Where in the buffer it lies: as far into a page as it was in the sender's memory.
    region: Region,
    copied: bool,
}

impl Staged {
    /// Takes a payload out of its memory, which gets cleared pages for it; if `trusted`, pages that hold whatever `used`
    /// held. The memory has to be one whose pages may change hands.
    pub(crate) fn take(
        memory: &mut dyn LinearMemory,
        region: Region,
        used: Option<Used>,
        trusted: bool,
    ) -> Result<Self, TransferError> {
        let span = region.span(memory)?;
        let (start, room) = (offset_in_page(span), Self::room(span));
        let mut buffer = match used {
            Some(used) if used.fits(room) => used.ready(trusted),
            _ => PageBuffer::new(room as usize).map_err(|source| TransferError::Io {
                doing: "map pages for a payload",
                source,
            })?,
        };
        let inside = Region::new(start, region.len());
        let copied = move_bytes(memory, region, &mut buffer, inside)? == Exchanged::Copied;
        Ok(Self {
            buffer,
            region: inside,
            copied,
        })
    }

    /// Bytes of pages that a payload takes.
    pub(crate) fn room(span: Span<'_>) -> u64 {
        offset_in_page(span) + span.len() as u64
    }

    pub(crate) fn len(&self) -> u64 {
        self.region.len()
    }

    /// How it left its memory.
    pub(crate) fn method(&self) -> Method {
        if self.copied {
            Method::Copy
        } else {
            Method::Exchange
        }
    }

    /// Times it has been copied so far.
    pub(crate) fn copies(&self) -> u8 {
        u8::from(self.copied)
    }

    /// Puts the payload into a region of the sink's memory. Says what crossed how, how many times it has been copied in
    /// all, and gives back what is left of the pages: they may hold what the region held.
    pub(crate) fn put(
        mut self,
        sink: &mut dyn Sink,
        to: Region,
    ) -> Result<(Method, u8, Used), TransferError> {
        let moved = move_bytes(&mut self.buffer, self.region, sink.memory(), to)?;
        let copies = self.copies() + u8::from(moved == Exchanged::Copied);
        let method = if copies == 0 {
            Method::Exchange
        } else {
            Method::Copy
        };
        Ok((method, copies, Used::new(self.buffer)))
    }
}

fn offset_in_page(span: Span<'_>) -> u64 {
    span.as_ptr() as u64 % PAGE as u64
}

/// Moves bytes between two memories: whole pages by exchange, if both let them go, else by a copy.
fn move_bytes(
    source: &mut dyn LinearMemory,
    from: Region,
    target: &mut dyn LinearMemory,
    to: Region,
) -> Result<Exchanged, TransferError> {
    if let (Some(source), Some(target)) = (Movable::of(source, from)?, Movable::of(target, to)?) {
        return Ok(source.move_to(target));
    }
    to.span(target)?.copy_from(from.span(source)?);
    Ok(Exchanged::Copied)
}

/// Pages that held somebody's bytes.
#[derive(Debug)]
pub(crate) struct Used {
    buffer: PageBuffer,
    /// How many bytes from the start on hold nothing any more.
    cleared: usize,
}

impl Used {
    fn new(buffer: PageBuffer) -> Self {
        Self { buffer, cleared: 0 }
    }

    pub(crate) fn len(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Whether a payload that takes `room` bytes of pages has its place in them, and wastes no more than it uses.
    pub(crate) fn fits(&self, room: u64) -> bool {
        let pages = room.div_ceil(PAGE as u64) * PAGE as u64;
        (pages..=pages.saturating_mul(2)).contains(&self.len())
    }

    /// Clears `count` bytes more, if there are so many; false if there is nothing left to clear.
    pub(crate) fn clear_some(&mut self, count: usize) -> bool {
        let (_, rest) = self.buffer.span().split_at(self.cleared);
        let (next, _) = rest.split_at(count);
        self.cleared += next.len();
        clear(next);
        !next.is_empty()
    }

    fn ready(mut self, trusted: bool) -> PageBuffer {
        if !trusted {
            self.clear_some(usize::MAX);
        }
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::faults;
    use nix::errno::Errno;
    use proptest::prelude::*;

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
    fn check(start: usize, len: usize, to: usize, outcomes: &[Option<Errno>]) -> (Method, u8) {
        let (mut source, mut target) = (filled(0x5a), filled(0xa5));
        let (before, target_before) = (source.as_slice().to_vec(), target.as_slice().to_vec());
        let from = Region::new(start as u64, len as u64);
        let there = Region::new(to as u64, len as u64);
        faults::plan(outcomes);
        let staged = Staged::take(&mut source, from, None, false).expect("memory");
        let payload = &before[start..start + len];
        // As soon as it has been taken the source may be overwritten.
        from.span(&mut source)
            .expect("inside")
            .copy_from_slice(&vec![0xee; len]);
        let mut sink = Fixed(target, there);
        let (method, copies, used) = staged.put(&mut sink, there).expect("inside");
        faults::plan(&[]);
        target = sink.0;
        assert_eq!(&target.as_slice()[to..to + len], payload, "the payload");
        assert_eq!(&target.as_slice()[..to], &target_before[..to], "before it");
        assert_eq!(
            &target.as_slice()[to + len..],
            &target_before[to + len..],
            "behind it"
        );
        assert_eq!(
            &source.as_slice()[..start],
            &before[..start],
            "the sender's, before it"
        );
        assert_eq!(
            &source.as_slice()[start + len..],
            &before[start + len..],
            "behind it"
        );
        assert!(used.ready(false).as_slice().iter().all(|byte| *byte == 0));
        (method, copies)
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
            let (method, copies) = check(start, len, to, &[]);
            prop_assert_eq!(method == Method::Exchange, copies == 0);
            if start % PAGE == to % PAGE {
                prop_assert_eq!(method, Method::Exchange);
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
            let (method, copies) = check(start, len, start, &outcomes);
            if !refused {
                prop_assert_eq!((method, copies), (Method::Exchange, 0));
            }
        }
    }

    #[test]
    fn every_single_refusal_is_told() {
        for at in 0..8 {
            let mut outcomes = vec![None; at];
            outcomes.push(Some(Errno::ENOMEM));
            let (method, copies) = check(PAGE, 3 * PAGE, PAGE, &outcomes);
            assert_eq!((method, copies), (Method::Copy, 1), "move {at}");
        }
    }

    #[test]
    fn ranges_of_several_mappings_are_exchanged_in_parts() {
        let (mut source, mut target) = (filled(1), filled(2));
        // Leaves the middle of the source a mapping of its own.
        let middle = Region::new(3 * PAGE as u64, 2 * PAGE as u64);
        let staged = Staged::take(&mut source, middle, None, false).expect("memory");
        drop(staged);
        let bytes = vec![9; ROOM];
        source.span().copy_from_slice(&bytes);
        let all = Region::new(0, ROOM as u64);
        let staged = Staged::take(&mut source, all, None, false).expect("memory");
        assert_eq!(staged.method(), Method::Exchange);
        let mut sink = Fixed(target, all);
        let (method, copies, _) = staged.put(&mut sink, all).expect("inside");
        target = sink.0;
        assert_eq!((method, copies), (Method::Exchange, 0));
        assert_eq!(target.as_slice(), bytes);
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
