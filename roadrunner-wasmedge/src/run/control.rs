//! What the host of a run and another host of it say to each other, and the link that they say it over.
//!
//! One link per run and host, opened by the host of the run. Messages are payloads of one of two kinds: JSON, an [`Order`]
//! one way and a [`Word`] the other; or a piece of a stream of bytes, with its number. Both sides talk at least every
//! [`BEAT`]; whoever hears nothing for [`SILENCE`] takes the other one for gone.

use super::event::Event;
use super::{NetworkMethod, Tls, TlsError};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use roadrunner_core::{Deadline, HostMemory, Payload, Transfer, TransferError};
use roadrunner_splice::{Link, Options, Secret};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the link is called; the number changes when what is said over it does.
pub(crate) const NAME: &str = "roadrunner-run-2";
/// Bytes of a message at most.
pub(crate) const LIMIT: u64 = 4 << 20;
/// Bytes of a stream that go in one message.
const PIECE: usize = 256 << 10;
/// How often the host of the run says that it is there.
pub(crate) const BEAT: Duration = Duration::from_secs(2);
/// How long the other side may say nothing.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// How often whoever waits looks whether a message has come while another thread was sending.
const LOOK: Duration = Duration::from_secs(1);

/// What failed when what was to be sent could not be read.
pub(crate) const READING: &str = "read what is to be sent";

/// What the first byte of a message says it is.
const JSON: u8 = b'J';
const BYTES: u8 = b'B';

/// What the host of a run says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// The first message, of a run.
    Run(Box<RunOrder>),
    /// The first message, and the last, of somebody who wants to know whether a run would be welcome.
    Ask,
    /// All workers of the run listen: the addresses of each function's successors.
    Start {
        addresses: Vec<HashMap<String, String>>,
    },
    /// It is still there, and this is the time on its clock.
    Beat { at: u64 },
}

/// Functions to run, and what with.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RunOrder {
    /// 32 hexadecimal digits, new for each run.
    pub(crate) run: String,
    /// What both ends of a link between functions must know, where no secret of the hosts is there to make it from.
    pub(crate) secret: Option<String>,
    pub(crate) functions: Vec<FunctionOrder>,
    pub(crate) modules: Vec<ModuleOrder>,
    /// Bytes of the input, if one of the functions takes it.
    pub(crate) input: Option<u64>,
    pub(crate) network_method: NetworkMethod,
    /// Whether links between functions outlive their connections.
    pub(crate) sessions: bool,
    pub(crate) milliseconds_left: u64,
}

/// Neither the secret nor the variables of the functions, which may be secrets of theirs.
impl fmt::Debug for RunOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOrder")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct FunctionOrder {
    pub(crate) name: String,
    /// Its place in the list of modules.
    pub(crate) module: usize,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) max_pages: Option<u32>,
    pub(crate) predecessors: Vec<String>,
    pub(crate) successors: Vec<String>,
    pub(crate) output: Option<String>,
}

impl FunctionOrder {
    /// Whom it has edges with.
    pub(crate) fn neighbours(&self) -> impl Iterator<Item = &String> {
        self.predecessors.iter().chain(&self.successors)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ModuleOrder {
    /// What messages call it.
    pub(crate) name: String,
    /// Whether it is in the text format.
    pub(crate) text: bool,
    pub(crate) bytes: u64,
    /// In hexadecimal.
    pub(crate) sha256: String,
}

/// What another host says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub(crate) enum Word {
    /// It will not; the last message.
    Refused { reason: String },
    /// It will, once it has these of the modules.
    Welcome { send: Vec<usize> },
    /// Something happened at the worker of this function of the order. An output has come before, as a stream of that number.
    Event { function: usize, event: Event },
    /// The answer to a beat: its time, and the time on this clock.
    Beat { echo: u64, at: u64 },
}

/// A message.
#[derive(Debug)]
pub(crate) enum Message<T> {
    Said(T),
    /// The next bytes of a stream.
    Piece(usize, Vec<u8>),
}

/// How the link is opened, at either end.
pub(crate) fn options(secret: Option<&Secret>, tls: Option<&Tls>) -> Result<Options, TlsError> {
    let mut options = Options::default().limit(LIMIT);
    if let Some(secret) = secret {
        options = options.secret(secret.clone());
    }
    match tls {
        Some(tls) => tls.encrypt(options),
        None => Ok(options),
    }
}

/// The number of the stream that holds the input; modules have theirs.
pub(crate) const INPUT: usize = u32::MAX as usize;

/// One end. Any number of threads may send at the same time, and one receive.
pub(crate) struct Control {
    link: Mutex<Talk>,
    /// The same connection once more, to wait at and to cut.
    socket: TcpStream,
    peer: SocketAddr,
}

struct Talk {
    link: Link,
    /// What a message comes in.
    memory: HostMemory,
}

impl Control {
    pub(crate) fn new(link: Link) -> io::Result<Self> {
        let socket = TcpStream::from(link.as_fd().try_clone_to_owned()?);
        Ok(Self {
            peer: socket.peer_addr()?,
            socket,
            link: Mutex::new(Talk {
                link,
                memory: HostMemory::with_limit(LIMIT),
            }),
        })
    }

    /// The address of the other end.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address of this end.
    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(crate) fn say(&self, what: &impl Serialize) -> Result<(), TransferError> {
        let mut message = vec![JSON];
        serde_json::to_writer(&mut message, what).map_err(|error| TransferError::Io {
            doing: "put a message into words",
            source: error.into(),
        })?;
        self.send(message)
    }

    /// Sends `bytes` bytes from `source` as a stream. Ends with an error if there are fewer.
    pub(crate) fn stream(
        &self,
        number: usize,
        mut source: impl Read,
        bytes: u64,
    ) -> Result<(), TransferError> {
        let mut left = bytes;
        while left > 0 {
            let count = left.min(PIECE as u64) as usize;
            let mut message = vec![BYTES];
            message.extend((number as u32).to_le_bytes());
            let head = message.len();
            message.resize(head + count, 0);
            source
                .read_exact(&mut message[head..])
                .map_err(|error| TransferError::Io {
                    doing: READING,
                    source: error,
                })?;
            self.send(message)?;
            left -= count as u64;
        }
        Ok(())
    }

    fn send(&self, message: Vec<u8>) -> Result<(), TransferError> {
        let mut memory = HostMemory::from(message);
        let region = memory.region();
        let payload = Payload::kept(&mut memory, region)?;
        self.talk()
            .link
            .send(payload, Deadline::after(SILENCE))
            .map(drop)
    }

    /// The next message; `None` if there is none by then.
    pub(crate) fn next<T: DeserializeOwned>(
        &self,
        until: Instant,
    ) -> Result<Option<Message<T>>, TransferError> {
        loop {
            if let Some(message) = self.try_next()? {
                return Ok(Some(message));
            }
            let now = Instant::now();
            if now >= until {
                return Ok(None);
            }
            let wait = (until - now).min(LOOK).as_millis() + 1;
            let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
            let mut events = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut events, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => {
                    return Err(TransferError::Io {
                        doing: "wait for the other host",
                        source: errno.into(),
                    })
                }
            }
        }
    }

    fn try_next<T: DeserializeOwned>(&self) -> Result<Option<Message<T>>, TransferError> {
        let mut talk = self.talk();
        let Talk { link, memory } = &mut *talk;
        if link.try_recv(memory)?.is_none() {
            return Ok(None);
        }
        let nonsense = |why: String| TransferError::Io {
            doing: "understand the other host",
            source: io::Error::new(io::ErrorKind::InvalidData, why),
        };
        match memory.as_slice() {
            [JSON, text @ ..] => serde_json::from_slice(text)
                .map(|said| Some(Message::Said(said)))
                .map_err(|error| nonsense(error.to_string())),
            [BYTES, a, b, c, d, piece @ ..] => {
                let number = u32::from_le_bytes([*a, *b, *c, *d]);
                Ok(Some(Message::Piece(number as usize, piece.to_vec())))
            }
            _ => Err(nonsense("it is no message".to_owned())),
        }
    }

    /// Ends the link in order.
    pub(crate) fn close(&self) {
        // A peer that does not hear it hears the connection end.
        let _ = self
            .talk()
            .link
            .close(Deadline::after(Duration::from_secs(1)));
    }

    /// Ends the connection at once: whoever sends or receives, at either end, gets an error.
    pub(crate) fn cut(&self) {
        // An error says that it is cut already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the clock of another host shows, from beats and their answers (as NTP does it, RFC 5905 section 8).
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// The shortest way there and back, and how far the other clock was ahead then.
    best: Option<(u64, i128)>,
}

impl Clock {
    /// Notes an answer: when the beat left, what the other clock showed, when the answer came, in nanoseconds.
    pub(crate) fn note(&mut self, left: u64, there: u64, came: u64) {
        let way = came.saturating_sub(left);
        if self.best.map_or(true, |(best, _)| way <= best) {
            let middle = i128::from(left) + i128::from(way / 2);
            self.best = Some((way, i128::from(there) - middle));
        }
    }

    /// A time on the other clock as the own one would show it.
    pub(crate) fn here(&self, there: u64) -> u64 {
        let ahead = self.best.map_or(0, |(_, ahead)| ahead);
        u64::try_from(i128::from(there) - ahead).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, FunctionOrder, Order, RunOrder};

    #[test]
    fn an_order_that_is_printed_tells_no_secret() {
        let function = FunctionOrder {
            name: "one".to_owned(),
            module: 0,
            env: vec![("TOKEN".to_owned(), "of the function".to_owned())],
            max_pages: None,
            predecessors: Vec::new(),
            successors: Vec::new(),
            output: None,
        };
        let order = Order::Run(Box::new(RunOrder {
            run: "0123".to_owned(),
            secret: Some("of the links".to_owned()),
            functions: vec![function],
            modules: Vec::new(),
            input: None,
            network_method: super::NetworkMethod::Auto,
            sessions: false,
            milliseconds_left: 1,
        }));
        let printed = format!("{order:?}");
        assert!(printed.contains("0123"), "{printed}");
        assert!(!printed.contains("of the"), "{printed}");
    }

    #[test]
    fn the_quickest_answer_sets_the_clock() {
        let mut clock = Clock::default();
        assert_eq!(clock.here(7), 7, "nothing is known yet");
        // 1,000,000 ahead; answers that took 400, 20 and 90.
        clock.note(100, 1_000_450, 500);
        clock.note(1000, 1_001_010, 1020);
        clock.note(2000, 1_002_010, 2090);
        assert_eq!(clock.here(1_005_000), 5000);
        let mut behind = Clock::default();
        behind.note(1_000_000, 5, 1_000_010);
        assert_eq!(behind.here(105), 1_000_105);
        assert_eq!(behind.here(0), 1_000_000);
    }
}
