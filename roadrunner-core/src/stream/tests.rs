//! The state machine over a pair of in-memory pipes that deliver as little, or as wrongly, as a test wants.

mod trying;
mod waiting;
mod wires;

use super::*;
use crate::frame::{FrameError, HEADER_LEN};
use crate::memory::HostMemory;
use crate::receipt::Method;
use crate::region::Region;
use crate::DEFAULT_LIMIT;
use proptest::prelude::*;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// One direction: bytes on their way, and whether the writer is gone.
#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    ended: bool,
    /// Bytes that still get through before the writer dies.
    life: Option<usize>,
    /// Bytes that it holds at most.
    capacity: Option<usize>,
}

/// Never waits: what cannot be done at once has timed out.
#[derive(Debug)]
struct TestWire {
    reading: Rc<RefCell<Pipe>>,
    writing: Rc<RefCell<Pipe>>,
    chunk: usize,
    acknowledge: bool,
    /// Frames that are due.
    due: Vec<u8>,
}

impl Wire for TestWire {
    fn read(&mut self, into: Span<'_>, _deadline: Deadline) -> io::Result<usize> {
        let mut pipe = self.reading.borrow_mut();
        let count = into.len().min(self.chunk).min(pipe.bytes.len());
        if count == 0 {
            return if pipe.ended {
                Ok(0)
            } else {
                Err(io::ErrorKind::TimedOut.into())
            };
        }
        let bytes: Vec<u8> = pipe.bytes.drain(..count).collect();
        Ok(into.copy_from_slice(&bytes))
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, _deadline: Deadline) -> io::Result<usize> {
        let mut all = head.to_vec();
        let mut tail = vec![0; body.len()];
        body.copy_to_slice(&mut tail);
        all.extend(tail);
        let mut pipe = self.writing.borrow_mut();
        let mut count = all.len().min(self.chunk);
        if let Some(life) = &mut pipe.life {
            if *life == 0 {
                pipe.ended = true;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            count = count.min(*life);
            *life -= count;
        }
        if let Some(capacity) = pipe.capacity {
            count = count.min(capacity.saturating_sub(pipe.bytes.len()));
            if count == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        pipe.bytes.extend(&all[..count]);
        Ok(count)
    }

    fn carry(
        &mut self,
        start: Start,
        payload: &mut Payload<'_>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Carried, TransferError> {
        let carried = Carried {
            method: Method::Write,
            copies: 1,
            acknowledge: self.acknowledge,
        };
        write_all(
            self,
            &start.header(carried),
            payload.span()?,
            sent,
            deadline,
        )?;
        Ok(carried)
    }

    fn due(&mut self, unsaid: &mut Vec<u8>) {
        unsaid.append(&mut self.due);
    }
}

impl Drop for TestWire {
    fn drop(&mut self) {
        self.writing.borrow_mut().ended = true;
    }
}

type Link = StreamLink<TestWire>;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

/// Two ends, past their hellos.
fn pair(chunk: usize, acknowledge: bool) -> (Link, Link) {
    let (there, back) = <(Rc<RefCell<Pipe>>, Rc<RefCell<Pipe>>)>::default();
    let wire = |reading: &Rc<RefCell<Pipe>>, writing: &Rc<RefCell<Pipe>>| TestWire {
        reading: reading.clone(),
        writing: writing.clone(),
        chunk,
        acknowledge,
        due: Vec::new(),
    };
    let a = wire(&back, &there);
    let b = wire(&there, &back);
    (
        Link::fresh(a, "a-b".to_owned(), DEFAULT_LIMIT),
        Link::fresh(b, "a-b".to_owned(), DEFAULT_LIMIT),
    )
}

fn send(link: &mut Link, bytes: &[u8]) -> Result<Receipt, TransferError> {
    let mut memory = HostMemory::from(bytes.to_vec());
    let region = memory.region();
    link.send(Payload::kept(&mut memory, region)?, soon())
}

fn recv(link: &mut Link) -> Result<Vec<u8>, TransferError> {
    let mut memory = HostMemory::new();
    let delivery = link.recv(&mut memory, soon())?;
    Ok(memory.bytes(delivery.region()).expect("inside").to_vec())
}

#[derive(Debug, Clone)]
enum Operation {
    Send(Vec<u8>),
    Recv,
}

proptest! {
    /// What comes out is what went in, in order, whatever the stream's chunks are and whether or not there are
    /// acknowledgements; and `send` refuses, in time and unbroken, to go beyond the window.
    #[test]
    fn a_link_is_a_queue(
        chunk in 1_usize..40,
        acknowledge in any::<bool>(),
        operations in proptest::collection::vec(
            prop_oneof![any::<Vec<u8>>().prop_map(Operation::Send), Just(Operation::Recv)], 0..30)
    ) {
        let (mut a, mut b) = pair(chunk, acknowledge);
        let mut model = VecDeque::new();
        for operation in operations {
            match operation {
                Operation::Send(bytes) => match send(&mut a, &bytes) {
                    Ok(receipt) => {
                        prop_assert_eq!(receipt.bytes(), bytes.len() as u64);
                        model.push_back(bytes);
                    }
                    Err(TransferError::Timeout) => prop_assert!(acknowledge && !model.is_empty()),
                    Err(other) => prop_assert!(false, "{}", other),
                },
                Operation::Recv => match (recv(&mut b), model.pop_front()) {
                    (Ok(bytes), Some(expected)) => prop_assert_eq!(bytes, expected),
                    (Err(TransferError::Timeout), None) => {}
                    (got, expected) => prop_assert!(false, "{:?} instead of {:?}", got, expected),
                },
            }
            prop_assert!(a.is_open() && b.is_open());
        }
        prop_assert_eq!(a.close(soon()).is_ok(), !acknowledge || model.is_empty());
        for expected in model {
            prop_assert_eq!(recv(&mut b).expect("sent"), expected);
        }
        a.close(soon()).expect("all received");
        prop_assert!(matches!(recv(&mut b), Err(TransferError::Closed)));
    }

    #[test]
    fn arbitrary_bytes_from_the_peer_are_an_error(bytes in any::<Vec<u8>>(), framed in any::<bool>()) {
        let (a, mut b) = pair(7, false);
        if framed {
            a.wire.writing.borrow_mut().bytes.extend(b"RR\x01\x02\x07\x01\x00\x00");
        }
        a.wire.writing.borrow_mut().bytes.extend(&bytes);
        drop(a);
        // Ends: every call takes bytes away or finds the end.
        while recv(&mut b).is_ok() {}
        prop_assert!(!b.is_open() || b.got_end);
    }
}

#[test]
fn the_peers_death_at_every_byte_shows_nothing_of_the_payload() {
    let payload = [9_u8; 50];
    let whole = HEADER_LEN + payload.len();
    for life in 0..whole {
        let (mut a, mut b) = pair(usize::MAX, false);
        a.wire.writing.borrow_mut().life = Some(life);
        assert!(
            matches!(send(&mut a, &payload), Err(TransferError::PeerClosed)),
            "{life}"
        );
        assert!(!a.is_open(), "{life}");
        let mut memory = HostMemory::new();
        let error = b.recv(&mut memory, soon()).expect_err("cut");
        match error {
            TransferError::PeerClosed => assert_eq!(life, 0),
            TransferError::Truncated { got, .. } => assert_eq!(got, life as u64),
            other => panic!("{life}: {other}"),
        }
        assert!(memory.as_slice().is_empty(), "released, not shown");
        assert!(!b.is_open());
        assert!(matches!(recv(&mut b), Err(TransferError::Broken)));
    }
}

#[test]
fn a_deadline_between_two_payloads_leaves_the_link_open() {
    let (mut a, mut b) = pair(5, false);
    assert!(matches!(recv(&mut b), Err(TransferError::Timeout)));
    // Half a header, then the rest.
    let frame = {
        send(&mut a, b"late").expect("room");
        std::mem::take(&mut a.wire.writing.borrow_mut().bytes)
    };
    let (first, rest): (Vec<u8>, Vec<u8>) = (
        frame.iter().copied().take(11).collect(),
        frame.iter().copied().skip(11).collect(),
    );
    a.wire.writing.borrow_mut().bytes.extend(first);
    assert!(matches!(recv(&mut b), Err(TransferError::Timeout)));
    assert!(b.is_open());
    a.wire.writing.borrow_mut().bytes.extend(rest);
    assert_eq!(recv(&mut b).expect("whole"), b"late");
}

#[test]
fn a_deadline_in_mid_payload_breaks_the_link_and_releases_the_destination() {
    let (mut a, mut b) = pair(usize::MAX, false);
    send(&mut a, &[1; 100]).expect("room");
    a.wire.writing.borrow_mut().bytes.truncate(HEADER_LEN + 10);
    let mut memory = HostMemory::new();
    assert!(matches!(
        b.recv(&mut memory, soon()),
        Err(TransferError::Timeout)
    ));
    assert!(memory.as_slice().is_empty() && !b.is_open());
}

#[test]
fn a_length_beyond_the_limit_reserves_nothing() {
    struct Never;
    impl Sink for Never {
        fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
            panic!("asked for {len} bytes");
        }
        fn memory(&mut self) -> &mut dyn crate::LinearMemory {
            unreachable!()
        }
        fn release(&mut self, _region: Region) {}
    }
    let (mut a, mut b) = pair(usize::MAX, false);
    a.limit = u64::MAX;
    b.limit = 9;
    send(&mut a, &[0; 10]).expect("the sender's own limit");
    assert!(matches!(
        b.recv(&mut Never, soon()),
        Err(TransferError::TooLarge { len: 10, limit: 9 })
    ));
}

#[test]
fn a_sink_that_reserves_elsewhere_or_less_is_an_error() {
    struct Lying(HostMemory, Region, u32);
    impl Sink for Lying {
        fn reserve(&mut self, _len: u64, _align: u64) -> Result<Region, TransferError> {
            Ok(self.1)
        }
        fn memory(&mut self) -> &mut dyn crate::LinearMemory {
            &mut self.0
        }
        fn release(&mut self, region: Region) {
            assert_eq!(region, self.1);
            self.2 += 1;
        }
    }
    for region in [
        Region::new(95, 10),
        Region::new(u64::MAX, 10),
        Region::new(0, 9),
        Region::new(0, 11),
    ] {
        let (mut a, mut b) = pair(usize::MAX, false);
        send(&mut a, &[0; 10]).expect("room");
        let mut sink = Lying(HostMemory::from([0; 100]), region, 0);
        let error = b.recv(&mut sink, soon()).expect_err("a lie");
        assert!(
            matches!(
                error,
                TransferError::OutOfBounds { .. } | TransferError::NoRoom { .. }
            ),
            "{error}"
        );
        assert_eq!((sink.2, b.is_open()), (1, false));
    }
}

#[test]
fn a_peer_that_cannot_be_told_of_its_payload_is_seen_as_gone() {
    for closed in [false, true] {
        let (mut a, mut b) = pair(usize::MAX, true);
        send(&mut a, b"last words").expect("room");
        if closed {
            // It does not wait for the acknowledgement.
            assert!(matches!(a.close(soon()), Err(TransferError::Timeout)));
        }
        b.wire.writing.borrow_mut().life = Some(0);
        drop(a);
        assert_eq!(recv(&mut b).expect("sent"), b"last words");
        let end = recv(&mut b);
        if closed {
            assert!(matches!(end, Err(TransferError::Closed)), "{end:?}");
        } else {
            assert!(matches!(end, Err(TransferError::PeerClosed)), "{end:?}");
        }
    }
}

#[test]
fn an_acknowledgement_behind_a_payload_holds_nobody_up() {
    let (mut a, mut b) = pair(usize::MAX, true);
    send(&mut a, b"question").expect("room");
    send(&mut b, b"crossing").expect("room");
    assert_eq!(recv(&mut b).expect("sent"), b"question");
    send(&mut a, b"another").expect("the first one has been received");
    assert_eq!(recv(&mut a).expect("sent"), b"crossing");
    assert_eq!(recv(&mut b).expect("sent"), b"another");
}

#[test]
fn an_acknowledgement_of_nothing_is_refused() {
    let (mut a, mut b) = pair(usize::MAX, true);
    send(&mut a, b"one").expect("room");
    recv(&mut b).expect("sent");
    let acknowledgement = Header {
        kind: Kind::Acknowledgement,
        sequence: 7,
        length: 0,
    };
    b.wire.writing.borrow_mut().bytes.clear();
    b.wire
        .write(&acknowledgement.encode(), Span::empty(), soon())
        .expect("room");
    assert!(matches!(
        send(&mut a, b"two"),
        Err(TransferError::Protocol(FrameError::Unexpected(_)))
    ));
    assert!(!a.is_open());
}

#[test]
fn nothing_is_sent_after_close_but_the_peer_may_still_answer() {
    let (mut a, mut b) = pair(3, true);
    send(&mut a, b"ask").expect("room");
    assert!(
        matches!(a.close(soon()), Err(TransferError::Timeout)),
        "not acknowledged yet"
    );
    assert!(matches!(send(&mut a, b"more"), Err(TransferError::Closed)));
    assert_eq!(recv(&mut b).expect("sent"), b"ask");
    a.close(soon()).expect("acknowledged");
    a.close(soon()).expect("closing twice");
    send(&mut b, b"answer").expect("open");
    assert_eq!(recv(&mut a).expect("sent"), b"answer");
    assert!(matches!(recv(&mut b), Err(TransferError::Closed)));
}
