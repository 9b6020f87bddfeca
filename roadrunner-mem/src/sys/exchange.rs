//! Pages of two memories change places.

use super::{PageBuffer, PAGE, TABLE};
use nix::errno::Errno;
use nix::libc;
use roadrunner_core::{Backing, LinearMemory, Region, Span, TransferError};
use std::ptr::NonNull;

/// Bytes whose pages may be replaced by others: the only thing that an exchange is made with.
#[derive(Debug)]
pub(crate) struct Movable<'m>(Span<'m>);

impl<'m> Movable<'m> {
    /// The bytes of `region`, or `None` if the memory does not let its pages go.
    pub(crate) fn of(
        memory: &'m mut (dyn LinearMemory + 'm),
        region: Region,
    ) -> Result<Option<Self>, TransferError> {
        let movable = memory.backing() == Backing::PrivateAnonymous;
        let span = region.span(memory)?;
        Ok(movable.then_some(Self(span)))
    }

    /// How far into a page it starts.
    pub(crate) fn offset(&self) -> usize {
        self.0.as_ptr() as usize % PAGE
    }

    /// Less than a page, whole pages, less than a page.
    fn parts(&self) -> [Span<'m>; 3] {
        let to_boundary = (PAGE - self.offset()) % PAGE;
        let (head, rest) = self.0.split_at(to_boundary);
        let (pages, tail) = rest.split_at(rest.len() - rest.len() % PAGE);
        [head, pages, tail]
    }

    /// Bytes in whole pages.
    pub(crate) fn whole_pages(&self) -> usize {
        self.parts()[1].len()
    }

    /// Moves the bytes to `target`, as many as both have: whole pages by exchange where both start equally far into a
    /// page, what is left by copying. What comes back here for the pages is what `target` held.
    pub(crate) fn move_to(self, target: Movable<'_>) -> Exchanged {
        if self.offset() != target.offset() || self.0.len() != target.0.len() {
            target.0.copy_from(self.0);
            return Exchanged::Copied;
        }
        let ([head, ours, tail], [their_head, theirs, their_tail]) = (self.parts(), target.parts());
        their_head.copy_from(head);
        their_tail.copy_from(tail);
        if ours.is_empty() {
            return Exchanged::Pages;
        }
        swap(ours, theirs, &mut { SPLITS })
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchanged {
    /// Every page changed places.
    Pages,
    /// The kernel refused, for at least a part: there, bytes were copied from the first range to the second.
    Copied,
}

/// How often a range is halved at most when it turns out to consist of several mappings, each of which the kernel moves
/// only alone.
const SPLITS: u32 = 64;

// For every function below, both ranges are what `Movable::move_to` passes on: whole pages, as many on either side,
// page-aligned, in memories of PrivateAnonymous that are borrowed mutably: their implementers let us replace the pages,
// nobody else looks at them meanwhile, and the two do not overlap. Halves of such ranges are such ranges.

/// Swaps as a whole, or in halves if the ranges consist of several mappings; copies what the kernel refuses to swap.
fn swap(ours: Span<'_>, theirs: Span<'_>, splits: &mut u32) -> Exchanged {
    let refused = match try_swap(ours, theirs) {
        Ok(exchanged) => return exchanged,
        Err(errno) => errno,
    };
    // EFAULT is what mremap(2) says of a range that is not one mapping.
    if refused == Errno::EFAULT && *splits > 0 && ours.len() > PAGE {
        *splits -= 1;
        let half = (ours.len() / 2).next_multiple_of(PAGE);
        let (our_first, our_rest) = ours.split_at(half);
        let (their_first, their_rest) = theirs.split_at(half);
        let first = swap(our_first, their_first, splits);
        let rest = swap(our_rest, their_rest, splits);
        return match (first, rest) {
            (Exchanged::Pages, Exchanged::Pages) => Exchanged::Pages,
            _ => Exchanged::Copied,
        };
    }
    theirs.copy_from(ours);
    Exchanged::Copied
}

/// Takes the pages out of both ranges, then puts each where the other was. On an error both hold what they held.
fn try_swap(ours: Span<'_>, theirs: Span<'_>) -> Result<Exchanged, Errno> {
    let our_pages = take_out(ours, theirs)?;
    match take_out(theirs, ours) {
        Ok(their_pages) => {
            let there = put_in(our_pages, theirs);
            let here = put_in(their_pages, ours);
            Ok(if there == Exchanged::Pages {
                here
            } else {
                there
            })
        }
        Err(errno) => {
            put_in(our_pages, ours);
            Err(errno)
        }
    }
}

/// Moves pages to a place of their own, where `like` would need no page table to be rewritten. Cleared ones stay.
fn take_out(pages: Span<'_>, like: Span<'_>) -> Result<PageBuffer, Errno> {
    #[cfg(test)]
    faults::next()?;
    let hint = PageBuffer::new(pages.len() + TABLE).map_err(|_| Errno::ENOMEM)?;
    let hint_at = hint
        .start
        .as_ptr()
        .wrapping_add(like.as_ptr() as usize % TABLE);
    drop(hint);
    // Without MREMAP_FIXED the kernel takes nothing away at the target: it moves one mapping to where there is room, or
    // none. The C library's wrapper would not pass the hint on.
    // SAFETY: the source is whole pages of a `Movable`;
    // with DONTUNMAP it stays mapped, by cleared pages of the same kind.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_mremap,
            pages.as_ptr(),
            pages.len(),
            pages.len(),
            libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP,
            hint_at,
        )
    };
    let start = Errno::result(moved)?;
    let start = NonNull::new(start as *mut u8).ok_or(Errno::ENOMEM)?;
    Ok(PageBuffer {
        start,
        len: pages.len(),
    })
}

/// Puts pages in the place of those of `target`, which have been taken out.
fn put_in(mut pages: PageBuffer, target: Span<'_>) -> Exchanged {
    match move_over(&pages, target) {
        Ok(()) => {
            // Nothing is mapped there any more, or somebody else's mapping already.
            std::mem::forget(pages);
            Exchanged::Pages
        }
        Err(_) => {
            map_again(target);
            target.copy_from(pages.span());
            Exchanged::Copied
        }
    }
}

fn move_over(pages: &PageBuffer, target: Span<'_>) -> Result<(), Errno> {
    #[cfg(test)]
    faults::next()?;
    // SAFETY: the source is `pages`, one mapping that its owner gives up if this succeeds. The target is as many whole
    // pages of a `Movable`, and its own are elsewhere.
    let moved = unsafe {
        libc::mremap(
            pages.start.as_ptr().cast(),
            pages.len,
            pages.len,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            target.as_ptr(),
        )
    };
    if moved == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    Ok(())
}

/// Makes sure that `target` is mapped: the kernel may clear the target of a move before it finds that it cannot go on.
fn map_again(target: Span<'_>) {
    // SAFETY: the target is whole pages of a `Movable`, and what they held is elsewhere.
    let mapped = unsafe {
        libc::mmap(
            target.as_ptr().cast(),
            target.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        // A live linear memory has a hole that cannot be closed; the next touch would be a SIGSEGV. The range was
        // mapped a moment ago, so that this takes a kernel that is out of memory for its own records.
        std::process::abort();
    }
}

#[cfg(test)]
pub(crate) mod faults {
    //! Lets chosen moves of this thread fail.

    use super::Errno;
    use std::cell::RefCell;
    use std::collections::VecDeque;

    thread_local! {
        static PLAN: RefCell<VecDeque<Option<Errno>>> = const { RefCell::new(VecDeque::new()) };
    }

    pub(crate) fn plan(outcomes: &[Option<Errno>]) {
        PLAN.with_borrow_mut(|plan| *plan = outcomes.iter().copied().collect());
    }

    pub(super) fn next() -> Result<(), Errno> {
        PLAN.with_borrow_mut(|plan| plan.pop_front().flatten().map_or(Ok(()), Err))
    }
}
