//! Whatever was done before, and however one waits: what was sent is seen.

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use proptest::prelude::*;
use roadrunner_core::testing::{pattern, receive, send, soon, CountingSink};
use roadrunner_core::{Deadline, HostMemory, Payload, Transfer, TransferError};
use roadrunner_mem::Accept;
use roadrunner_uds::{pair, Link, Options, Preference, Server, Service};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Waits a moment for what does not come: then it says that it is awake.
fn waits(link: &mut Link) {
    let heard = link.listen(Deadline::after(Duration::from_micros(1)));
    assert!(matches!(heard, Ok(false)), "{heard:?}");
}

fn is_readable(link: &Link) -> bool {
    let mut events = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
    poll(&mut events, PollTimeout::ZERO) == Ok(1)
}

#[derive(Debug, Clone)]
enum Step {
    Send(u64),
    /// The receiver says something, and the sender hears it.
    Answer(u64),
    Receive,
    TryReceive,
    /// In vain, or not.
    Listen,
    AskForTheDescriptor,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![0..200_u64, 15_000..18_000_u64, 30_000..40_000_u64];
    prop_oneof![
        4 => len.clone().prop_map(Step::Send),
        1 => len.prop_map(Step::Answer),
        2 => Just(Step::Receive),
        3 => Just(Step::TryReceive),
        1 => Just(Step::Listen),
        1 => Just(Step::AskForTheDescriptor),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// One thread, so that each step is over before the next, and nothing but the link itself can bring a payload.
    #[test]
    fn what_was_sent_is_pending_or_readable(
        steps in proptest::collection::vec(step(), 1..60),
        prefer in proptest::sample::select(vec![Preference::Auto, Preference::Write, Preference::Ring]),
        spin in proptest::sample::select(vec![0_u64, 20]),
    ) {
        let options = Options::default().prefer(prefer).spin(Duration::from_micros(spin));
        let (mut a, mut b) = pair("orders", &options).expect("a pair");
        let mut out = VecDeque::new();
        let mut watched = false;
        for (seed, step) in steps.into_iter().enumerate() {
            let seed = seed as u64;
            match step {
                // As much as there is room for, by either way.
                Step::Send(_) if out.len() == 4 => {}
                Step::Send(len) => {
                    send(&mut a, &pattern(len, seed), soon()).expect("room");
                    out.push_back((len, seed));
                    // Also for who asked only once, and waits for the change.
                    prop_assert!(!watched || is_readable(&b), "nobody is told of it");
                }
                Step::Answer(len) => {
                    send(&mut b, &pattern(len, seed), soon()).expect("room");
                    prop_assert!(receive(&mut a).expect("answered").0 == pattern(len, seed));
                }
                Step::Receive => match out.pop_front() {
                    Some((len, seed)) => {
                        prop_assert!(receive(&mut b).expect("sent").0 == pattern(len, seed));
                    }
                    None => {
                        let at_once = Deadline::after(Duration::from_micros(1));
                        let error = b.recv(&mut CountingSink::default(), at_once);
                        prop_assert!(matches!(error, Err(TransferError::Timeout)), "{:?}", error);
                    }
                },
                Step::TryReceive => {
                    let mut memory = HostMemory::new();
                    let got = b.try_recv(&mut memory).expect("open");
                    let bytes = got.map(|one| memory.bytes(one.region()).expect("inside").to_vec());
                    let expected = out.pop_front().map(|(len, seed)| pattern(len, seed));
                    prop_assert!(bytes == expected, "{:?} bytes came", bytes.map(|bytes| bytes.len()));
                    if expected.is_none() {
                        // Else an event loop would turn without end.
                        prop_assert!(!b.has_pending());
                        prop_assert!(!watched || !is_readable(&b));
                    }
                }
                Step::Listen if out.is_empty() => waits(&mut b),
                Step::Listen => {}
                Step::AskForTheDescriptor => {
                    let _ = b.as_fd();
                    watched = true;
                }
            }
            if watched && !out.is_empty() {
                prop_assert!(b.has_pending() || is_readable(&b), "it is forgotten");
            }
        }
    }
}

/// Links that are there already.
struct Ready {
    links: Vec<Link>,
    /// Readable.
    socket: UnixStream,
    _other: UnixStream,
}

impl Ready {
    fn new(links: Vec<Link>) -> Self {
        let (socket, other) = UnixStream::pair().expect("sockets");
        send_byte(&other);
        Self {
            links,
            socket,
            _other: other,
        }
    }
}

fn send_byte(mut socket: &UnixStream) {
    std::io::Write::write_all(&mut socket, &[0]).expect("room");
}

impl AsFd for Ready {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Accept for Ready {
    type Link = Link;

    fn try_accept(&mut self) -> Result<Option<Link>, TransferError> {
        Ok(self.links.pop())
    }
}

/// Says again what it hears, one at a time.
struct Echo;

impl Service<Link> for Echo {
    type Session = ();

    fn opened(&self, _link: &Link) -> Option<()> {
        Some(())
    }

    fn ready(&self, (): &mut (), link: &mut Link) -> Result<(), TransferError> {
        let mut memory = HostMemory::new();
        if let Some(delivery) = link.try_recv(&mut memory)? {
            let payload = Payload::kept(&mut memory, delivery.region())?;
            assert!(link.try_send(payload)?.is_some(), "there is room");
        }
        Ok(())
    }
}

#[test]
fn a_server_serves_what_lay_in_a_ring_before_it_watched_the_link() {
    for frames in [1, 2, 5] {
        let (mut a, mut b) = pair("early", &Options::default()).expect("a pair");
        waits(&mut b);
        for seed in 0..frames {
            send(&mut a, &pattern(100, seed), soon()).expect("room");
        }
        assert!(b.has_pending(), "it went through the socket");
        let server = Server::start(Ready::new(vec![b]), 1, Echo).expect("a thread");
        for seed in 0..frames {
            assert!(receive(&mut a).expect("answered").0 == pattern(100, seed));
        }
        drop(server);
    }
}
