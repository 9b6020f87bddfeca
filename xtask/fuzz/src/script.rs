//! A stream whose other side is written down.

use arbitrary::{Arbitrary, Unstructured};
use roadrunner_core::frame::{Header, Hello, Kind};
use roadrunner_core::stream::Wire;
use roadrunner_core::{Deadline, Method, Span};
use std::collections::VecDeque;
use std::io;

/// Bytes of one script at most: it is what the input chooses, not what the code under test does, that may take memory.
const MOST: usize = 1 << 18;

/// What the peer says.
#[derive(Debug, Arbitrary)]
pub(crate) enum Word {
    /// Any bytes.
    Raw(Vec<u8>),
    Hello {
        limit: u64,
        name: String,
    },
    /// A payload, with a header that may lie.
    Data {
        /// Added to the number that it should have.
        off: i8,
        method: u8,
        copies: u8,
        acknowledge: bool,
        len: u16,
        /// Added to the length that it says.
        lie: Lie,
        fill: u8,
    },
    Acknowledgement {
        sequence: u8,
    },
    End,
    Release {
        sequence: u8,
    },
    Retirement {
        number: u8,
    },
    /// The last bytes so far are changed.
    Change {
        back: u8,
        value: u8,
    },
}

/// By how much a length is wrong.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(crate) enum Lie {
    None,
    Some(i8),
    Huge(u64),
}

/// What the peer does with its words.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(crate) enum Step {
    /// At most so many bytes come at once, or go.
    Move(u8),
    /// A page and more.
    Much,
    /// Nothing for now.
    Late,
}

/// What a peer says, and how it comes.
#[derive(Debug, Arbitrary)]
pub(crate) struct Script {
    words: Vec<Word>,
    reads: Vec<Step>,
    writes: Vec<Step>,
    /// It resets the connection, instead of closing it.
    resets: bool,
}

impl Script {
    /// All bytes that the peer says.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut next = 0_u64;
        for word in &self.words {
            if bytes.len() > MOST {
                break;
            }
            let mut say = |kind, sequence, length| {
                bytes.extend(
                    Header {
                        kind,
                        sequence,
                        length,
                    }
                    .encode(),
                );
            };
            match word {
                Word::Raw(raw) => bytes.extend(raw),
                Word::Hello { limit, name } => {
                    if let Ok(hello) = Hello::new(*limit, name) {
                        bytes.extend(hello.encode());
                    }
                }
                Word::Data {
                    off,
                    method,
                    copies,
                    acknowledge,
                    len,
                    lie,
                    fill,
                } => {
                    let said = match lie {
                        Lie::None => u64::from(*len),
                        Lie::Some(by) => u64::from(*len).wrapping_add_signed(i64::from(*by)),
                        Lie::Huge(len) => *len,
                    };
                    let method = Method::ALL[usize::from(*method) % Method::ALL.len()];
                    let kind = Kind::Data {
                        method,
                        copies: *copies,
                        acknowledge: *acknowledge,
                    };
                    say(kind, next.wrapping_add_signed(i64::from(*off)), said);
                    bytes.resize(bytes.len() + usize::from(*len), *fill);
                    next += 1;
                }
                Word::Acknowledgement { sequence } => {
                    say(Kind::Acknowledgement, u64::from(*sequence), 0);
                }
                Word::End => say(Kind::End, 0, 0),
                Word::Release { sequence } => say(Kind::Release, u64::from(*sequence), 0),
                Word::Retirement { number } => say(Kind::Retirement, u64::from(*number), 0),
                Word::Change { back, value } => {
                    let at = bytes.len().checked_sub(usize::from(*back) + 1);
                    if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
                        *byte = *value;
                    }
                }
            }
        }
        bytes
    }

    /// The stream of a script, after `before` that come first.
    pub(crate) fn wire(&self, before: Vec<u8>) -> ScriptWire {
        let mut says = before;
        says.extend(self.bytes());
        ScriptWire {
            says: says.into(),
            reads: self.reads.iter().copied().collect(),
            writes: self.writes.iter().copied().collect(),
            resets: self.resets,
            heard: Vec::new(),
        }
    }
}

/// A stream whose other side says what a [`Script`] does, and then closes it.
#[derive(Debug)]
pub(crate) struct ScriptWire {
    says: VecDeque<u8>,
    reads: VecDeque<Step>,
    writes: VecDeque<Step>,
    resets: bool,
    /// What it was told.
    pub(crate) heard: Vec<u8>,
}

impl ScriptWire {
    /// Bytes that were not read.
    pub(crate) fn unread(&self) -> usize {
        self.says.len()
    }
}

/// How many bytes a step lets through.
fn most(step: Option<Step>) -> io::Result<usize> {
    match step {
        Some(Step::Move(most)) => Ok(usize::from(most).max(1)),
        Some(Step::Much) => Ok(5000),
        Some(Step::Late) => Err(io::ErrorKind::TimedOut.into()),
        None => Ok(usize::MAX),
    }
}

impl Wire for ScriptWire {
    fn read(&mut self, into: Span<'_>, _deadline: Deadline) -> io::Result<usize> {
        assert!(!into.is_empty(), "nothing was asked for");
        let count = most(self.reads.pop_front())?
            .min(into.len())
            .min(self.says.len());
        if count == 0 && self.resets {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let bytes: Vec<u8> = self.says.drain(..count).collect();
        into.copy_from_slice(&bytes);
        Ok(count)
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, _deadline: Deadline) -> io::Result<usize> {
        assert!(!head.is_empty() || !body.is_empty(), "nothing was said");
        let most = most(self.writes.pop_front())?;
        if self.resets && self.says.is_empty() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let of_head = head.len().min(most);
        self.heard.extend(&head[..of_head]);
        let mut bytes = vec![0; body.len().min(most - of_head)];
        body.copy_to_slice(&mut bytes);
        self.heard.extend(&bytes);
        Ok(of_head + bytes.len())
    }
}

/// What an input makes; nothing of one that is too short.
pub(crate) fn read<'a, T: Arbitrary<'a>>(data: &'a [u8]) -> Option<T> {
    T::arbitrary_take_rest(Unstructured::new(data)).ok()
}
