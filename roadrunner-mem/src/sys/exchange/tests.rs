//! What an exchange is made of, piece by piece.

use super::*;

fn buffer(pages: usize, byte: u8) -> PageBuffer {
    let mut buffer = PageBuffer::new(pages * PAGE).expect("memory");
    buffer.span().copy_from_slice(&vec![byte; pages * PAGE]);
    buffer
}

fn holds(buffer: &PageBuffer, byte: u8) -> bool {
    buffer.as_slice().iter().all(|found| *found == byte)
}

#[test]
fn ranges_overlap_if_they_have_a_byte_in_common() {
    for (one, other, expected) in [
        (0..64, 0..64, true),
        (0..33, 32..64, true),
        (0..32, 32..64, false),
        (0..16, 48..64, false),
        (0..64, 16..17, true),
    ] {
        assert_eq!(overlap(&one, &other), expected, "{one:?} {other:?}");
        assert_eq!(overlap(&other, &one), expected, "{other:?} {one:?}");
    }
}

#[test]
fn as_many_bytes_are_swapped_as_both_have() {
    let (mut ours, mut theirs) = (buffer(3, 1), buffer(2, 2));
    let ours_begin_with = |ours: &PageBuffer, byte| {
        let (both, rest) = ours.as_slice().split_at(2 * PAGE);
        both == [byte; 2 * PAGE] && rest == [1; PAGE]
    };
    swap_bytes(ours.span(), theirs.span());
    assert!(ours_begin_with(&ours, 2) && holds(&theirs, 1));
    swap_bytes(theirs.span(), ours.span());
    assert!(ours_begin_with(&ours, 1) && holds(&theirs, 2));
}

#[test]
fn pages_are_relayed_only_if_there_are_as_many_of_each() {
    for (ours, theirs, others) in [(2, 1, 2), (1, 2, 2), (2, 2, 1), (1, 1, 1)] {
        let (mut source, mut target) = (buffer(ours, 1), buffer(theirs, 2));
        let (from, to) = (Pages::of(&mut source), Pages::of(&mut target));
        let relayed = from.relay(&to, buffer(others, 3));
        let as_many = ours == theirs && theirs == others;
        match relayed {
            Ok((old, Exchanged::Pages)) if as_many => {
                assert!(holds(&source, 3) && holds(&target, 1) && holds(&old, 2));
            }
            Err(given) if !as_many => {
                assert!(holds(&source, 1) && holds(&target, 2) && holds(&given, 3));
            }
            other => panic!("{ours} {theirs} {others}: {other:?}"),
        }
    }
}

/// What is given to the kernel in one step should not cost more than the bytes are worth.
#[test]
fn pieces_are_exchanged_where_each_is_worth_it() {
    const PIECE: usize = PER_PIECE / PAGE;
    for (pages, expected) in [
        (3 * PIECE, Exchanged::Pages),
        (2 * PIECE, Exchanged::Pages),
        (2 * PIECE - 1, Exchanged::Copied),
    ] {
        let (mut source, mut target) = (buffer(pages, 1), buffer(pages, 2));
        // From here on another mapping begins, and there it ends.
        let middle = source.span().split_at(PIECE / 4 * PAGE).1.split_at(PAGE).0;
        // SAFETY: a page of the buffer's own; it can be written to again before it is.
        let denied = unsafe {
            let page = middle.as_ptr().cast();
            libc::madvise(page, PAGE, libc::MADV_DONTFORK)
        };
        assert_eq!(denied, 0);
        let exchanged = swap(source.span(), target.span(), swap_bytes);
        assert_eq!(exchanged, expected, "{pages} pages");
        assert!(holds(&source, 2) && holds(&target, 1));
    }
}

/// Whole page tables move where both places are as far into one.
#[test]
fn pages_are_taken_to_where_no_page_table_is_rewritten() {
    for into_table in [0, PAGE, TABLE - PAGE] {
        let mut like = PageBuffer::new(2 * TABLE).expect("memory");
        let like = like.span().split_at(into_table).1;
        let mut reused = false;
        // Somebody else of this process may have mapped something there meanwhile, but not each time.
        for _ in 0..20 {
            let mut source = PageBuffer::new(TABLE).expect("memory");
            source.span().copy_from_slice(&[1]);
            let vacated = VACATED.get();
            let pages = take_out(source.span(), like).expect("one mapping");
            if pages.lies_at() != into_table {
                continue;
            }
            reused |= vacated.1 > 0 && pages.start.as_ptr() as usize == vacated.0;
            put_in(pages, source.span());
            assert_eq!(source.as_slice()[0], 1);
            assert_eq!(VACATED.get().0 % TABLE, into_table);
        }
        assert!(
            reused,
            "{into_table}: another place was looked for each time"
        );
    }
}

/// Less than a page table has no place of its own to look for.
#[test]
fn room_is_looked_for_where_a_table_is_moved() {
    let mut like = PageBuffer::new(TABLE).expect("memory");
    VACATED.take();
    let like = like.span();
    assert!(free_place(like.split_at(TABLE - PAGE).0, like).is_null());
    assert!(!free_place(like, like).is_null());
    // Where pages went away from that were fewer, or that lay otherwise, there may be no room.
    for (place, fits) in [
        ((TABLE, TABLE), true),
        ((TABLE, 2 * TABLE), true),
        ((TABLE, TABLE - PAGE), false),
        ((TABLE + PAGE, TABLE), false),
    ] {
        VACATED.set(place);
        let found = free_place(like, like) as usize;
        assert_eq!(found == place.0, fits, "{place:?}");
        assert_eq!(found % TABLE, 0);
    }
}

#[test]
fn large_pages_are_asked_for_where_a_page_table_could_be_saved() {
    let flags_of = |start: usize| {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("/proc");
        let mut lines = maps.lines();
        let is_first = |line: &&str| line.starts_with(&format!("{start:x}-"));
        lines.find(is_first).expect("a mapping of its own");
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags: "));
        flags.expect("since Linux 3.8").to_owned()
    };
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        let test = "large_pages_are_asked_for_where_a_page_table_could_be_saved";
        roadrunner_core::testing::skipped(test, "this kernel has no large pages");
        return;
    }
    for (len, expected) in [(TABLE - PAGE, false), (TABLE, true), (2 * TABLE, true)] {
        let mut buffer = PageBuffer::new(len + 2 * PAGE).expect("memory");
        // A mapping of its own begins here, whatever its neighbours are.
        let (edge, pages) = buffer.span().split_at(PAGE);
        // SAFETY: a page of the buffer's own; a fork goes without it.
        unsafe { libc::madvise(edge.as_ptr().cast(), PAGE, libc::MADV_DONTFORK) };
        let pages = Pages(pages.split_at(len).0);
        prefer_huge(&pages);
        let flags = flags_of(pages.span().as_ptr() as usize);
        assert_eq!(
            flags.split(' ').any(|flag| flag == "hg"),
            expected,
            "{len}: {flags}"
        );
    }
}

/// mremap(2) takes a hint that lies within what is moved for a mistake.
#[test]
fn pages_are_taken_out_that_lie_where_others_went_away() {
    let mut source = buffer(2 * TABLE / PAGE, 1);
    for ahead in [0, TABLE] {
        let all = source.span();
        VACATED.set((all.as_ptr() as usize - ahead, 2 * TABLE));
        let pages = take_out(all, all).expect("one mapping");
        assert!(holds(&pages, 1) && holds(&source, 0));
        put_in(pages, source.span());
    }
}
