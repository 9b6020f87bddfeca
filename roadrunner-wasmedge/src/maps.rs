//! What this process has mapped, from `/proc/self/maps` (proc_pid_maps(5)).

use std::ops::Range;

/// One line.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    range: Range<usize>,
    permissions: &'a str,
    /// Neither a file nor anything that the kernel gave a name.
    anonymous: bool,
}

fn parse(line: &str) -> Option<Mapping<'_>> {
    // 7f00-7f10 rw-p 00000000 00:00 0    [heap]
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = fields.next()?;
    let device = fields.next()?;
    let inode = fields.next()?;
    let name = fields.next();
    Some(Mapping {
        range: usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?,
        permissions,
        anonymous: offset == "00000000" && device == "00:00" && inode == "0" && name.is_none(),
    })
}

fn read() -> String {
    // Without /proc nothing is known, and nothing is what is said: callers take that as a no.
    std::fs::read_to_string("/proc/self/maps").unwrap_or_default()
}

/// Private anonymous memory that can be executed: what just-in-time compilers and loaders of native code leave.
pub(crate) fn anonymous_code() -> Vec<Range<usize>> {
    code_in(&read())
}

fn code_in(maps: &str) -> Vec<Range<usize>> {
    maps.lines()
        .filter_map(parse)
        .filter(|mapping| mapping.anonymous && mapping.permissions.contains('x'))
        .map(|mapping| mapping.range)
        .collect()
}

/// What is in `after` and not in `before`. Both are in ascending order.
pub(crate) fn difference(after: &[Range<usize>], before: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut left = Vec::new();
    for range in after {
        let mut start = range.start;
        for known in before {
            if known.end <= start || known.start >= range.end {
                continue;
            }
            if known.start > start {
                left.push(start..known.start);
            }
            start = start.max(known.end);
        }
        if start < range.end {
            left.push(start..range.end);
        }
    }
    left
}

/// Whether every page of `range` is private anonymous memory that can be read and written and not executed.
pub(crate) fn is_private_anonymous(range: &Range<usize>) -> bool {
    is_private_anonymous_in(&read(), range)
}

fn is_private_anonymous_in(maps: &str, range: &Range<usize>) -> bool {
    let mut start = range.start;
    for mapping in maps.lines().filter_map(parse) {
        if mapping.range.contains(&start) && start < range.end {
            if !mapping.anonymous || mapping.permissions != "rw-p" {
                return false;
            }
            start = mapping.range.end;
        }
    }
    !range.is_empty() && start >= range.end
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
1000-2000 r-xp 00000000 00:00 0
2000-3000 rw-p 00000000 00:00 0
3000-5000 rw-p 00000000 00:00 0
5000-6000 rw-p 00000000 00:00 0                          [heap]
6000-7000 rw-s 00000000 00:01 12                         /memfd:slot (deleted)
7000-8000 r-xp 00001000 08:01 99                         /usr/lib/libc.so.6
";

    #[test]
    fn only_whole_ranges_of_private_anonymous_memory_count() {
        for (range, expected) in [
            (0x2000..0x5000, true),
            (0x2800..0x4800, true),
            (0x1000..0x3000, false),
            (0x4000..0x6000, false),
            (0x6000..0x7000, false),
            (0x8000..0x9000, false),
            (0x2000..0x2000, false),
        ] {
            let found = is_private_anonymous_in(MAPS, &range);
            assert_eq!(found, expected, "{range:x?}");
        }
    }

    #[test]
    fn code_without_a_file_is_found() {
        assert_eq!(code_in(MAPS), std::slice::from_ref(&(0x1000..0x2000)));
    }

    #[test]
    fn a_difference_cuts_what_was_known_out() {
        let after = [0x10..0x40, 0x50..0x60, 0x70..0x80];
        let before = [0x18..0x20, 0x30..0x55];
        assert_eq!(
            difference(&after, &before),
            [0x10..0x18, 0x20..0x30, 0x55..0x60, 0x70..0x80]
        );
        assert!(difference(&before, &before).is_empty());
    }
}
