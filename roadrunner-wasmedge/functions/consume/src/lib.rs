//! Reads its payload and replies with the sum of it (that of `sequence`), 8 bytes, little endian: the last function of a
//! measurement.

use roadrunner_guest::{function, Buffer};

function!(consume);

/// The handler.
#[must_use]
pub fn consume(payload: Buffer) -> Vec<u8> {
    sequence::sum(&payload).to_le_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_is_the_sum() {
        let mut bytes = vec![0; 1001];
        sequence::fill(&mut bytes, 3);
        let reply = consume(bytes.into());
        assert_eq!(reply, sequence::expected(1001, 3).to_le_bytes());
    }
}
