//! The two ends' memories as the rules see them: a payload between canaries, and a sink that answers as it is told.

use super::fixture::{Case, Fixture};
use super::payloads::{fill, pattern};
use crate::memory::preferred_alignment;
use crate::{Deadline, LinearMemory, Payload, Receipt, Region, Sink, Transfer, TransferError};

/// Bytes kept free on either side of a payload.
pub(super) const MARGIN: u64 = 4096 + 77;
/// What a source is overwritten with.
const OVERWRITTEN: u8 = 0xEE;
/// The seed of what lies around a payload.
const CANARY: u64 = 0xCA;

/// A payload in the sender's memory, and canaries around it.
pub(super) struct Source {
    memory: Box<dyn LinearMemory + Send>,
    region: Region,
    given: bool,
}

impl Source {
    pub(super) fn new<F: Fixture>(fixture: &F, content: &[u8], case: Case) -> Self {
        assert_eq!(content.len() as u64, case.len);
        let mut memory = fixture.source(case.offset + case.len + MARGIN);
        let all = memory.len() as u64;
        fill(&mut *memory, 0, &pattern(all, CANARY));
        fill(&mut *memory, case.offset, content);
        Self {
            memory,
            region: Region::new(case.offset, case.len),
            given: case.given,
        }
    }

    /// Kept, at the start of the memory.
    pub(super) fn kept<F: Fixture>(fixture: &F, content: &[u8]) -> Self {
        let len = content.len() as u64;
        let case = Case {
            len,
            offset: 0,
            given: false,
        };
        Self::new(fixture, content, case)
    }

    pub(super) fn send<L: Transfer>(
        &mut self,
        link: &mut L,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        let payload = if self.given {
            Payload::given(&mut *self.memory, self.region)
        } else {
            Payload::kept(&mut *self.memory, self.region)
        };
        link.send(payload?, deadline)
    }

    pub(super) fn overwrite(&mut self) {
        let all = vec![OVERWRITTEN; self.memory.len()];
        fill(&mut *self.memory, 0, &all);
    }

    /// Writes the payload anew.
    pub(super) fn refill(&mut self, content: &[u8]) {
        fill(&mut *self.memory, self.region.offset(), content);
    }

    /// What is now where the payload was.
    pub(super) fn payload(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.region.len() as usize];
        let span = self.region.span(&mut *self.memory);
        span.expect("it was within the memory")
            .copy_to_slice(&mut bytes);
        bytes
    }

    /// The whole memory.
    pub(super) fn snapshot(&mut self) -> Vec<u8> {
        snapshot(&mut *self.memory)
    }
}

pub(super) fn snapshot(memory: &mut dyn LinearMemory) -> Vec<u8> {
    let mut bytes = vec![0; memory.len()];
    Region::new(0, bytes.len() as u64)
        .span(memory)
        .expect("the whole memory lies within itself")
        .copy_to_slice(&mut bytes);
    bytes
}

/// What a sink says when it is asked for a region.
pub(super) enum Answer {
    /// A region in the middle of the memory, aligned as it was asked for.
    Honest,
    /// That there is no room.
    Refuse,
    /// A region made of the length that was asked for and the size of the memory.
    Lie(fn(u64, u64) -> Region),
}

/// The receiver's memory.
pub(super) struct Destination<'a> {
    memory: Box<dyn LinearMemory + Send>,
    answer: Answer,
    before: Box<dyn FnMut() + Send + 'a>,
    /// What was reserved.
    pub(super) reserved: Vec<Region>,
    /// What was released.
    pub(super) released: Vec<Region>,
}

impl<'a> Destination<'a> {
    /// Room for one payload of `len` bytes at a time.
    pub(super) fn new<F: Fixture>(fixture: &F, len: u64) -> Self {
        Self {
            memory: fixture.destination(len + preferred_alignment(len) + 2 * MARGIN),
            answer: Answer::Honest,
            before: Box::new(|| ()),
            reserved: Vec::new(),
            released: Vec::new(),
        }
    }

    pub(super) fn answering(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }

    /// Calls `before` whenever a region is asked for.
    pub(super) fn waiting(mut self, before: impl FnMut() + Send + 'a) -> Self {
        self.before = Box::new(before);
        self
    }

    /// Fills the whole memory with one byte.
    pub(super) fn fill_with(&mut self, byte: u8) {
        let all = vec![byte; self.memory.len()];
        fill(&mut *self.memory, 0, &all);
    }

    /// The whole memory.
    pub(super) fn snapshot(&mut self) -> Vec<u8> {
        snapshot(&mut *self.memory)
    }

    /// Receives one payload and gives its bytes.
    pub(super) fn receive<L: Transfer>(
        &mut self,
        link: &mut L,
        deadline: Deadline,
    ) -> Result<Vec<u8>, TransferError> {
        let region = link.recv(self, deadline)?.region();
        let mut bytes = vec![0; region.len() as usize];
        region.span(&mut *self.memory)?.copy_to_slice(&mut bytes);
        Ok(bytes)
    }
}

impl Sink for Destination<'_> {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        (self.before)();
        let size = self.memory.len() as u64;
        let region = match self.answer {
            Answer::Honest => Region::new(MARGIN.next_multiple_of(align), len),
            Answer::Refuse => Region::new(size, len.max(1)),
            Answer::Lie(lie) => lie(len, size),
        };
        if !region.fits(size) && !matches!(self.answer, Answer::Lie(_)) {
            return Err(TransferError::NoRoom {
                len,
                reason: "the test's sink has no more".to_owned(),
            });
        }
        self.reserved.push(region);
        Ok(region)
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut *self.memory
    }

    fn release(&mut self, region: Region) {
        self.released.push(region);
    }
}
