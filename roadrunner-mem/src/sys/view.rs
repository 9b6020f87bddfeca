//! Mappings of segments that go in and out of linear memories, with the page table entries they have.

use super::exchange::{map_again, map_over, move_over, take_out};
use super::PageBuffer;
use crate::segment::Segment;
use nix::errno::Errno;
use nix::libc;
use roadrunner_core::Span;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

/// A mapping of a whole segment that is in no linear memory now.
#[derive(Debug)]
pub(crate) struct View {
    // Whole pages of its own, although not anonymous: never handed out as a memory whose pages may be exchanged.
    pages: PageBuffer,
}

/// Whose writes a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Everybody's: what is written through it is in the segment.
    Shared,
    /// The segment's, until it is written to: what is written stays in this view (copy-on-write).
    Private,
}

impl View {
    /// A new mapping, at a multiple of 2 MiB.
    pub(crate) fn new(segment: &Segment, sharing: Sharing) -> io::Result<Self> {
        let mut pages = PageBuffer::new(segment.len())?;
        map_over(pages.span(), Some((segment.as_fd(), sharing)))?;
        Ok(Self { pages })
    }

    pub(crate) fn span(&mut self) -> Span<'_> {
        self.pages.span()
    }

    /// Maps the first `len` bytes, so that reading them takes no page fault. A hint. What is not in the segment yet would be
    /// taken up by this.
    pub(crate) fn warm_up(&mut self, len: usize) {
        let span = self.pages.span().split_at(len).0;
        // SAFETY: the range is this view's own mapping; populating changes no byte.
        unsafe { libc::madvise(span.as_ptr().cast(), span.len(), libc::MADV_POPULATE_READ) };
    }

    /// Puts it in the place of `target`, whole pages of a linear memory, as many as it has. What they held is lost.
    ///
    /// # Errors
    /// Gives it back if the kernel refuses; the target then holds what it held, or zeros.
    pub(crate) fn put(self, target: Span<'_>) -> Result<(), Self> {
        debug_assert_eq!(self.pages.len, target.len());
        match move_over(&self.pages, target) {
            Ok(()) => {
                // It is in the linear memory now, and nothing is mapped where it was.
                std::mem::forget(self.pages);
                Ok(())
            }
            Err(_) => {
                map_again(target);
                Err(self)
            }
        }
    }

    /// Takes the view out of a linear memory, whose pages then are anonymous and cleared.
    ///
    /// # Errors
    /// What mremap(2) or mmap(2) said; the view is still there.
    pub(crate) fn take(place: Span<'_>) -> Result<Self, Errno> {
        let pages = take_out(place, place)?;
        // A mapping of a file shows its content here as before, until something else is mapped.
        match map_over(place, None) {
            Ok(()) => Ok(Self { pages }),
            Err(error) => {
                if move_over(&pages, place).is_ok() {
                    std::mem::forget(pages);
                }
                // Else nothing was moved: the same segment is still mapped in this place, only colder.
                Err(Errno::from_raw(
                    error.raw_os_error().unwrap_or(libc::ENOMEM),
                ))
            }
        }
    }

    /// Drops what was written through a private view: it shows the segment again. Warm pages stay, unless some was
    /// written: then the first `warm` bytes are [warmed up](Self::warm_up). Nothing is left of the view if the kernel refuses, as it does where memory is locked (mlockall(2)).
    pub(crate) fn refresh(mut self, warm: usize) -> Option<Self> {
        if written(self.pages.span()) {
            let span = self.pages.span();
            // SAFETY: the range is this view's own mapping, private and of a file: dropping its pages lets it show the
            // file (madvise(2)).
            let dropped =
                unsafe { libc::madvise(span.as_ptr().cast(), span.len(), libc::MADV_DONTNEED) };
            if dropped != 0 {
                return None;
            }
            self.warm_up(warm);
        }
        Some(self)
    }
}

/// `struct pm_scan_arg` (Documentation/admin-guide/mm/pagemap.rst).
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Default)]
struct Found {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
nix::ioctl_readwrite!(pagemap_scan, b'f', 16, Scan);

static_assertions::assert_eq_size!(Scan, [u64; 12]);

const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// Whether a private mapping of a file has pages of its own. True as well where nobody can tell (before Linux 6.7).
fn written(span: Span<'_>) -> bool {
    has_page(span, PAGE_IS_FILE).unwrap_or(true)
}

/// Whether something has been written to anonymous pages, none of which were there. False as well where nobody can tell.
pub(crate) fn is_touched(span: Span<'_>) -> bool {
    // One that was only read is the page of zeros that everybody has.
    has_page(span, PAGE_IS_PFNZERO | PAGE_IS_FILE).unwrap_or(false)
}

/// Whether there is a page, in memory or swapped out, that is none of these. `None` where nobody can tell.
fn has_page(span: Span<'_>, none_of: u64) -> Option<bool> {
    static PAGEMAP: OnceLock<Option<File>> = OnceLock::new();
    let pagemap = PAGEMAP.get_or_init(|| File::open("/proc/self/pagemap").ok());
    let pagemap = pagemap.as_ref()?;
    let mut found = Found::default();
    let start = span.as_ptr() as u64;
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        start,
        end: start + span.len() as u64,
        regions: std::ptr::from_mut(&mut found) as u64,
        regions_len: 1,
        max_pages: 1,
        category_inverted: none_of,
        category_mask: none_of,
        category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_PRESENT,
        ..Scan::default()
    };
    // SAFETY: the argument has the layout and says the size of the kernel's, and room for one region, which lives on
    // this stack. The call reads page tables and changes nothing.
    let count = unsafe { pagemap_scan(pagemap.as_raw_fd(), &mut scan) };
    count.ok().map(|count| count != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{touch, PAGE};
    use roadrunner_core::testing::skipped;

    const LEN: usize = 8 * PAGE;

    /// Whether this kernel has the call (Linux 6.7).
    fn can_tell(test: &str) -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
        let can = (number(), number()) >= (Some(6), Some(7));
        if !can {
            skipped(
                test,
                "before Linux 6.7 nobody can tell which pages there are",
            );
        }
        can
    }

    fn page(of: &mut PageBuffer, number: usize) -> Span<'_> {
        of.span().split_at(number * PAGE).1.split_at(PAGE).0
    }

    fn read(span: Span<'_>) -> u8 {
        let mut byte = [0];
        span.copy_to_slice(&mut byte);
        byte[0]
    }

    #[test]
    fn pages_that_were_written_are_told_from_those_that_were_read() {
        if !can_tell("pages_that_were_written_are_told_from_those_that_were_read") {
            return;
        }
        let mut pages = PageBuffer::new(LEN).expect("memory");
        assert!(!is_touched(pages.span()), "nothing is there");
        read(page(&mut pages, 3));
        assert!(!is_touched(pages.span()), "the page of zeros");
        touch(page(&mut pages, 5));
        assert!(is_touched(pages.span()));
        assert!(is_touched(page(&mut pages, 5)));
        for untouched in [0, 3, 4, 6] {
            assert!(!is_touched(page(&mut pages, untouched)), "{untouched}");
        }
        assert!(pages.as_slice().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_private_view_that_was_written_is_told_from_one_that_was_read() {
        if !can_tell("a_private_view_that_was_written_is_told_from_one_that_was_read") {
            return;
        }
        let segment = Segment::new(LEN).expect("a segment");
        let mut view = View::new(&segment, Sharing::Private).expect("a view");
        assert!(!written(view.span()), "nothing is there");
        read(view.span());
        assert!(!written(view.span()), "pages of the segment");
        touch(page(&mut view.pages, 5));
        assert!(written(view.span()));
        let mut view = view.refresh(LEN).expect("no page is locked");
        assert!(!written(view.span()), "it shows the segment");
    }

    #[test]
    fn a_warm_view_has_the_pages_that_were_asked_for() {
        if !can_tell("a_warm_view_has_the_pages_that_were_asked_for") {
            return;
        }
        let segment = Segment::new(LEN).expect("a segment");
        let mut filled = View::new(&segment, Sharing::Shared).expect("a view");
        filled.span().copy_from_slice(&[7; LEN]);
        let mut view = View::new(&segment, Sharing::Private).expect("a view");
        let is_there = |view: &mut View, number| has_page(page(&mut view.pages, number), 0);
        assert_eq!(is_there(&mut view, 0), Some(false));
        view.warm_up(LEN);
        for number in 0..LEN / PAGE {
            assert_eq!(is_there(&mut view, number), Some(true), "{number}");
        }
    }
}
