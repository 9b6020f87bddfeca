//! Bytes that can be written and read as fast as memory goes, and whose sum tells whether all of them are there and in
//! their places.
//!
//! They are 64-bit little-endian words: a *base*, which tells one payload from another, XOR a multiple of [`STEP`], which
//! tells one word from another. The last word is cut where the payload ends.

/// What the words of a payload are told apart by: as many odd bits as fit.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

const WORD: usize = 8;

/// Writes the payload with this base.
pub fn fill(bytes: &mut [u8], base: u64) {
    fill_from(bytes, base, 0);
}

/// Writes a part of the payload with this base: from the word with this number on.
// Word by word an engine is slower than memory.
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
pub fn fill_from(bytes: &mut [u8], base: u64, first: u64) {
    let mut step = first.wrapping_mul(STEP);
    let mut words = bytes.chunks_exact_mut(WORD);
    for word in &mut words {
        word.copy_from_slice(&(base ^ step).to_le_bytes());
        step = step.wrapping_add(STEP);
    }
    let rest = words.into_remainder();
    let len = rest.len();
    rest.copy_from_slice(&(base ^ step).to_le_bytes()[..len]);
}

/// Reads all bytes: the sum of the words, each with its step taken off. A cut word ends in zeros.
#[must_use]
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
pub fn sum(bytes: &[u8]) -> u64 {
    let (mut sum, mut step) = (0_u64, 0_u64);
    let words = bytes.chunks_exact(WORD);
    let rest = words.remainder();
    for word in words {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        sum = sum.wrapping_add(word ^ step);
        step = step.wrapping_add(STEP);
    }
    if rest.is_empty() {
        return sum;
    }
    let mut word = [0; WORD];
    word[..rest.len()].copy_from_slice(rest);
    sum.wrapping_add(u64::from_le_bytes(word) ^ step)
}

/// What [`sum`] must be for a payload of `len` bytes with this base.
#[must_use]
pub fn expected(len: u64, base: u64) -> u64 {
    let (words, rest) = (len / WORD as u64, len % WORD as u64);
    let sum = words.wrapping_mul(base);
    if rest == 0 {
        return sum;
    }
    let step = words.wrapping_mul(STEP);
    let kept = (1 << (8 * rest)) - 1;
    sum.wrapping_add(((base ^ step) & kept) ^ step)
}

/// What `produce` is asked for: length, base, and whether the buffer is to be on loan.
pub const COMMAND: usize = 17;

/// The payload that asks `produce` for `len` bytes with this base.
#[must_use]
pub fn command(len: u64, base: u64, loan: bool) -> [u8; COMMAND] {
    let mut command = [0; COMMAND];
    command[..8].copy_from_slice(&len.to_le_bytes());
    command[8..16].copy_from_slice(&base.to_le_bytes());
    command[16] = loan.into();
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x0123_4567_89ab_cdef;

    #[test]
    fn the_sum_is_what_is_expected() {
        for len in (0..40).chain([4096, 100_003]) {
            let mut bytes = vec![0; len];
            fill(&mut bytes, BASE);
            assert_eq!(sum(&bytes), expected(len as u64, BASE), "{len}");
        }
    }

    #[test]
    fn a_byte_that_is_wrong_or_elsewhere_changes_the_sum() {
        let mut bytes = vec![0; 3 * 4096 + 5];
        fill(&mut bytes, BASE);
        let right = sum(&bytes);
        for at in [0, 7, 8, 4096, bytes.len() - 1] {
            bytes[at] ^= 0x40;
            assert_ne!(sum(&bytes), right, "{at}");
            bytes[at] ^= 0x40;
        }
        let (one, rest) = bytes.split_at_mut(4096);
        one.swap_with_slice(&mut rest[..4096]);
        assert_ne!(sum(&bytes), right, "two pages changed places");
        fill(&mut bytes, BASE + 1);
        assert_ne!(sum(&bytes), right, "another payload");
    }
}
