//! Many links of one listener, served by few threads.

mod common;

use common::secret;
use roadrunner_core::testing::{data_frame, pattern, receive, say_hello, send, soon};
use roadrunner_core::{Deadline, HostMemory, Payload, Region, Transfer, TransferError};
use roadrunner_splice::{connect, Link, Listener, Options, Server, Service};
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

fn listener(options: &Options) -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a free port");
    let address = listener.address();
    (listener, address)
}

fn link(address: SocketAddr, name: &str, options: &Options) -> Link {
    connect(&address.to_string(), name, options, soon()).expect("connected")
}

/// Says again what it hears, except to links of these names; tells how links ended.
struct Echo {
    ends: Mutex<Sender<TransferError>>,
}

impl Echo {
    fn new() -> (Self, Receiver<TransferError>) {
        let (ends, ended) = channel();
        let ends = Mutex::new(ends);
        (Self { ends }, ended)
    }
}

#[derive(Default)]
struct Conversation {
    memory: HostMemory,
    /// What is to be said again.
    reply: Option<Region>,
}

impl Service<Link> for Echo {
    type Session = Conversation;

    fn opened(&self, link: &Link) -> Option<Conversation> {
        (link.name() != "unwanted").then(Conversation::default)
    }

    fn ready(&self, one: &mut Conversation, link: &mut Link) -> Result<(), TransferError> {
        assert_ne!(link.name(), "fatal", "as the test wants it");
        loop {
            if let Some(region) = one.reply {
                let payload = Payload::kept(&mut one.memory, region)?;
                if link.try_send(payload)?.is_none() {
                    return Ok(());
                }
                one.reply = None;
            }
            match link.try_recv(&mut one.memory)? {
                Some(delivery) => one.reply = Some(delivery.region()),
                None => return Ok(()),
            }
        }
    }

    fn ended(&self, mut one: Conversation, mut link: Link, why: TransferError) {
        link.abandon(&mut one.memory);
        let ends = self.ends.lock().expect("nobody panics with it");
        // The test may be over.
        let _ = ends.send(why);
    }
}

fn converse(link: &mut Link, len: u64, seed: u64) {
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

/// Whatever lies decrypted already is served as well, though it does not make a descriptor readable.
#[cfg(feature = "tls")]
#[test]
fn a_server_serves_encrypted_links() {
    use common::certificates::encrypted;

    let (listener, address) = listener(&encrypted());
    let (echo, ended) = Echo::new();
    let server = Server::start(listener, 2, echo).expect("threads");
    let mut links: Vec<_> = (0..20)
        .map(|n| link(address, &format!("{n}"), &encrypted()))
        .collect();
    for round in 0..3 {
        for link in &mut links {
            for n in 0..5 {
                send(link, &pattern(3_000, 10 * round + n), soon()).expect("sent");
            }
        }
        for link in &mut links {
            for n in 0..5 {
                let answer = receive(link).expect("answered").0;
                assert!(answer == pattern(3_000, 10 * round + n));
            }
            converse(link, 1 << 20, round);
        }
    }
    drop(links);
    for _ in 0..20 {
        let why = ended.recv().expect("one end each");
        assert!(matches!(why, TransferError::PeerClosed), "{why}");
    }
    drop(server);
}

#[test]
fn a_server_serves_many_links_at_once_from_few_threads() {
    const LINKS: u64 = 300;
    let options = Options::default().secret(secret()).checksum(true);
    let (listener, address) = listener(&options);
    let (echo, ended) = Echo::new();
    let server = Server::start(listener, 2, echo).expect("threads");
    let mut links: Vec<_> = (0..LINKS)
        .map(|n| link(address, &format!("{n}"), &options))
        .collect();
    // All of them say something before any hears the answer.
    for (n, link) in links.iter_mut().enumerate() {
        send(link, &pattern(20_000, n as u64), soon()).expect("sent");
    }
    assert!(
        threads() <= 2 * 4,
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

#[test]
fn slow_silent_and_hostile_peers_hold_up_nobody() {
    let (listener, address) = listener(&Options::default());
    let (echo, ended) = Echo::new();
    let server = Server::start(listener, 1, echo).expect("a thread");
    let mut strangers = Vec::new();
    for n in 0..50 {
        // One says nothing, one half a hello, one half a payload, one takes no answer.
        let mut stream = TcpStream::connect(address).expect("it listens");
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
                stream.set_nonblocking(true).expect("a socket");
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
    let mut rude = TcpStream::connect(address).expect("it listens");
    say_hello(&mut rude, "rude").expect("hello");
    rude.write_all(&[0xFF; 100]).expect("room");
    let why = ended.recv_timeout(Duration::from_secs(30)).expect("ended");
    assert!(matches!(why, TransferError::Protocol(_)), "{why}");

    let mut good = link(address, "good", &Options::default());
    for len in [10, 3_000_000] {
        converse(&mut good, len, len);
    }
    // They go on when they feel like it.
    let mut slow = &strangers[2];
    let frame = data_frame(0, &pattern(100_000, 1));
    slow.write_all(&frame[50_000..]).expect("room");
    let header = roadrunner_core::testing::read_header(&mut slow).expect("an answer");
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

#[test]
fn a_drained_server_loses_nothing_that_was_sent() {
    let (listener, address) = listener(&Options::default());
    let (echo, ended) = Echo::new();
    let server = Server::start(listener, 2, echo).expect("threads");
    let mut one = link(address, "one", &Options::default());
    converse(&mut one, 10, 1);
    for n in 0..50 {
        send(&mut one, &pattern(5000, n), soon()).expect("sent");
    }
    let draining = thread::spawn(move || server.drain(soon()));
    while TcpStream::connect(address).is_ok() {
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

#[test]
fn a_link_that_is_turned_away_or_makes_a_service_panic_is_closed_and_no_other() {
    let (listener, address) = listener(&Options::default());
    let (echo, ended) = Echo::new();
    let server = Server::start(listener, 1, echo).expect("a thread");
    let mut unwanted = link(address, "unwanted", &Options::default());
    assert!(matches!(
        receive(&mut unwanted),
        Err(TransferError::PeerClosed)
    ));
    let mut fatal = link(address, "fatal", &Options::default());
    // It may be gone by now.
    let _ = send(&mut fatal, b"go", soon());
    assert!(receive(&mut fatal).is_err());
    let why = ended.recv_timeout(Duration::from_secs(30)).expect("ended");
    assert!(matches!(why, TransferError::Broken));
    converse(&mut link(address, "good", &Options::default()), 10, 1);
    drop(server);
}
