//! Many links of one listener, served by few threads.

use crate::{Accept, Served, Server, Service};
use roadrunner_core::testing::{data_frame, pattern, read_header, receive, say_hello, send, soon};
use roadrunner_core::{
    Deadline, Delivery, HostMemory, Payload, Receipt, Region, Sink, Transfer, TransferError,
};
use std::fs;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A transport whose listeners a [`Server`] serves, as tests use it.
pub trait Serving: Sync + 'static {
    /// Its links, which have the operations of [`StreamLink`](roadrunner_core::stream::StreamLink).
    type Link: Served;
    /// What accepts them.
    type Listener: Accept<Link = Self::Link>;
    /// Where it is.
    type Address;
    /// A connection that is no link, for a peer that speaks by hand.
    type Stream: Read + Write;

    /// A new listener.
    fn listen(&self) -> (Self::Listener, Self::Address);

    /// Connects to it.
    fn connect(&self, address: &Self::Address, name: &str) -> Self::Link;

    /// Connects to it, and says nothing.
    ///
    /// # Errors
    /// What the system says, if nobody listens there any more.
    fn call(&self, address: &Self::Address) -> io::Result<Self::Stream>;

    /// Lets writes to it fail that would have to wait.
    ///
    /// # Errors
    /// What the system says.
    fn never_wait(stream: &Self::Stream) -> io::Result<()>;

    /// What the peer calls a link.
    fn name(link: &Self::Link) -> &str;

    /// As [`StreamLink::try_send`](roadrunner_core::stream::StreamLink::try_send).
    ///
    /// # Errors
    /// As that.
    fn try_send(
        link: &mut Self::Link,
        payload: Payload<'_>,
    ) -> Result<Option<Receipt>, TransferError>;

    /// As [`StreamLink::try_recv`](roadrunner_core::stream::StreamLink::try_recv).
    ///
    /// # Errors
    /// As that.
    fn try_recv(
        link: &mut Self::Link,
        sink: &mut dyn Sink,
    ) -> Result<Option<Delivery>, TransferError>;

    /// As [`StreamLink::abandon`](roadrunner_core::stream::StreamLink::abandon).
    fn abandon(link: &mut Self::Link, sink: &mut dyn Sink);
}

/// Says again what it hears, and tells how links ended.
///
/// Links named `unwanted` are turned away, and on those named `fatal` it panics. On those named `late` it takes one payload
/// with each call, and answers it with the next; on those named `unanswered` it never answers.
#[derive(Debug)]
pub struct Echo<T> {
    ends: Mutex<Sender<TransferError>>,
    calls: Arc<AtomicU64>,
    of: PhantomData<fn() -> T>,
}

impl<T> Echo<T> {
    /// The service, and how its links ended.
    #[must_use]
    pub fn new() -> (Self, Receiver<TransferError>) {
        let (ends, ended) = channel();
        let echo = Self {
            ends: Mutex::new(ends),
            calls: Arc::default(),
            of: PhantomData,
        };
        (echo, ended)
    }

    /// How often there was something to do.
    #[must_use]
    pub fn calls(&self) -> Arc<AtomicU64> {
        self.calls.clone()
    }
}

/// What [`Echo`] keeps of a link.
#[derive(Debug, Default)]
pub struct Conversation {
    memory: HostMemory,
    /// What is to be said again.
    reply: Option<Region>,
}

impl<T: Serving> Service<T::Link> for Echo<T> {
    type Session = Conversation;

    fn opened(&self, link: &T::Link) -> Option<Conversation> {
        (T::name(link) != "unwanted").then(Conversation::default)
    }

    fn ready(&self, one: &mut Conversation, link: &mut T::Link) -> Result<(), TransferError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        assert_ne!(T::name(link), "fatal", "as the test wants it");
        loop {
            if let Some(region) = one.reply {
                let payload = Payload::kept(&mut one.memory, region)?;
                if T::try_send(link, payload)?.is_none() {
                    return Ok(());
                }
                one.reply = None;
            }
            match T::try_recv(link, &mut one.memory)? {
                Some(_) if T::name(link) == "unanswered" => {}
                Some(delivery) => one.reply = Some(delivery.region()),
                None => return Ok(()),
            }
            if T::name(link) == "late" {
                return Ok(());
            }
        }
    }

    fn ended(&self, mut one: Conversation, mut link: T::Link, why: TransferError) {
        T::abandon(&mut link, &mut one.memory);
        let ends = self.ends.lock().expect("nobody panics with it");
        // The test may be over.
        let _ = ends.send(why);
    }
}

/// Sends so many bytes to an [`Echo`], and takes them back.
///
/// # Panics
/// If they are not what was sent.
pub fn converse(link: &mut dyn Transfer, len: u64, seed: u64) {
    let bytes = pattern(len, seed);
    send(link, &bytes, soon()).expect("sent");
    assert!(receive(link).expect("answered").0 == bytes);
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task")
        .expect("proc")
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("roadrunner-srv"))
        .count()
}

/// Hundreds of links at once cost a server no more threads than it was given. At most four more servers of two threads may
/// run in this process meanwhile.
///
/// # Panics
/// If they do, or if a payload is not answered.
pub fn serve_many<T: Serving>(transport: &T) {
    const LINKS: u64 = 300;
    let (listener, address) = transport.listen();
    let (echo, ended) = Echo::<T>::new();
    let server = Server::start(listener, 2, echo).expect("threads");
    let mut links: Vec<_> = (0..LINKS)
        .map(|n| transport.connect(&address, &format!("{n}")))
        .collect();
    // All of them say something before any hears the answer.
    for (n, link) in links.iter_mut().enumerate() {
        send(link, &pattern(20_000, n as u64), soon()).expect("sent");
    }
    assert!(
        threads() <= 2 * 5,
        "this server's, and those of other tests"
    );
    for (n, link) in links.iter_mut().enumerate() {
        assert!(receive(link).expect("answered").0 == pattern(20_000, n as u64));
    }
    assert_eq!(server.links(), LINKS as usize);
    thread::scope(|scope| {
        for (worker, links) in links.chunks_mut(100).enumerate() {
            scope.spawn(move || {
                for (n, link) in links.iter_mut().enumerate() {
                    for len in [0, 1, 100_000, 2_000_000] {
                        converse(link, len, (worker + n) as u64);
                    }
                    link.close(soon()).expect("closed");
                }
            });
        }
    });
    drop(links);
    server.drain(soon()).expect("all have closed");
    let ends: Vec<_> = ended.iter().collect();
    assert_eq!(ends.len(), LINKS as usize);
    assert!(ends.iter().all(|why| matches!(why, TransferError::Closed)));
}

/// Peers that are slow, silent or hostile hold up nobody, and are cut off when a server stops. For a transport by which
/// frames follow on a connection at once.
///
/// # Panics
/// If they do, or are not.
pub fn peers_hold_up_nobody<T: Serving>(transport: &T) {
    let (listener, address) = transport.listen();
    let (echo, ended) = Echo::<T>::new();
    let server = Server::start(listener, 1, echo).expect("a thread");
    let mut strangers = Vec::new();
    for n in 0..50 {
        // One says nothing, one half a hello, one half a payload, one takes no answer.
        let mut stream = transport.call(&address).expect("it listens");
        match n % 4 {
            0 => {}
            1 => stream.write_all(b"RR\x01").expect("room"),
            2 => {
                say_hello(&mut stream, "slow").expect("hello");
                let frame = data_frame(0, &pattern(100_000, 1));
                stream.write_all(&frame[..50_000]).expect("room");
            }
            _ => {
                say_hello(&mut stream, "deaf").expect("hello");
                T::never_wait(&stream).expect("a socket");
                let frame = data_frame(0, &pattern(1 << 20, 1));
                let mut rest = &frame[..];
                // As far as it goes: the server stops to read when it cannot answer.
                while let Ok(count @ 1..) = stream.write(rest) {
                    rest = &rest[count..];
                }
            }
        }
        strangers.push(stream);
    }
    let mut rude = transport.call(&address).expect("it listens");
    say_hello(&mut rude, "rude").expect("hello");
    rude.write_all(&[0xFF; 100]).expect("room");
    let why = ended.recv_timeout(Duration::from_secs(30)).expect("ended");
    assert!(matches!(why, TransferError::Protocol(_)), "{why}");

    let mut good = transport.connect(&address, "good");
    for len in [10, 3_000_000] {
        converse(&mut good, len, len);
    }
    // They go on when they feel like it.
    let slow = &mut strangers[2];
    let frame = data_frame(0, &pattern(100_000, 1));
    slow.write_all(&frame[50_000..]).expect("room");
    let header = read_header(slow).expect("an answer");
    assert_eq!(header.length, 100_000);

    // Not all have ended their links: those are cut off, in time.
    let error = server
        .drain(Deadline::after(Duration::from_millis(20)))
        .expect_err("strangers stay");
    assert!(matches!(error, TransferError::Timeout));
    let cut = ended.iter().collect::<Vec<_>>();
    assert!(cut.iter().all(|why| matches!(why, TransferError::Broken)));
    assert!(matches!(receive(&mut good), Err(TransferError::PeerClosed)));
}

/// A server that is drained answers all that is sent until its links are closed.
///
/// # Panics
/// If something is lost.
pub fn drain_loses_nothing<T: Serving>(transport: &T) {
    let (listener, address) = transport.listen();
    let (echo, ended) = Echo::<T>::new();
    let server = Server::start(listener, 2, echo).expect("threads");
    let mut one = transport.connect(&address, "one");
    converse(&mut one, 10, 1);
    for n in 0..50 {
        send(&mut one, &pattern(5000, n), soon()).expect("sent");
    }
    let draining = thread::spawn(move || server.drain(soon()));
    while transport.call(&address).is_ok() {
        thread::yield_now();
    }
    for n in 50..60 {
        send(&mut one, &pattern(5000, n), soon()).expect("sent");
    }
    one.close(soon()).expect("closed");
    for n in 0..60 {
        assert!(receive(&mut one).expect("answered").0 == pattern(5000, n));
    }
    drop(one);
    draining.join().expect("no panic").expect("drained");
    assert!(ended.iter().any(|why| matches!(why, TransferError::Closed)));
}

/// A link that is turned away, or that makes a service panic, is closed.
///
/// # Panics
/// If it is not, or if another one is.
pub fn one_link_is_closed_and_no_other<T: Serving>(transport: &T) {
    let (listener, address) = transport.listen();
    let (echo, ended) = Echo::<T>::new();
    let server = Server::start(listener, 1, echo).expect("a thread");
    let mut unwanted = transport.connect(&address, "unwanted");
    assert!(matches!(
        receive(&mut unwanted),
        Err(TransferError::PeerClosed)
    ));
    let mut fatal = transport.connect(&address, "fatal");
    // It may be gone by now.
    let _ = send(&mut fatal, b"go", soon());
    assert!(receive(&mut fatal).is_err());
    let why = ended.recv_timeout(Duration::from_secs(30)).expect("ended");
    assert!(matches!(why, TransferError::Broken));
    converse(&mut transport.connect(&address, "good"), 10, 1);
    drop(server);
}
