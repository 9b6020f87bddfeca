//! Any pair of ends against the rules that need nothing else.

use super::payloads::{fill, pattern, receive, send, soon, NewMemory, LENGTHS};
use crate::{
    Deadline, HostMemory, LinearMemory, Payload, Receipt, Region, Transfer, TransferError,
};
use std::thread;

/// How a transport is opened and used, to be held against the contract.
pub struct Conformance<'a, L> {
    /// Opens a link and gives both ends.
    pub open: &'a (dyn Fn() -> (L, L) + Sync),
    /// Makes the sender's memory.
    pub memory: NewMemory<'a>,
    /// Whether payloads are given away.
    pub give: bool,
    /// Where payloads start in the sender's memory.
    pub offset: u64,
}

impl<L: Transfer + Send> Conformance<'_, L> {
    /// Everything below.
    #[must_use]
    pub fn all(&self) -> Vec<Receipt> {
        self.ends_and_limits();
        self.a_payload_outside_the_memory();
        self.one_send_one_receive(&LENGTHS)
    }

    /// Rules 1, 2, 4 and 9: payloads of these lengths arrive as they were sent, in order, although the source, and what
    /// lies around it, is overwritten as soon as `send` returns. Gives the senders' receipts.
    #[must_use]
    pub fn one_send_one_receive(&self, lengths: &[u64]) -> Vec<Receipt> {
        let (mut a, mut b) = (self.open)();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let room = self.offset + longest + 4096;
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(move || {
                let mut memory = (self.memory)(room);
                let mut receipts = Vec::new();
                for (seed, len) in lengths.iter().enumerate() {
                    fill(&mut *memory, self.offset, &pattern(*len, seed as u64));
                    receipts.push(self.send(&mut a, &mut *memory, *len).expect("sent"));
                    fill(&mut *memory, 0, &vec![0xEE; room as usize]);
                }
                a.close(soon()).expect("closed");
                assert!(a.is_open(), "closing is no failure");
                receipts
            });
            for (seed, len) in lengths.iter().enumerate() {
                let (bytes, receipt) = receive(&mut b).expect("received");
                assert!(
                    bytes == pattern(*len, seed as u64),
                    "payload {seed} of {len} bytes arrived changed"
                );
                assert_eq!(receipt.bytes(), *len);
            }
            assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
            assert!(b.is_open(), "the end is no failure");
            sender.join().expect("the sender does not panic")
        });
        for (receipt, len) in sent.iter().zip(lengths) {
            assert_eq!(receipt.bytes(), *len);
        }
        sent
    }

    fn send(
        &self,
        link: &mut L,
        memory: &mut (dyn LinearMemory + Send),
        len: u64,
    ) -> Result<Receipt, TransferError> {
        let region = Region::new(self.offset, len);
        let payload = if self.give {
            Payload::given(memory, region)
        } else {
            Payload::kept(memory, region)
        };
        link.send(payload?, soon())
    }

    /// Rules 5 and 8: waiting ends in time and leaves the link open; an end that was dropped is a peer that went away;
    /// an end that was closed sends no more.
    pub fn ends_and_limits(&self) {
        let (mut a, mut b) = (self.open)();
        let mut memory = HostMemory::new();
        assert!(matches!(
            b.recv(&mut memory, Deadline::now()),
            Err(TransferError::Timeout)
        ));
        assert!(b.is_open());
        send(&mut a, b"before", soon()).expect("sent");
        assert_eq!(receive(&mut b).expect("received").0, b"before");
        a.close(soon()).expect("closed");
        a.close(soon()).expect("closed twice");
        assert!(matches!(
            send(&mut a, b"after", soon()),
            Err(TransferError::Closed)
        ));
        assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
        drop(b);

        let (a, mut b) = (self.open)();
        drop(a);
        assert!(matches!(receive(&mut b), Err(TransferError::PeerClosed)));
        assert!(!b.is_open());
        assert!(matches!(receive(&mut b), Err(TransferError::Broken)));
    }

    /// Rule 7: a region that lies outside its memory never becomes a payload.
    pub fn a_payload_outside_the_memory(&self) {
        let mut memory = (self.memory)(4096);
        let len = memory.len() as u64;
        for region in [
            Region::new(len, 1),
            Region::new(0, len + 1),
            Region::new(u64::MAX, 2),
            Region::new(1, u64::MAX),
        ] {
            assert!(matches!(
                Payload::given(&mut *memory, region),
                Err(TransferError::OutOfBounds { .. })
            ));
        }
    }
}

impl<L> std::fmt::Debug for Conformance<'_, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conformance")
            .field("give", &self.give)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
