//! Both ends of a ring in one thread, and a peer that writes what it likes.

use super::*;
use proptest::prelude::*;
use roadrunner_mem::Segment;
use std::collections::VecDeque;

const LOG: u32 = 12;

fn both() -> (Ring, Ring, Shared) {
    let segment = Segment::new(Ring::len(LOG)).expect("a segment");
    let map = || Shared::map(&segment).expect("mapped");
    let one = Ring::start(map(), LOG);
    let other = Ring::join(map(), LOG).expect("started");
    (one, other, map())
}

fn put(ring: &mut Ring, position: u64, bytes: &[u8]) -> bool {
    if ring.room(bytes.len()).expect("no garbage") < bytes.len() {
        return false;
    }
    let (head, body) = bytes.split_at(bytes.len() / 3);
    let mut body = body.to_vec();
    ring.put(position, head, Span::from_slice(&mut body));
    true
}

fn read(ring: &mut Ring, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; most];
    let count = ring.read(Span::from_slice(&mut bytes));
    bytes.truncate(count);
    bytes
}

#[test]
fn a_ring_that_is_none_or_of_another_version_is_refused() {
    let (_, _, words) = both();
    let good = words.word(0).load(Ordering::Relaxed);
    let again = |value| {
        let segment = Segment::new(Ring::len(LOG)).expect("a segment");
        let shared = Shared::map(&segment).expect("mapped");
        shared.word(0).store(value, Ordering::Relaxed);
        Ring::join(shared, LOG).map(drop)
    };
    assert_eq!(again(good), Ok(()));
    let other = good ^ (VERSION as u64 ^ 9) << VERSION_AT;
    assert_eq!(again(other), Err(FrameError::Version(9)));
    for bit in 0..VERSION_AT {
        let error = again(good ^ 1 << bit).expect_err("none");
        assert!(matches!(error, FrameError::Unexpected(_)), "bit {bit}");
    }
}

#[test]
fn a_receiver_takes_out_whole_lines_or_lies() {
    let (mut ring, _, words) = both();
    while put(&mut ring, 0, &[1; 1000]) {}
    let head = words.word(ring.ours.head);
    for line in (0..ring.put).step_by(LINE) {
        for beside in 1..LINE as u64 {
            head.store(line + beside, Ordering::Relaxed);
            let error = ring.room(1 << LOG).expect_err("it took out a part");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
    head.store(LINE as u64, Ordering::Relaxed);
    assert!(put(&mut ring, 0, &[2; LINE - HEAD_LEN]) && !put(&mut ring, 0, b"3"));
}

/// What a sender and a receiver do, in as many steps as others can see.
struct Sleepers {
    sender: Ring,
    receiver: Ring,
    /// Entries that are to be sent, and that were received.
    to_send: u64,
    got: u64,
    /// The sender has put an entry in, and not looked yet whether to wake.
    looks: bool,
    /// The receiver has said that it sleeps, and waits for a byte.
    said: bool,
    waits: bool,
    bytes: u64,
}

impl Sleepers {
    fn send(&mut self) -> bool {
        if std::mem::take(&mut self.looks) {
            if self.sender.must_wake() {
                self.sender.wakes();
                self.bytes += 1;
            }
        } else if self.to_send > 0 {
            let position = self.sender.put;
            assert!(put(&mut self.sender, position / 64, b"x"));
            self.to_send -= 1;
            self.looks = true;
        } else {
            return false;
        }
        true
    }

    fn receive(&mut self) -> bool {
        if self.waits {
            if self.bytes == 0 {
                return false;
            }
            // Whoever is woken looks again.
            self.waits = false;
        } else if std::mem::take(&mut self.said) {
            self.waits = !self.receiver.has_something();
        } else {
            match self.receiver.next(self.got).expect("no garbage") {
                Next::Ring => {
                    assert_eq!(read(&mut self.receiver, 9), b"x");
                    self.got += 1;
                }
                Next::Open(wakes) if wakes > 0 && self.bytes > 0 => {
                    self.bytes -= 1;
                    self.receiver.drained(1);
                }
                _ => {
                    self.receiver.sleep();
                    self.said = true;
                }
            }
        }
        true
    }
}

#[test]
fn no_wake_is_lost() {
    const STEPS: u32 = 12;
    for order in 0_u32..1 << STEPS {
        let (sender, receiver, _) = both();
        let mut both = Sleepers {
            sender,
            receiver,
            to_send: 2,
            got: 0,
            looks: false,
            said: false,
            waits: false,
            bytes: 0,
        };
        for step in 0..STEPS {
            match order >> step & 1 {
                0 => both.send(),
                _ => both.receive(),
            };
        }
        while both.send() {}
        while both.got < 2 {
            assert!(both.receive(), "{order:b}: it sleeps for ever");
        }
    }
}

#[test]
fn a_peer_is_woken_once_for_each_sleep_and_not_at_all_while_it_is_awake() {
    let (mut sender, mut receiver, _) = both();
    receiver.be(State::Awake);
    assert!(put(&mut sender, 0, b"1") && !sender.must_wake());
    receiver.sleep();
    assert!(receiver.has_something());
    assert!(sender.must_wake());
    sender.wakes();
    assert!(put(&mut sender, 1, b"2") && !sender.must_wake());
    for position in 0..2 {
        assert_eq!(receiver.next(position).expect("no garbage"), Next::Ring);
        read(&mut receiver, 9);
    }
    assert_eq!(receiver.next(2).expect("no garbage"), Next::Open(1));
    receiver.drained(1);
    receiver.sleep();
    assert!(!receiver.has_something());
    assert!(put(&mut sender, 2, b"3") && sender.must_wake());
}

#[test]
fn what_comes_by_the_socket_comes_in_its_turn() {
    let (mut sender, mut receiver, _) = both();
    assert!(put(&mut sender, 10, b"behind ten bytes"));
    assert_eq!(receiver.next(0).expect("no garbage"), Next::Socket(0));
    assert_eq!(receiver.next(9).expect("no garbage"), Next::Socket(0));
    assert_eq!(receiver.next(10).expect("no garbage"), Next::Ring);
    assert_eq!(read(&mut receiver, 99), b"behind ten bytes");
    sender.wakes();
    assert!(put(&mut sender, 30, b"more"));
    assert_eq!(receiver.next(26).expect("no garbage"), Next::Socket(1));
    receiver.drained(1);
    assert_eq!(receiver.next(30).expect("no garbage"), Next::Ring);
    read(&mut receiver, 1);
    assert!(receiver.has_something());
    // An open entry goes on, wherever that is.
    assert_eq!(receiver.next(31).expect("no garbage"), Next::Ring);
    assert_eq!(read(&mut receiver, 99), b"ore");
    assert!(put(&mut sender, 33, b"again"));
    let error = receiver.next(34).expect_err("it was there already");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

proptest! {
    /// In both directions, with as many or as few bytes at a time as there is room for.
    #[test]
    fn a_ring_is_a_queue_of_bytes(
        steps in proptest::collection::vec((any::<bool>(), any::<bool>(), 1..5000_usize), 0..200)
    ) {
        let (one, other, _) = both();
        let mut ends = [one, other];
        let mut queues = [VecDeque::new(), VecDeque::new()];
        let (mut written, mut got) = ([0_u64; 2], [0_u64; 2]);
        for (first, sends, len) in steps {
            let lane = usize::from(first);
            if sends {
                let bytes: Vec<u8> = (0..len).map(|at| (at as u64 + written[lane]) as u8).collect();
                if put(&mut ends[lane], written[lane], &bytes) {
                    written[lane] += len as u64;
                    queues[lane].extend(bytes);
                } else {
                    prop_assert!(len > 100 || !queues[lane].is_empty(), "there was room");
                }
            } else if ends[1 - lane].next(got[lane]).expect("no garbage") == Next::Ring {
                let bytes = read(&mut ends[1 - lane], len);
                prop_assert!(!bytes.is_empty());
                let expected: Vec<u8> = queues[lane].drain(..bytes.len()).collect();
                prop_assert_eq!(&bytes, &expected);
                got[lane] += bytes.len() as u64;
            } else {
                prop_assert!(queues[lane].is_empty(), "something is hidden");
            }
        }
    }

    /// The peer writes words and bytes at any moment.
    #[test]
    fn garbage_is_an_error_or_other_bytes(
        steps in proptest::collection::vec(
            (0..4_usize, any::<proptest::sample::Index>(), prop_oneof![any::<u64>(), 0..9000_u64], 1..5000_usize),
            0..60
        )
    ) {
        let (mut ring, _, words) = both();
        let mut position = 0;
        for (what, at, value, len) in steps {
            match what {
                0 => {
                    // Every second time a word of the lanes, which are more interesting than their bytes.
                    let places = if value % 2 == 0 { PAGE_SIZE / 8 } else { Ring::len(LOG) / 8 };
                    words.word(at.index(places) * 8).store(value, Ordering::Relaxed);
                }
                1 => match ring.next(position) {
                    Ok(Next::Ring) => {
                        let bytes = read(&mut ring, len);
                        prop_assert!(!bytes.is_empty() && bytes.len() < 1 << LOG);
                        position += bytes.len() as u64;
                    }
                    Ok(Next::Open(wakes) | Next::Socket(wakes)) => prop_assert!(wakes <= MOST_WAKES),
                    Err(error) => prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData),
                },
                2 => match ring.room(len) {
                    Ok(room) => {
                        prop_assert!(room < 1 << LOG);
                        if room >= len {
                            ring.put(0, &vec![7; len], Span::empty());
                        }
                    }
                    Err(error) => prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData),
                },
                _ => {
                    ring.must_wake();
                    ring.peer();
                    ring.sleep();
                }
            }
        }
    }
}
