//! A payload between its two ends: the pages that it came in.

use crate::policy::Policy;
use crate::slots::Trust;
use crate::sys::{clear, prefer_huge, swap_bytes, Exchanged, Movable, PageBuffer, Pages};
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

/// Asks for large pages (2 MiB on x86-64) where `region` has not been touched yet, so that its first use takes one page fault
/// for 512: 100 MB are filled in a quarter of the time then, and read a few per cent faster ever after. Where the machine does
/// not give large pages to who asks for them (`/sys/kernel/mm/transparent_hugepage/enabled`), where the memory's pages are
/// not [private and anonymous](roadrunner_core::Backing::PrivateAnonymous), and below 2 MiB, nothing happens. Memory is taken up
/// by 2 MiB at a time then.
///
/// # Errors
/// [`OutOfBounds`](TransferError::OutOfBounds) if the region does not lie within the memory.
pub fn prefer_huge_pages(
    memory: &mut dyn LinearMemory,
    region: Region,
) -> Result<(), TransferError> {
    if let Some(bytes) = Movable::of(memory, region)? {
        prefer_huge(&bytes.parts().1);
    }
    Ok(())
}

/// Moves a given payload from its memory to another at once, whole pages by exchange where that can be. What comes back
/// for them are clean pages of the pool, or else those of the target, cleared before; uncleared if the policy trusts.
pub(crate) fn hand_over(
    source: &mut dyn LinearMemory,
    from: Region,
    target: &mut dyn LinearMemory,
    to: Region,
    policy: &Policy,
) -> Result<Exchanged, TransferError> {
    if let (Some(source), Some(target)) = (Movable::of(source, from)?, Movable::of(target, to)?) {
        if source.is_like(&target) {
            if !policy.trusted {
                if let Some(exchanged) = relay(&source, &target, policy) {
                    return Ok(exchanged);
                }
                clear(target.span());
            }
            return Ok(source.move_to(target));
        }
    }
    to.span(target)?.copy_from(from.span(source)?);
    Ok(Exchanged::Copied)
}

/// Moves a payload whose place clean pages of the pool take; `None` if it has none, or the kernel refuses, and nothing
/// has happened then.
fn relay(source: &Movable<'_>, target: &Movable<'_>, policy: &Policy) -> Option<Exchanged> {
    let pool = &policy.pool;
    let ((head, pages, tail), (their_head, theirs, their_tail)) = (source.parts(), target.parts());
    let span = pages.span();
    let Some(clean) = pool.take(span.len(), span.as_ptr() as usize, None) else {
        pool.foresee(span.len(), policy.huge_pages);
        return None;
    };
    match pages.relay(&theirs, clean) {
        Ok((old, moved)) => {
            pool.put(old, None);
            their_head.copy_from(head);
            their_tail.copy_from(tail);
            Some(moved)
        }
        Err(clean) => {
            pool.put_clean(clean);
            None
        }
    }
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
    /// Takes a payload out of its memory, which gets clean pages of the pool for it, or else new ones; on a trusted link
    /// pages that hold whatever its other end had. There have to be whole pages that may change hands.
    pub(crate) fn take(
        memory: &mut dyn LinearMemory,
        region: Region,
        policy: &Policy,
        trust: Option<Trust>,
    ) -> Result<Self, TransferError> {
        let parts = Movable::of(memory, region)?.map(|bytes| bytes.parts());
        let Some((head, pages, tail)) = parts.filter(|(_, pages, _)| !pages.span().is_empty())
        else {
            return Err(no_pages(io::ErrorKind::Unsupported.into()));
        };
        let (room, address) = (pages.span().len(), pages.span().as_ptr() as usize);
        let taken = match policy.pool.take(room, address, trust) {
            Some(ready) => pages.replace(ready).map(|(taken, _)| taken),
            None => match pages.take() {
                Some(taken) => {
                    if policy.huge_pages {
                        // What is left has to be filled anew.
                        prefer_huge(&pages);
                    }
                    Ok(taken)
                }
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
    ) -> Result<(Method, u8, PageBuffer), TransferError> {
        let before = self.copies();
        let memory = sink.memory();
        let (their_head, rest) = to.span(memory)?.split_at(self.head.len());
        let (_, their_tail) = rest.split_at(self.pages.len());
        their_head.copy_from_slice(&self.head);
        their_tail.copy_from_slice(&self.tail);
        let alike = |(head, _, _): &(Span<'_>, _, _)| head.len() == self.head.len();
        let movable = Movable::of(memory, to)?
            .map(|bytes| bytes.parts())
            .filter(alike);
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
        Ok((method_of(copies), copies, used))
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

#[cfg(test)]
mod tests;
