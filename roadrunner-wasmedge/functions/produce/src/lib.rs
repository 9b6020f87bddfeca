//! Replies with as many bytes as it is asked for (the layout of `sequence`): the first function of a measurement.
//!
//! Its payload is a length, a base, and a byte that says whether the reply is to be on loan.

use roadrunner_guest::{function, loan, Buffer, OutOfMemory};
use sequence::COMMAND;

function!(produce);

/// The handler.
///
/// # Errors
/// If that is not what the payload is, or there is no room for so many bytes.
pub fn produce(payload: Buffer) -> Result<Buffer, String> {
    let command: &[u8; COMMAND] = payload[..]
        .try_into()
        .map_err(|_| format!("{} bytes are no command; {COMMAND} are", payload.len()))?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| command[at + byte]));
    let (len, base) = (number(0), number(8));
    let len = usize::try_from(len).map_err(|_| format!("{len} bytes are no payload"))?;
    let buffer = if command[COMMAND - 1] == 0 {
        filled(len, base)
    } else {
        loan(len).map(|mut buffer| {
            sequence::fill(&mut buffer, base);
            buffer
        })
    };
    buffer.map_err(|error| error.to_string())
}

/// An ordinary buffer, of which every byte is written once.
fn filled(len: usize, base: u64) -> Result<Buffer, OutOfMemory> {
    // As much as stays in the cache between the two.
    const PIECE: usize = 4096;
    let mut buffer = Buffer::with_capacity(len)?;
    let mut piece = [0; PIECE];
    while buffer.len() < len {
        let here = (len - buffer.len()).min(PIECE);
        let words = (buffer.len() / 8) as u64;
        sequence::fill_from(&mut piece[..here], base, words);
        buffer.extend_from_slice(&piece[..here])?;
    }
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_is_what_was_asked_for() {
        for len in [0, 1, 8, 4096, 9_999, 1_100_001] {
            for loan in [false, true] {
                let command = sequence::command(len, 77, loan).to_vec();
                let reply = produce(command.into()).expect("memory");
                assert_eq!(reply.len() as u64, len);
                assert_eq!(sequence::sum(&reply), sequence::expected(len, 77));
            }
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let error = produce(vec![0; 5].into()).expect_err("too short");
        assert!(error.contains("5 bytes"), "{error}");
        let command = sequence::command(u64::MAX, 0, false).to_vec();
        produce(command.into()).expect_err("too long");
    }
}
