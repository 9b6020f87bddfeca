//! Operations that never wait, over a stream that holds little.

use super::*;

/// One side of a conversation: what it has still to send, and what it got.
struct Side {
    link: Link,
    unsent: VecDeque<Vec<u8>>,
    sink: HostMemory,
    got: Vec<Vec<u8>>,
    source: HostMemory,
    closed: bool,
    ended: bool,
}

impl Side {
    fn new(link: Link, payloads: &[Vec<u8>]) -> Self {
        Self {
            link,
            unsent: payloads.iter().cloned().collect(),
            sink: HostMemory::new(),
            got: Vec::new(),
            source: HostMemory::from(payloads.first().cloned().unwrap_or_default()),
            closed: false,
            ended: false,
        }
    }

    fn send_some(&mut self) {
        if self.unsent.is_empty() {
            self.closed = self.link.try_close().expect("the peer is there");
            return;
        }
        let region = self.source.region();
        let payload = Payload::given(&mut self.source, region).expect("inside");
        if let Some(receipt) = self.link.try_send(payload).expect("the peer is there") {
            assert_eq!(receipt.bytes(), region.len());
            self.source.as_mut_slice().fill(0xEE);
            self.unsent.pop_front();
            self.source = HostMemory::from(self.unsent.front().cloned().unwrap_or_default());
        } else {
            let wants = self.link.wants();
            assert!(wants.read || wants.write);
        }
    }

    fn receive_some(&mut self) {
        match self.link.try_recv(&mut self.sink) {
            Ok(Some(delivery)) => {
                let bytes = self.sink.bytes(delivery.region()).expect("inside");
                self.got.push(bytes.to_vec());
            }
            Ok(None) => assert!(self.link.wants().read || self.link.wants().write),
            Err(TransferError::Closed) => self.ended = true,
            Err(error) => panic!("{error}"),
        }
    }
}

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6)
}

proptest! {
    /// In whatever order two ends that never wait take their turns, and however little the stream holds: what comes out
    /// at either is what went in at the other.
    #[test]
    fn both_directions_are_queues(
        chunk in 1_usize..100,
        capacity in 1_usize..200,
        acknowledge in any::<bool>(),
        there in payloads(),
        back in payloads(),
        turns in proptest::collection::vec(0..4_u8, 0..200),
    ) {
        let (a, b) = pair(chunk, acknowledge);
        for link in [&a, &b] {
            link.wire.writing.borrow_mut().capacity = Some(capacity);
        }
        let (mut a, mut b) = (Side::new(a, &there), Side::new(b, &back));
        let fair = (0..4).cycle().take(60_000);
        for turn in turns.into_iter().chain(fair) {
            match turn {
                0 => a.send_some(),
                1 => b.send_some(),
                2 => a.receive_some(),
                _ => b.receive_some(),
            }
            if a.ended && b.ended && a.closed && b.closed {
                break;
            }
        }
        prop_assert!(a.ended && b.ended && a.closed && b.closed, "they never come to an end");
        prop_assert_eq!(a.got, back);
        prop_assert_eq!(b.got, there);
    }
}

/// Both ends, and a payload of which the stream holds a part only.
fn half_sent() -> (Link, Link, HostMemory) {
    let (mut a, b) = pair(usize::MAX, false);
    a.wire.writing.borrow_mut().capacity = Some(HEADER_LEN + 10);
    let mut memory = HostMemory::from([7; 100]);
    let region = memory.region();
    let payload = Payload::kept(&mut memory, region).expect("inside");
    assert!(a.try_send(payload).expect("open").is_none());
    assert_eq!(a.wants(), Wants::WRITE);
    (a, b, memory)
}

#[test]
fn no_other_payload_goes_before_the_one_that_is_partly_sent() {
    let (mut a, mut b, mut memory) = half_sent();
    for region in [Region::new(0, 99), Region::new(1, 99)] {
        let payload = Payload::kept(&mut memory, region).expect("inside");
        let error = a.try_send(payload).expect_err("another payload");
        assert!(
            matches!(&error, TransferError::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput),
            "{error}"
        );
    }
    assert!(a.is_open());
    assert!(!a.try_close().expect("open"), "a payload is partly sent");
    a.wire.writing.borrow_mut().capacity = None;
    let region = memory.region();
    let payload = Payload::kept(&mut memory, region).expect("inside");
    a.send(payload, soon()).expect("the rest");
    assert!(a.try_close().expect("open"));
    assert_eq!(recv(&mut b).expect("sent"), [7; 100]);
    assert!(matches!(recv(&mut b), Err(TransferError::Closed)));
}

#[test]
fn a_payload_that_is_given_up_releases_its_place_and_breaks_the_link() {
    struct Sink(HostMemory, Vec<Region>);
    impl crate::Sink for Sink {
        fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
            self.0.reserve(len, align)
        }
        fn memory(&mut self) -> &mut dyn crate::LinearMemory {
            &mut self.0
        }
        fn release(&mut self, region: Region) {
            self.1.push(region);
        }
    }
    let (_a, mut b, _) = half_sent();
    let mut sink = Sink(HostMemory::new(), Vec::new());
    assert!(b.try_recv(&mut sink).expect("open").is_none());
    assert!(b.wants().read && sink.1.is_empty());
    b.abandon(&mut sink);
    b.abandon(&mut sink);
    assert_eq!(sink.1, [Region::new(0, 100)]);
    assert!(matches!(b.try_recv(&mut sink), Err(TransferError::Broken)));
    // With nothing begun nothing is given up.
    let (_a, mut b) = pair(usize::MAX, false);
    b.abandon(&mut sink);
    assert!(b.is_open());
}

#[test]
fn a_peer_that_takes_no_acknowledgement_gets_no_further() {
    let (mut a, mut b) = pair(usize::MAX, true);
    b.wire.writing.borrow_mut().capacity = Some(0);
    let mut received = 0;
    loop {
        a.unacknowledged.clear();
        send(&mut a, b"again").expect("room");
        let mut sink = HostMemory::new();
        match b.try_recv(&mut sink).expect("open") {
            Some(_) => received += 1,
            None => break,
        }
        assert!(received < 1000, "acknowledgements pile up");
    }
    // As many as may wait to be told, and not one more.
    assert_eq!((received, MOST_UNSAID), (512, 512 * HEADER_LEN));
    assert!(b.wants().write);
}

#[test]
fn hellos_are_said_in_as_many_steps_as_it_takes() {
    let (a, b) = pair(1, false);
    for link in [&a, &b] {
        link.wire.writing.borrow_mut().capacity = Some(1);
    }
    let (there, back) = (a.wire, b.wire);
    let mut one = Opening::connect(there, "steps", 100).expect("short");
    let mut other = Opening::accept(back, 50);
    assert!(one.wire().is_some() && other.wire().is_some());
    let (mut connected, mut accepted) = (None, None);
    for _ in 0..1000 {
        if connected.is_none() {
            connected = or_wait(one.open(Deadline::now())).expect("a hello");
        }
        if accepted.is_none() {
            accepted = or_wait(other.open(Deadline::now())).expect("a hello");
        }
    }
    let (connected, accepted) = (connected.expect("open"), accepted.expect("open"));
    assert_eq!((connected.name(), accepted.name()), ("steps", "steps"));
    assert_eq!((connected.limit(), accepted.limit()), (50, 50));
    assert!(one.wire().is_none());
    assert!(matches!(
        one.open(Deadline::now()),
        Err(TransferError::Broken)
    ));
}
