//! Pages of two memories change places.

use super::view::Sharing;
use super::{PageBuffer, PAGE, TABLE};
use crate::{budget, maps};
use nix::errno::Errno;
use nix::libc;
use roadrunner_core::{Backing, LinearMemory, Region, Span, TransferError};
use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
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
        let movable = memory.backing_of(region) == Backing::PrivateAnonymous;
        let span = region.span(memory)?;
        Ok(movable.then_some(Self(span)))
    }

    /// The bytes themselves.
    pub(crate) fn span(&self) -> Span<'m> {
        self.0
    }

    /// How far into a page it starts.
    fn offset(&self) -> usize {
        self.0.as_ptr() as usize % PAGE
    }

    /// Less than a page, whole pages, less than a page.
    pub(crate) fn parts(&self) -> (Span<'m>, Pages<'m>, Span<'m>) {
        let to_boundary = (PAGE - self.offset()) % PAGE;
        let (head, rest) = self.0.split_at(to_boundary);
        let (pages, tail) = rest.split_at(rest.len() - rest.len() % PAGE);
        (head, Pages(pages), tail)
    }

    /// Moves the bytes to `target`, as many as both have: whole pages by exchange where both start equally far into a
    /// page, what is left by copying. What comes back here for the pages is what `target` held.
    pub(crate) fn move_to(self, target: Movable<'_>) -> Exchanged {
        self.pass(target, |ours, theirs| {
            theirs.copy_from(ours);
        })
    }

    /// Swaps the bytes with those of `target`, as many as both have: whole pages by exchange where both start equally
    /// far into a page, what is left byte by byte.
    pub(crate) fn swap_with(self, target: Movable<'_>) -> Exchanged {
        self.pass(target, swap_bytes)
    }

    /// Whether pages of the two can change places: both start equally far into a page and are equally long. Two memories
    /// never overlap; two handles to the same one might, and then there is nothing to exchange.
    pub(crate) fn is_like(&self, target: &Movable<'_>) -> bool {
        self.offset() == target.offset()
            && self.0.len() == target.0.len()
            && !overlap(&addresses(self.0), &addresses(target.0))
    }

    /// Exchanges what can be exchanged, and leaves the rest to `by_hand`.
    fn pass(self, target: Movable<'_>, by_hand: ByHand) -> Exchanged {
        if !self.is_like(&target) {
            by_hand(self.0, target.0);
            return Exchanged::Copied;
        }
        let ((head, ours, tail), (their_head, theirs, their_tail)) = (self.parts(), target.parts());
        by_hand(head, their_head);
        by_hand(tail, their_tail);
        ours.pass(theirs, by_hand)
    }
}

/// Whole pages, possibly none, that may be replaced by others.
#[derive(Debug)]
pub(crate) struct Pages<'m>(Span<'m>);

impl<'m> Pages<'m> {
    /// All pages of a buffer.
    pub(crate) fn of(buffer: &'m mut PageBuffer) -> Self {
        Self(buffer.span())
    }

    /// The bytes themselves.
    pub(crate) fn span(&self) -> Span<'m> {
        self.0
    }

    /// Moves the bytes to `target`, which is as long, by exchange or else by copying.
    pub(crate) fn move_to(self, target: Pages<'_>) -> Exchanged {
        self.pass(target, |ours, theirs| {
            theirs.copy_from(ours);
        })
    }

    fn pass(self, target: Pages<'_>, by_hand: ByHand) -> Exchanged {
        if self.0.is_empty() {
            return Exchanged::Pages;
        }
        swap(self.0, target.0, by_hand)
    }

    /// Takes the pages out, and leaves cleared ones. `None` if the kernel does not move them as one; nothing has happened
    /// then.
    pub(crate) fn take(&self) -> Option<PageBuffer> {
        if self.0.is_empty() || !budget::allows() {
            return None;
        }
        take_out(self.0, self.0).ok()
    }

    /// Takes the pages out and puts `others` in their place, with half the system calls of an exchange. Gives the pages,
    /// and says whether the others are there as they are or as a copy.
    ///
    /// # Errors
    /// Gives `others` back if they are not as many, or the kernel does not move the pages as one; nothing has happened
    /// then.
    pub(crate) fn replace(
        &self,
        others: PageBuffer,
    ) -> Result<(PageBuffer, Exchanged), PageBuffer> {
        if others.len != self.0.len() {
            return Err(others);
        }
        match self.take() {
            Some(pages) => Ok((pages, put_in(others, self.0))),
            None => Err(others),
        }
    }
}

impl<'m> Pages<'m> {
    /// Moves the pages to `target`, as many, and puts `others` in their place. Gives what the target held, and says whether
    /// it has the pages or a copy of them.
    ///
    /// # Errors
    /// Gives `others` back if they are not as many, or the kernel does not move the pages as one; both sides hold what
    /// they held then.
    pub(crate) fn relay(
        &self,
        target: &Pages<'_>,
        others: PageBuffer,
    ) -> Result<(PageBuffer, Exchanged), PageBuffer> {
        let (ours, theirs) = (self.0, target.0);
        let as_many = others.len == ours.len() && others.len == theirs.len();
        if !as_many || !budget::allows() {
            return Err(others);
        }
        let Ok(pages) = take_out(ours, theirs) else {
            return Err(others);
        };
        let Ok(old) = take_out(theirs, theirs) else {
            put_in(pages, ours);
            return Err(others);
        };
        let moved = put_in(pages, theirs);
        // Whether it is these pages or zeros of their own: the payload is gone from here.
        put_in(others, ours);
        Ok((old, moved))
    }
}

/// What is done with bytes whose pages do not change places.
type ByHand = fn(Span<'_>, Span<'_>);

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

fn addresses(span: Span<'_>) -> Range<usize> {
    let start = span.as_ptr() as usize;
    start..start + span.len()
}

/// Swaps as many bytes as both have.
pub(crate) fn swap_bytes(mut ours: Span<'_>, mut theirs: Span<'_>) {
    let mut piece = [0; 4096];
    while !ours.is_empty() && !theirs.is_empty() {
        let (our_piece, our_rest) = ours.split_at(piece.len().min(theirs.len()));
        let (their_piece, their_rest) = theirs.split_at(our_piece.len());
        let count = our_piece.copy_to_slice(&mut piece);
        our_piece.copy_from(their_piece);
        their_piece.copy_from_slice(&piece[..count]);
        (ours, theirs) = (our_rest, their_rest);
    }
}

/// How bytes changed places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchanged {
    /// Every whole page by exchange; only heads and tails of less than a page were copied.
    Pages,
    /// At least a part could not be exchanged; there, bytes were copied.
    Copied,
}

impl Exchanged {
    /// What is true of both.
    fn and(self, other: Self) -> Self {
        match self {
            Self::Pages => other,
            Self::Copied => self,
        }
    }
}

/// Ranges of several mappings are exchanged piece by piece if there is at least so much for each piece.
const PER_PIECE: usize = 256 << 10;
/// Reading one line of the list of mappings takes about as long as copying so many bytes.
const PER_LINE: usize = 4 << 10;

// For every function below, every range is what `Pages` holds: whole pages, as many on either side,
// page-aligned, in memories of PrivateAnonymous that are borrowed mutably: their implementers let us replace the pages,
// nobody else looks at them meanwhile, and the two do not overlap. Pieces of such ranges are such ranges.

/// Swaps as a whole, or in pieces if the ranges consist of several mappings, each of which the kernel moves only alone;
/// what it refuses is done by hand.
fn swap(mut ours: Span<'_>, mut theirs: Span<'_>, by_hand: ByHand) -> Exchanged {
    let refused = match try_swap(ours, theirs) {
        Ok(exchanged) => return exchanged,
        Err(errno) => errno,
    };
    let most = ours.len() / PER_LINE;
    let cuts = match refused {
        // What mremap(2) says of a range that is not one mapping.
        Errno::EFAULT => maps::cuts([addresses(ours), addresses(theirs)], most),
        _ => None,
    };
    let Some(cuts) = cuts.filter(|cuts| cuts.len() <= ours.len() / PER_PIECE) else {
        by_hand(ours, theirs);
        return Exchanged::Copied;
    };
    let mut all = Exchanged::Pages;
    let mut done = 0;
    for end in cuts.into_iter().chain([usize::MAX]) {
        let (our_piece, our_rest) = ours.split_at(end - done);
        let (their_piece, their_rest) = theirs.split_at(end - done);
        match try_swap(our_piece, their_piece) {
            Ok(Exchanged::Pages) => {}
            Ok(Exchanged::Copied) => all = Exchanged::Copied,
            Err(_) => {
                by_hand(our_piece, their_piece);
                all = Exchanged::Copied;
            }
        }
        (ours, theirs, done) = (our_rest, their_rest, end);
    }
    all
}

/// Takes the pages out of both ranges, then puts each where the other was. On an error both hold what they held.
///
/// Three moves would do, the first range's pages straight to where the second's were. But from Linux 6.17 on such a move to
/// a fixed place takes ranges of several mappings, and may fail when some of them have been moved (mremap(2)); taking out,
/// to wherever there is room, takes one mapping or nothing.
fn try_swap(ours: Span<'_>, theirs: Span<'_>) -> Result<Exchanged, Errno> {
    if !budget::allows() {
        return Err(Errno::ENOMEM);
    }
    let our_pages = take_out(ours, theirs)?;
    match take_out(theirs, ours) {
        Ok(their_pages) => {
            let there = put_in(our_pages, theirs);
            let here = put_in(their_pages, ours);
            Ok(there.and(here))
        }
        Err(errno) => {
            put_in(our_pages, ours);
            Err(errno)
        }
    }
}

/// Asks for large pages where none have been touched yet, if the machine gives them to who asks (madvise(2)
/// `MADV_HUGEPAGE`; `/sys/kernel/mm/transparent_hugepage/enabled`). A hint: nobody has to heed it, and no byte changes.
pub(crate) fn prefer_huge(pages: &Pages<'_>) {
    let span = pages.span();
    if span.len() < TABLE {
        return;
    }
    // SAFETY: whole pages that are mapped, as `Pages` says; advice changes neither what they hold nor what may be done
    // with them.
    unsafe { libc::madvise(span.as_ptr().cast(), span.len(), libc::MADV_HUGEPAGE) };
}

/// Moves pages to a place of their own, where `like` would need no page table to be rewritten. Cleared ones stay.
pub(super) fn take_out(pages: Span<'_>, like: Span<'_>) -> Result<PageBuffer, Errno> {
    #[cfg(test)]
    faults::next()?;
    let place = free_place(pages, like);
    // Without MREMAP_FIXED the kernel takes nothing away at the target: it moves one mapping to where there is room, or
    // none. The C library's wrapper would not pass the hint on.
    // SAFETY: the source is whole pages of a `Movable`; with DONTUNMAP it stays mapped, by cleared pages of the same
    // kind.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_mremap,
            pages.as_ptr(),
            pages.len(),
            pages.len(),
            libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP,
            place,
        )
    };
    let start = Errno::result(moved)?;
    let start = NonNull::new(start as *mut u8).ok_or(Errno::ENOMEM)?;
    Ok(PageBuffer {
        start,
        len: pages.len(),
    })
}

thread_local! {
    /// Where this thread moved pages away from last, and how many bytes.
    static VACATED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Where there was room a moment ago, as far into a page table as `like` is: whole tables can move there. Null if no
/// table is as small as that, or there is no room.
fn free_place(pages: Span<'_>, like: Span<'_>) -> *mut u8 {
    let none = std::ptr::null_mut();
    let len = pages.len();
    let Some(room) = len.checked_add(TABLE).filter(|_| len >= TABLE) else {
        return none;
    };
    let (start, vacated) = VACATED.take();
    let is_like = start % TABLE == like.as_ptr() as usize % TABLE;
    // These pages themselves may have been mapped there since, and do not move to where they are.
    let is_elsewhere = !overlap(&(start..start.wrapping_add(len)), &addresses(pages));
    if vacated >= len && is_like && is_elsewhere {
        // Should something else have been mapped there, the kernel finds another place.
        return none.wrapping_add(start);
    }
    let Ok(place) = PageBuffer::map(room) else {
        return none;
    };
    let into_table = like.as_ptr() as usize % TABLE;
    let start = place.start.as_ptr() as usize;
    let ahead = into_table.wrapping_sub(start) % TABLE;
    place.start.as_ptr().wrapping_add(ahead)
}

/// Puts pages in the place of those of `target`, which have been taken out.
fn put_in(mut pages: PageBuffer, target: Span<'_>) -> Exchanged {
    match move_over(&pages, target) {
        Ok(()) => {
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

pub(super) fn move_over(pages: &PageBuffer, target: Span<'_>) -> Result<(), Errno> {
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
    // Nothing is mapped there any more, or somebody else's mapping already.
    VACATED.set((pages.start.as_ptr() as usize, pages.len));
    Ok(())
}

/// Makes sure that `target` is mapped: the kernel may clear the target of a move before it finds that it cannot go on.
pub(super) fn map_again(target: Span<'_>) {
    if map_over(target, None).is_err() {
        // A live linear memory has a hole that cannot be closed; the next touch would be a SIGSEGV. The range was
        // mapped a moment ago, so that this takes a kernel that is out of memory for its own records.
        std::process::abort();
    }
}

/// Maps something else, readable and writable, in the place of whole pages that are a `Movable`'s or a buffer's own, and
/// whose content nobody needs: a segment, or cleared anonymous pages.
pub(super) fn map_over(
    target: Span<'_>,
    segment: Option<(BorrowedFd<'_>, Sharing)>,
) -> io::Result<()> {
    let (kind, descriptor) = match segment {
        Some((descriptor, Sharing::Shared)) => (libc::MAP_SHARED, descriptor.as_raw_fd()),
        Some((descriptor, Sharing::Private)) => (libc::MAP_PRIVATE, descriptor.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: by what callers promise the range is theirs to replace, and it is mapped without a gap in one step. A
    // segment is as long as the target and cannot shrink, so that no page of it can be missing.
    let mapped = unsafe {
        libc::mmap(
            target.as_ptr().cast(),
            target.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            kind | libc::MAP_FIXED | libc::MAP_NORESERVE,
            descriptor,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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

#[cfg(test)]
mod tests;
