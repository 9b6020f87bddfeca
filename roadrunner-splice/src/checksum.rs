//! Checksums of payloads, computed step by step while the bytes are in the processor's cache: just before they are
//! written, or just after they were read. A pass of its own over a large payload would fetch all of it from memory again.

use crate::socket::Socket;
use crc32fast::Hasher;
use roadrunner_core::frame::{CHECKSUM_LEN, HEADER_LEN};
use roadrunner_core::stream::read_all;
use roadrunner_core::{Deadline, Span, TransferError};
use roadrunner_mem::Checksum;

/// Bytes of a step: they stay in a cache meanwhile, and are so many that what a step costs besides hardly counts. With
/// steps of 128 KiB 100 MB took half as long again (`examples/measure.rs`).
pub(crate) const STEP: usize = 1 << 20;
/// Bytes that are looked at in one piece.
const BLOCK: usize = 4 << 10;

/// The checksums of a link that has them, of the payload that is being sent and of the one that is being received.
#[derive(Debug, Default)]
pub(crate) struct Checksums {
    pub(crate) sending: Sum,
    receiving: Sum,
    /// What came behind the payload.
    came: [u8; CHECKSUM_LEN],
}

/// CRC-32 of the first bytes of a payload.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    crc: Hasher,
    /// How many bytes.
    done: usize,
}

impl Sum {
    /// Of how many bytes it is.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    fn value(&self) -> u32 {
        self.crc.clone().finalize()
    }
}

impl Checksum for Sum {
    fn restart(&mut self) {
        *self = Self::default();
    }

    /// Block by block, by way of a copy that never leaves the first cache: nobody promises that nobody writes to a Span,
    /// as he would have to for a slice.
    fn add(&mut self, mut bytes: Span<'_>) {
        let mut block = [0; BLOCK];
        self.done += bytes.len();
        while !bytes.is_empty() {
            let count = bytes.copy_to_slice(&mut block);
            self.crc.update(&block[..count]);
            bytes = bytes.split_at(count).1;
        }
    }

    fn bytes(&self) -> [u8; CHECKSUM_LEN] {
        self.value().to_le_bytes()
    }
}

impl Checksums {
    /// Sends a frame and the checksum behind it, as [`write_all`](roadrunner_core::stream::write_all) sends one without.
    pub(crate) fn write_frame(
        &mut self,
        socket: &mut Socket,
        header: &[u8; HEADER_LEN],
        payload: Span<'_>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        step_by_step(deadline, || {
            self.write_step(socket, header, payload, sent, deadline)
        })
    }

    /// Goes on with it by no more than a step. Whether that was the last one.
    pub(crate) fn write_step(
        &mut self,
        socket: &mut Socket,
        header: &[u8; HEADER_LEN],
        payload: Span<'_>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<bool, TransferError> {
        let sum = &mut self.sending;
        if *sent == 0 {
            sum.restart();
        }
        let len = payload.len();
        let in_front = HEADER_LEN + len;
        let all = (in_front + CHECKSUM_LEN) as u64;
        if *sent < all {
            // Less than the sum above.
            let at = *sent as usize;
            let of_payload = at.saturating_sub(HEADER_LEN).min(len);
            let until = (of_payload + STEP).min(len);
            let body = payload.split_at(until).0;
            sum.add(body.split_at(sum.done).1);
            let checksum = sum.bytes();
            let tail = if until == len {
                &checksum[at.saturating_sub(in_front)..]
            } else {
                &[]
            };
            let head = &header[at.min(HEADER_LEN)..];
            let body = body.split_at(of_payload).1;
            *sent += socket
                .write_parts(head, body, tail, deadline)
                .map_err(|error| TransferError::from_io("write to the link", error))?
                as u64;
        }
        Ok(*sent >= all)
    }

    /// Reads a payload and the checksum behind it, of which `got` bytes are here, and compares.
    pub(crate) fn bring(
        &mut self,
        socket: &mut Socket,
        into: Span<'_>,
        got: &mut u64,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        step_by_step(deadline, || self.bring_step(socket, into, got, deadline))
    }

    /// Goes on with it by no more than a step. Whether that was the last one.
    pub(crate) fn bring_step(
        &mut self,
        socket: &mut Socket,
        into: Span<'_>,
        got: &mut u64,
        deadline: Deadline,
    ) -> Result<bool, TransferError> {
        let len = into.len();
        let sum = &mut self.receiving;
        if *got == 0 {
            sum.restart();
        }
        if *got < len as u64 {
            let at = *got as usize;
            let step = into.split_at(at).1.split_at(STEP).0;
            let mut count = 0;
            let read = read_all(socket, step, HEADER_LEN + at, &mut count, deadline);
            sum.add(step.split_at(count as usize).0);
            *got += count;
            read.map_err(|error| of_frame(error, len))?;
            if *got < len as u64 {
                return Ok(false);
            }
        }
        let mut count = *got - len as u64;
        let came = Span::from_slice(&mut self.came);
        let read = read_all(socket, came, HEADER_LEN + len, &mut count, deadline);
        *got = len as u64 + count;
        read?;
        let (got, expected) = (sum.value(), u32::from_le_bytes(self.came));
        if got == expected {
            Ok(true)
        } else {
            Err(TransferError::Corrupted { got, expected })
        }
    }
}

/// Repeats a step until one says that it was the last, or the time is over.
fn step_by_step(
    deadline: Deadline,
    mut step: impl FnMut() -> Result<bool, TransferError>,
) -> Result<(), TransferError> {
    while !step()? {
        if deadline.is_over() {
            return Err(TransferError::Timeout);
        }
    }
    Ok(())
}

/// The same error about the whole frame, not about a step of it.
fn of_frame(error: TransferError, len: usize) -> TransferError {
    match error {
        TransferError::Truncated { got, .. } => TransferError::Truncated {
            got,
            expected: (HEADER_LEN + len + CHECKSUM_LEN) as u64,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_checksum_of_ethernet() {
        let mut sum = Sum::default();
        // The check value of CRC-32/ISO-HDLC.
        sum.add(Span::from_slice(&mut b"123456789".to_vec()));
        assert_eq!((sum.value(), sum.done), (0xCBF4_3926, 9));
        sum.restart();
        assert_eq!((sum.value(), sum.done), (0, 0));
    }

    #[test]
    fn it_does_not_depend_on_the_pieces() {
        let mut bytes: Vec<u8> = (0..3 * BLOCK + 7).map(|n| (n * n) as u8).collect();
        let mut whole = Sum::default();
        whole.add(Span::from_slice(&mut bytes));
        for piece in [1, 4095, 4096, 4097, 10_000] {
            let mut sum = Sum::default();
            for part in bytes.chunks_mut(piece) {
                sum.add(Span::from_slice(part));
            }
            assert_eq!(sum.value(), whole.value(), "{piece}");
        }
    }
}
