//! What is sent: bytes that tell payload from payload and page from page.

use roadrunner_core::Span;

/// A page: each of them carries its own stamp.
const PIECE: usize = 4096;
const STAMP: usize = 8;

/// Fills payloads and compares them, both as fast as memory can be written and read: pages come from a few that stay in
/// the cache.
pub(crate) struct Pattern {
    /// Payloads take turns with them, so that what is left of the last ones is found. Two buffers that change places
    /// hold every second payload, so there are three.
    pages: Vec<Page>,
}

/// Where it lies in its cache lines makes a tenth of the time of small payloads: all candidates have it alike.
#[repr(align(4096))]
struct Page([u8; PIECE]);

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 1_u64;
        let mut byte = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        let pages = (0..3).map(|_| Page(std::array::from_fn(|_| byte())));
        Self {
            pages: pages.collect(),
        }
    }

    fn page(&self, number: u64) -> &[u8; PIECE] {
        &self.pages[(number % self.pages.len() as u64) as usize].0
    }

    /// Writes all bytes of the payload with this number.
    pub(crate) fn fill(&self, span: Span<'_>, number: u64) {
        let page = self.page(number);
        let mut rest = span;
        let mut stamp = stamp(number);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(PIECE);
            let (head, body) = piece.split_at(STAMP);
            head.copy_from_slice(&stamp.to_le_bytes());
            body.copy_from_slice(&page[STAMP..]);
            stamp = stamp.wrapping_add(1);
            rest = behind;
        }
    }

    /// Reads all bytes; whether they are those of the payload with this number.
    #[must_use]
    pub(crate) fn check(&self, span: Span<'_>, number: u64) -> bool {
        let page = self.page(number);
        let mut aligned = Page([0; PIECE]);
        let piece = &mut aligned.0;
        let mut rest = span;
        let mut stamp = stamp(number);
        let mut same = true;
        while !rest.is_empty() {
            let (next, behind) = rest.split_at(PIECE);
            let len = next.copy_to_slice(piece);
            let head = STAMP.min(len);
            same &= piece[..head] == stamp.to_le_bytes()[..head];
            same &= piece[head..len] == page[head..len];
            stamp = stamp.wrapping_add(1);
            rest = behind;
        }
        same
    }
}

/// That of a payload's first page; the next ones count on.
fn stamp(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let pattern = Pattern::new();
        for len in [0, 1, 8, 9, 64, PIECE, PIECE + 3, 3 * PIECE] {
            let mut bytes = vec![0; len];
            pattern.fill(Span::from_slice(&mut bytes), 5);
            assert!(pattern.check(Span::from_slice(&mut bytes), 5), "{len}");
            for at in [0, len / 2, len.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1;
                    assert!(
                        !pattern.check(Span::from_slice(&mut bytes), 5),
                        "{at} of {len}"
                    );
                    bytes[at] ^= 1;
                }
            }
        }
    }

    #[test]
    fn what_is_left_of_other_payloads_is_found() {
        let pattern = Pattern::new();
        let mut bytes = vec![0; 2 * PIECE];
        for earlier in 1..=2 {
            pattern.fill(Span::from_slice(&mut bytes), 9 - earlier);
            pattern.fill(Span::from_slice(&mut bytes[..2 * PIECE - 100]), 9);
            assert!(!pattern.check(Span::from_slice(&mut bytes), 9));
        }
        pattern.fill(Span::from_slice(&mut bytes), 9);
        bytes.swap_with_slice(&mut vec![0; 2 * PIECE]);
        assert!(!pattern.check(Span::from_slice(&mut bytes), 9));
    }
}
