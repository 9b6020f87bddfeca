//! The mappings of this process, as proc(5) lists them in `/proc/self/maps`: by address, one a line.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// Calls `look` with the addresses of one mapping after the other, until it returns false.
pub(crate) fn for_each(mut look: impl FnMut(Range<usize>) -> bool) -> io::Result<()> {
    let mut maps = BufReader::with_capacity(16 << 10, File::open("/proc/self/maps")?);
    let mut line = Vec::with_capacity(256);
    loop {
        line.clear();
        if maps.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let range = parse(&line).ok_or(io::ErrorKind::InvalidData)?;
        if !look(range) {
            return Ok(());
        }
    }
}

/// `7f01000-7f03000 rw-p …`
fn parse(line: &[u8]) -> Option<Range<usize>> {
    let end = line.iter().position(|byte| *byte == b' ')?;
    let (from, to) = std::str::from_utf8(&line[..end]).ok()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(from)?..number(to)?)
}

/// Where two ranges of the same length have to be cut, in bytes from their starts and in order, so that every piece of
/// either lies in one mapping. `None` if that cannot be said within `most` lines.
pub(crate) fn cuts(ranges: [Range<usize>; 2], most: usize) -> Option<Vec<usize>> {
    let mut cuts = Vec::new();
    let mut lines = 0;
    let last = ranges[0].end.max(ranges[1].end);
    for_each(|mapping| {
        lines += 1;
        for range in &ranges {
            if range.start < mapping.start && mapping.start < range.end {
                cuts.push(mapping.start - range.start);
            }
        }
        mapping.end < last && lines < most
    })
    .ok()?;
    cuts.sort_unstable();
    cuts.dedup();
    (lines < most).then_some(cuts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        assert_eq!(
            parse(b"1000-3000 rw-p 0 00:00 0 [heap]\n"),
            Some(0x1000..0x3000)
        );
        for nonsense in [&b"1000 rw-p"[..], b"1000-", b"\n", b"x-y z"] {
            assert_eq!(parse(nonsense), None);
        }
    }

    #[test]
    fn a_range_is_cut_where_mappings_meet() {
        let mut mappings = Vec::new();
        for_each(|mapping| {
            mappings.push(mapping);
            true
        })
        .expect("/proc is mounted");
        // The program's own image: nobody maps anything there meanwhile.
        let meet = mappings
            .windows(2)
            .find(|two| two[0].end == two[1].start)
            .expect("an image has several segments");
        let (start, at, end) = (meet[0].start, meet[1].start, meet[1].end);
        let all = cuts([start..end, start..end], usize::MAX);
        assert_eq!(all, Some(vec![at - start]));
        let inside = cuts([at..end, at..end], usize::MAX);
        assert_eq!(inside, Some(Vec::new()));
        assert_eq!(cuts([at..end, at..end], 1), None);
    }
}
