//! A sender and a receiver in one thread, their steps in every order. What they do is what [`Socket`] does, cut where the
//! other process can see something or be seen.

use super::*;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use roadrunner_mem::Segment;

const LOG: u32 = 12;

fn both() -> [Socket; 2] {
    let (a, b) = UnixStream::pair().expect("sockets");
    let segment = Segment::new(Ring::len(LOG)).expect("a segment");
    let map = || sys::Shared::map(&segment).expect("mapped");
    let mut ends = [a, b].map(|stream| {
        stream.set_nonblocking(true).expect("a socket");
        Socket::new(stream, Duration::from_micros(50))
    });
    ends[0].add(Ring::start(map(), LOG));
    ends[1].add(Ring::join(map(), LOG).expect("started"));
    ends
}

fn ring(socket: &mut Socket) -> &mut Ring {
    socket.ring.as_mut().expect("added")
}

/// Sends the bytes 0, 1, …, each a frame of its own.
struct Sender {
    socket: Socket,
    next: u8,
    end: u8,
    then: Sends,
}

#[derive(Clone, Copy)]
enum Sends {
    Choose,
    Write,
    Put,
    Look,
    Wake,
}

impl Sender {
    /// Whether there was something to do.
    fn step(&mut self) -> bool {
        let position = self.socket.written;
        self.then = match self.then {
            Sends::Choose if self.next == self.end => return false,
            Sends::Choose => match self.socket.fits(1).expect("no garbage") {
                true => Sends::Put,
                false => Sends::Write,
            },
            Sends::Write => {
                let sent = sys::send(self.socket.as_fd(), &[self.next], Span::empty(), None);
                assert_eq!(sent.expect("room"), 1);
                self.sent(Sends::Choose)
            }
            Sends::Put => {
                let byte = [self.next];
                ring(&mut self.socket).put(position, &byte, Span::empty());
                self.sent(Sends::Look)
            }
            Sends::Look if ring(&mut self.socket).must_wake() => Sends::Wake,
            Sends::Look => Sends::Choose,
            Sends::Wake => {
                self.socket.wake().expect("room");
                Sends::Choose
            }
        };
        true
    }

    fn sent(&mut self, then: Sends) -> Sends {
        self.next += 1;
        self.socket.written += 1;
        then
    }
}

/// How a frame is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// In a call that blocks.
    Blocking,
    /// For the descriptor to be readable, having asked whether something is pending.
    Level,
    /// For the descriptor to become readable after nothing was there.
    Edge,
}

struct Receiver {
    socket: Socket,
    edges: Option<Epoll>,
    waits: Vec<Wait>,
    got: usize,
    then: Waits,
}

#[derive(Clone, Copy)]
enum Waits {
    /// It has sent something, and so says that it is awake.
    Start,
    Ask,
    Read,
    Spin,
    Sleep,
    LookAgain,
    Wait,
    Rise,
}

impl Receiver {
    /// Whether there was something to do; not while it sleeps.
    fn step(&mut self) -> bool {
        let Some(&wait) = self.waits.get(self.got) else {
            return false;
        };
        let blocks = wait == Wait::Blocking;
        self.then = match self.then {
            Waits::Start => {
                self.socket.attend();
                if blocks {
                    Waits::Read
                } else {
                    Waits::Ask
                }
            }
            Waits::Ask => {
                self.socket.watch();
                if wait == Wait::Edge && self.edges.is_none() {
                    self.edges = Some(edges(&self.socket));
                }
                Waits::Read
            }
            Waits::Read => {
                let mut byte = [0xFF];
                let into = Span::from_slice(&mut byte);
                match Wire::read(&mut self.socket, into, Deadline::now()) {
                    Ok(count) => {
                        assert_eq!((count, usize::from(byte[0])), (1, self.got));
                        self.got += 1;
                        Waits::Start
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                        match wait {
                            Wait::Blocking => Waits::Spin,
                            Wait::Level => Waits::LookAgain,
                            Wait::Edge => Waits::Wait,
                        }
                    }
                }
            }
            Waits::Spin => {
                ring(&mut self.socket).be(State::Awake);
                Waits::Sleep
            }
            Waits::Sleep => {
                ring(&mut self.socket).sleep();
                Waits::LookAgain
            }
            Waits::LookAgain if self.socket.has_something() => Waits::Rise,
            Waits::LookAgain => Waits::Wait,
            Waits::Wait if self.is_woken(wait) => Waits::Rise,
            Waits::Wait => return false,
            Waits::Rise => {
                if blocks {
                    self.socket.away_or_awake();
                }
                Waits::Read
            }
        };
        true
    }

    fn is_woken(&self, wait: Wait) -> bool {
        if let (Wait::Edge, Some(edges)) = (wait, &self.edges) {
            let mut events = [EpollEvent::empty()];
            return edges.wait(&mut events, EpollTimeout::ZERO) == Ok(1);
        }
        let ready = self.socket.is_ready(PollFlags::POLLIN);
        !ready.expect("a socket").is_empty()
    }
}

/// Tells once of what comes.
fn edges(socket: &Socket) -> Epoll {
    let edges = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("descriptors");
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    edges
        .add(socket, EpollEvent::new(flags, 0))
        .expect("a socket");
    edges
}

#[test]
fn nobody_sleeps_on_a_frame_however_he_waits_and_whatever_comes_first() {
    const STEPS: u32 = 10;
    let ways = [Wait::Blocking, Wait::Level, Wait::Edge];
    for first in ways {
        for second in ways {
            for order in 0_u32..1 << STEPS {
                let [sender, receiver] = both();
                let mut sender = Sender {
                    socket: sender,
                    next: 0,
                    end: 2,
                    then: Sends::Choose,
                };
                let mut receiver = Receiver {
                    socket: receiver,
                    edges: None,
                    waits: vec![first, second],
                    got: 0,
                    then: Waits::Start,
                };
                for step in 0..STEPS {
                    match order >> step & 1 {
                        0 => sender.step(),
                        _ => receiver.step(),
                    };
                }
                while sender.step() {}
                while receiver.got < 2 {
                    let awake = receiver.step();
                    assert!(
                        awake,
                        "{first:?}, {second:?}, {order:b}: it sleeps for ever"
                    );
                }
            }
        }
    }
}
