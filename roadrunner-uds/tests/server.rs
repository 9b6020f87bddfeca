//! Many links of one listener, served by few threads.

use roadrunner_core::testing::{data_frame, pattern, receive, say_hello, send, soon};
use roadrunner_core::{Deadline, HostMemory, Payload, Region, Transfer, TransferError};
use roadrunner_uds::{connect, Address, Link, Listener, Options, Server, Service};
use std::fs;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

fn listener() -> (Listener, Address) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("roadrunner-server-{}-{count}", std::process::id());
    let address = Address::abstract_name(name).expect("short");
    let listener = Listener::bind(address.clone(), Options::default()).expect("bound");
    (listener, address)
}

/// A plain socket to a listener.
fn raw(address: &Address) -> UnixStream {
    let name = address.to_string();
    let address = SocketAddr::from_abstract_name(&name[1..]).expect("short");
    UnixStream::connect_addr(&address).expect("it listens")
}

fn link(address: &Address, name: &str) -> Link {
    connect(address, name, &Options::default(), soon()).expect("connected")
}

/// Says again what it hears, except to links of these names; tells how links ended. On a link named `late` it takes one
/// payload with each call, and answers it with the next.
struct Echo {
    ends: Mutex<Sender<TransferError>>,
    /// How often there was something to do.
    calls: Arc<AtomicU64>,
}

impl Echo {
    fn new() -> (Self, Receiver<TransferError>) {
        let (ends, ended) = channel();
        let ends = Mutex::new(ends);
        let calls = Arc::default();
        (Self { ends, calls }, ended)
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
        self.calls.fetch_add(1, Ordering::Relaxed);
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
                Some(_) if link.name() == "unanswered" => {}
                Some(delivery) => one.reply = Some(delivery.region()),
                None => return Ok(()),
            }
            if link.name() == "late" {
                return Ok(());
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

#[test]
fn a_server_serves_many_links_at_once_from_few_threads() {
    const LINKS: u64 = 300;
    let (listener, address) = listener();
    let (echo, ended) = Echo::new();
    let server = Server::start(listener, 2, echo).expect("threads");
    let mut links: Vec<_> = (0..LINKS)
        .map(|n| link(&address, &format!("{n}")))
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
    let (listener, address) = listener();
    let (echo, ended) = Echo::new();
    let server = Server::start(listener, 1, echo).expect("a thread");
    let mut strangers = Vec::new();
    for n in 0..50 {
        // One says nothing, one half a hello, one half a payload, one takes no answer.
        let mut stream = raw(&address);
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
    let mut rude = raw(&address);
    say_hello(&mut rude, "rude").expect("hello");
    rude.write_all(&[0xFF; 100]).expect("room");
    let why = ended.recv_timeout(Duration::from_secs(30)).expect("ended");
    assert!(matches!(why, TransferError::Protocol(_)), "{why}");

    let mut good = link(&address, "good");
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

/// One that takes no answers, and one that takes no acknowledgements, have sent more by then.
#[test]
fn a_peer_that_takes_nothing_costs_no_processor_time() {
    let frame = data_frame(0, &pattern(50_000, 1));
    let mut acknowledged = data_frame(0, &[]);
    acknowledged[6] = 1;
    for (name, frame) in [("unanswered", acknowledged), ("deaf", frame)] {
        let (listener, address) = listener();
        let (echo, _ended) = Echo::new();
        let calls = echo.calls.clone();
        let server = Server::start(listener, 1, echo).expect("a thread");
        let mut stream = raw(&address);
        say_hello(&mut stream, name).expect("hello");
        let timeout = Some(Duration::from_millis(200));
        stream.set_write_timeout(timeout).expect("a socket");
        // Until the server takes no more.
        for sequence in 0_u64.. {
            let mut frame = frame.clone();
            frame[8..16].copy_from_slice(&sequence.to_le_bytes());
            if stream.write_all(&frame).is_err() {
                break;
            }
        }
        rests(name, &calls);
        assert_eq!(server.links(), 1, "{name}");
    }
}

/// Waits until a service is not called any more.
fn rests(name: &str, calls: &AtomicU64) {
    let began = Instant::now();
    // Times in a row that there was nothing to do.
    let mut quiet = 0;
    while quiet < 10 {
        let before = calls.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20));
        let calls = calls.load(Ordering::Relaxed);
        quiet = if calls == before { quiet + 1 } else { 0 };
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{name}: {calls} calls"
        );
    }
}

/// Nothing more comes before the peer has the answer that is due, and there is room for it.
#[test]
fn a_service_that_has_something_left_to_do_is_called_again_and_then_rests() {
    let (listener, address) = listener();
    let (echo, _ended) = Echo::new();
    let calls = echo.calls.clone();
    let server = Server::start(listener, 1, echo).expect("a thread");
    let mut link = link(&address, "late");
    for len in [0, 1, 20_000, 100_000] {
        converse(&mut link, len, len);
    }
    for seed in 0..9 {
        send(&mut link, &pattern(64 << 10, seed), soon()).expect("sent");
    }
    for seed in 0..9 {
        assert!(receive(&mut link).expect("answered").0 == pattern(64 << 10, seed));
    }
    rests("late", &calls);
    assert_eq!(server.links(), 1);
}

#[test]
fn a_drained_server_loses_nothing_that_was_sent() {
    let (listener, address) = listener();
    let (echo, ended) = Echo::new();
    let server = Server::start(listener, 2, echo).expect("threads");
    let mut one = link(&address, "one");
    converse(&mut one, 10, 1);
    for n in 0..50 {
        send(&mut one, &pattern(5000, n), soon()).expect("sent");
    }
    let draining = thread::spawn(move || server.drain(soon()));
    let name = SocketAddr::from_abstract_name(&address.to_string()[1..]).expect("short");
    while UnixStream::connect_addr(&name).is_ok() {
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
    let (listener, address) = listener();
    let (echo, ended) = Echo::new();
    let server = Server::start(listener, 1, echo).expect("a thread");
    let mut unwanted = link(&address, "unwanted");
    assert!(matches!(
        receive(&mut unwanted),
        Err(TransferError::PeerClosed)
    ));
    let mut fatal = link(&address, "fatal");
    // It may be gone by now.
    let _ = send(&mut fatal, b"go", soon());
    assert!(receive(&mut fatal).is_err());
    let why = ended.recv_timeout(Duration::from_secs(30)).expect("ended");
    assert!(matches!(why, TransferError::Broken));
    converse(&mut link(&address, "good"), 10, 1);
    drop(server);
}
