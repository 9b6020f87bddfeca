//! Operations on both ends of a link, compared with a queue.

use crate::script::read;
use crate::shelf::Shelf;
use arbitrary::Arbitrary;
use roadrunner_core::stream::{Opening, Wire};
use roadrunner_core::testing::{fill, Fixture, Memory};
use roadrunner_core::{
    Deadline, Method, Payload, Region, Span, Transfer, TransferError, DEFAULT_LIMIT,
};
use roadrunner_mem::{PageBuffer, Policy, PAGE_SIZE};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

#[derive(Debug, Arbitrary)]
struct Input {
    kind: Kind,
    operations: Vec<(bool, Operation)>,
}

#[derive(Debug, Arbitrary)]
enum Kind {
    Reference,
    Mem {
        force: Force,
        trusted: bool,
        inline: u16,
        messages: u8,
        bytes: u16,
    },
    Stream {
        cuts: Vec<u8>,
    },
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Force {
    Nothing,
    Copy,
    Exchange,
}

/// At the end that the flag beside it says.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Operation {
    Send {
        offset: u16,
        len: u16,
        given: bool,
        fill: u8,
    },
    Receive,
    Close,
    Leave,
}

/// Operations of one input at most.
const MOST: usize = 200;
/// Bytes of the memory of either end.
const ROOM: u64 = 16 * PAGE_SIZE as u64;
/// Bytes of the longest payload that is received.
const LONGEST: u64 = u16::MAX as u64;

pub(crate) fn run(data: &[u8]) {
    let Some(input) = read::<Input>(data) else {
        return;
    };
    match input.kind {
        Kind::Reference => {
            let (a, b) = Memory::default().open(DEFAULT_LIMIT);
            Pair::new(a, b, true).run(&input.operations);
        }
        Kind::Mem {
            force,
            trusted,
            inline,
            messages,
            bytes,
        } => {
            let mut policy = Policy::default();
            policy.force = match force {
                Force::Nothing => None,
                Force::Copy => Some(Method::Copy),
                Force::Exchange => Some(Method::Exchange),
            };
            policy.trusted = trusted;
            policy.inline = inline.into();
            policy.exchange = 1;
            policy.messages = usize::from(messages).max(1);
            policy.bytes = bytes.into();
            let (a, b) = roadrunner_mem::link(policy);
            // What is neither copied into the queue nor exchanged waits for the receiver, and here nobody comes.
            Pair::new(a, b, false).run(&input.operations);
        }
        Kind::Stream { cuts } => {
            let (a, b) = pipes(&cuts);
            // Either end says hello before it hears the other.
            let mut opening = Opening::connect(a, "fuzz", DEFAULT_LIMIT).expect("a short name");
            let mut other = Opening::accept(b, DEFAULT_LIMIT);
            let first = opening.open(Deadline::now());
            assert!(
                matches!(first, Err(TransferError::Timeout)),
                "without an answer"
            );
            let b = other.open(Deadline::now()).expect("a hello");
            let a = opening.open(Deadline::now()).expect("a hello");
            Pair::new(a, b, true).run(&input.operations);
        }
    }
}

/// Both ends, and what must be on its way from each.
struct Pair<L> {
    ends: [Option<L>; 2],
    memories: [PageBuffer; 2],
    on_the_way: [VecDeque<Vec<u8>>; 2],
    closed: [bool; 2],
    /// Whether a send that has room never waits.
    never_waits: bool,
}

impl<L: Transfer> Pair<L> {
    fn new(a: L, b: L, never_waits: bool) -> Self {
        let memory = || PageBuffer::new((ROOM + LONGEST) as usize).expect("memory");
        Self {
            ends: [Some(a), Some(b)],
            memories: [memory(), memory()],
            on_the_way: Default::default(),
            closed: [false; 2],
            never_waits,
        }
    }

    fn run(mut self, operations: &[(bool, Operation)]) {
        for (end, operation) in operations.iter().take(MOST) {
            let end = usize::from(*end);
            match operation {
                Operation::Send {
                    offset,
                    len,
                    given,
                    fill,
                } => {
                    self.send(end, (*offset, *len), *given, *fill);
                }
                Operation::Receive => {
                    self.receive(end);
                }
                Operation::Close => self.close(end),
                Operation::Leave => self.ends[end] = None,
            }
        }
        // All that was sent arrives, as it was.
        for end in [0, 1] {
            while self.receive(end) {}
        }
    }

    fn send(&mut self, end: usize, (offset, len): (u16, u16), given: bool, byte: u8) {
        let peer_is_there = self.ends[1 - end].is_some();
        let Some(link) = &mut self.ends[end] else {
            return;
        };
        let was_open = link.is_open();
        let memory = &mut self.memories[end];
        let region = Region::new(u64::from(offset) % ROOM, len.into());
        let bytes: Vec<u8> = (0..len)
            .map(|at| byte.wrapping_add((at % 251) as u8))
            .collect();
        fill(memory, region.offset(), &bytes);
        let payload = if given {
            Payload::given(memory, region)
        } else {
            Payload::kept(memory, region)
        };
        let sent = link.send(payload.expect("inside"), Deadline::now());
        match sent {
            Ok(receipt) => {
                assert!(was_open && !self.closed[end], "sent by an end that cannot");
                assert_eq!(receipt.bytes(), u64::from(len));
                self.on_the_way[end].push_back(bytes);
            }
            Err(error) => {
                match &error {
                    TransferError::Timeout => assert!(!self.never_waits, "it waits for nothing"),
                    TransferError::Closed => assert!(self.closed[end]),
                    TransferError::Broken => assert!(!was_open),
                    TransferError::PeerClosed => assert!(!peer_is_there && !link.is_open()),
                    other => panic!("{other}"),
                }
                if link.is_open() {
                    let mut there = vec![0; bytes.len()];
                    region
                        .span(memory)
                        .expect("inside")
                        .copy_to_slice(&mut there);
                    assert!(there == bytes, "not sent, and not where it was");
                }
            }
        }
        // Rule 2, and nobody's old bytes are in it.
        fill(memory, region.offset(), &vec![0xEE; usize::from(len)]);
    }

    /// Whether there was something.
    fn receive(&mut self, end: usize) -> bool {
        let peer = 1 - end;
        let peer_is_there = self.ends[peer].is_some();
        let Some(link) = &mut self.ends[end] else {
            return false;
        };
        let was_open = link.is_open();
        let mut shelf = Shelf::new(LONGEST);
        match link.recv(&mut shelf, Deadline::now()) {
            Ok(delivery) => {
                let expected = self.on_the_way[peer].pop_front();
                let bytes = shelf.received(delivery.region());
                assert!(
                    Some(&bytes) == expected.as_ref(),
                    "other bytes than were sent"
                );
                return true;
            }
            Err(error) => {
                shelf.check_empty();
                match error {
                    TransferError::Broken => {
                        assert!(!was_open);
                        return false;
                    }
                    TransferError::Timeout => assert!(peer_is_there && !self.closed[peer]),
                    TransferError::Closed => assert!(self.closed[peer]),
                    TransferError::PeerClosed => {
                        assert!(!peer_is_there && !self.closed[peer] && !link.is_open());
                    }
                    other => panic!("{other}"),
                }
            }
        }
        assert!(self.on_the_way[peer].is_empty(), "something was sent");
        false
    }

    fn close(&mut self, end: usize) {
        let Some(link) = &mut self.ends[end] else {
            return;
        };
        let was_open = link.is_open();
        match link.close(Deadline::now()) {
            Ok(()) => {
                assert!(was_open);
                self.closed[end] = true;
            }
            Err(TransferError::Broken) => assert!(!was_open),
            Err(TransferError::PeerClosed) => assert!(self.ends[1 - end].is_none()),
            Err(other) => panic!("{other}"),
        }
    }
}

/// One direction of a stream in memory.
#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    ended: bool,
}

/// An end of a stream in memory.
#[derive(Debug)]
struct PipeWire {
    from: Rc<RefCell<Pipe>>,
    to: Rc<RefCell<Pipe>>,
    /// How many bytes go at once, in turn.
    cuts: Vec<u8>,
    turn: usize,
}

fn pipes(cuts: &[u8]) -> (PipeWire, PipeWire) {
    let [one, other] = [(); 2].map(|()| Rc::new(RefCell::new(Pipe::default())));
    let end = |from: &Rc<RefCell<Pipe>>, to: &Rc<RefCell<Pipe>>| PipeWire {
        from: from.clone(),
        to: to.clone(),
        cuts: cuts.to_vec(),
        turn: 0,
    };
    (end(&one, &other), end(&other, &one))
}

impl PipeWire {
    fn most(&mut self) -> usize {
        self.turn += 1;
        match self.cuts.get(self.turn % self.cuts.len().max(1)) {
            Some(cut) if *cut < 250 => usize::from(*cut).max(1),
            _ => usize::MAX,
        }
    }
}

impl Wire for PipeWire {
    fn read(&mut self, into: Span<'_>, _deadline: Deadline) -> io::Result<usize> {
        let most = self.most();
        let mut from = self.from.borrow_mut();
        let count = most.min(into.len()).min(from.bytes.len());
        if count == 0 && !from.ended {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let bytes: Vec<u8> = from.bytes.drain(..count).collect();
        Ok(into.copy_from_slice(&bytes))
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, _deadline: Deadline) -> io::Result<usize> {
        if Rc::strong_count(&self.to) < 2 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let most = self.most();
        let mut bytes = vec![0; body.len()];
        body.copy_to_slice(&mut bytes);
        let bytes = [head, &bytes].concat();
        let count = most.min(bytes.len());
        self.to.borrow_mut().bytes.extend(&bytes[..count]);
        Ok(count)
    }
}

impl Drop for PipeWire {
    fn drop(&mut self) {
        self.to.borrow_mut().ended = true;
    }
}
