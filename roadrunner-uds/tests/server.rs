//! Many links of one listener, served by few threads.

use roadrunner_core::testing::{data_frame, pattern, receive, say_hello, send, soon};
use roadrunner_core::{Delivery, Payload, Receipt, Sink, TransferError};
use roadrunner_mem::testing::{self, converse, Echo, Serving};
use roadrunner_uds::{connect, Address, Link, Listener, Options, Server};
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

struct Uds;

impl Serving for Uds {
    type Link = Link;
    type Listener = Listener;
    type Address = Address;
    type Stream = UnixStream;

    fn listen(&self) -> (Listener, Address) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roadrunner-server-{}-{count}", std::process::id());
        let address = Address::abstract_name(name).expect("short");
        let listener = Listener::bind(address.clone(), Options::default()).expect("bound");
        (listener, address)
    }

    fn connect(&self, address: &Address, name: &str) -> Link {
        connect(address, name, &Options::default(), soon()).expect("connected")
    }

    fn call(&self, address: &Address) -> io::Result<UnixStream> {
        let name = address.to_string();
        let address = SocketAddr::from_abstract_name(&name[1..])?;
        UnixStream::connect_addr(&address)
    }

    fn never_wait(stream: &UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)
    }

    fn name(link: &Link) -> &str {
        link.name()
    }

    fn try_send(link: &mut Link, payload: Payload<'_>) -> Result<Option<Receipt>, TransferError> {
        link.try_send(payload)
    }

    fn try_recv(link: &mut Link, sink: &mut dyn Sink) -> Result<Option<Delivery>, TransferError> {
        link.try_recv(sink)
    }

    fn abandon(link: &mut Link, sink: &mut dyn Sink) {
        link.abandon(sink);
    }
}

#[test]
fn a_server_serves_many_links_at_once_from_few_threads() {
    testing::serve_many(&Uds);
}

#[test]
fn slow_silent_and_hostile_peers_hold_up_nobody() {
    testing::peers_hold_up_nobody(&Uds);
}

#[test]
fn a_drained_server_loses_nothing_that_was_sent() {
    testing::drain_loses_nothing(&Uds);
}

#[test]
fn a_link_that_is_turned_away_or_makes_a_service_panic_is_closed_and_no_other() {
    testing::one_link_is_closed_and_no_other(&Uds);
}

/// One that takes no answers, and one that takes no acknowledgements, have sent more by then.
#[test]
fn a_peer_that_takes_nothing_costs_no_processor_time() {
    let frame = data_frame(0, &pattern(50_000, 1));
    let mut acknowledged = data_frame(0, &[]);
    acknowledged[6] = 1;
    for (name, frame) in [("unanswered", acknowledged), ("deaf", frame)] {
        let (listener, address) = Uds.listen();
        let (echo, _ended) = Echo::<Uds>::new();
        let calls = echo.calls();
        let server = Server::start(listener, 1, echo).expect("a thread");
        let mut stream = Uds.call(&address).expect("it listens");
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
    let (listener, address) = Uds.listen();
    let (echo, _ended) = Echo::<Uds>::new();
    let calls = echo.calls();
    let server = Server::start(listener, 1, echo).expect("a thread");
    let mut link = Uds.connect(&address, "late");
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
