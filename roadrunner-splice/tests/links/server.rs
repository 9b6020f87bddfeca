//! Many links of one listener, served by few threads.

use crate::common::secret;
use roadrunner_core::{Delivery, Payload, Receipt, Sink, TransferError};
use roadrunner_mem::testing::{self, Serving};
use roadrunner_splice::{connect, Link, Listener, Options};
use std::io;
use std::net::{SocketAddr, TcpStream};

/// Links with these options.
#[derive(Default)]
struct Tcp(Options);

impl Serving for Tcp {
    type Link = Link;
    type Listener = Listener;
    type Address = SocketAddr;
    type Stream = TcpStream;

    fn listen(&self) -> (Listener, SocketAddr) {
        let listener = Listener::bind("127.0.0.1:0", self.0.clone()).expect("a free port");
        let address = listener.address();
        (listener, address)
    }

    fn connect(&self, address: &SocketAddr, name: &str) -> Link {
        let deadline = roadrunner_core::testing::soon();
        connect(&address.to_string(), name, &self.0, deadline).expect("connected")
    }

    fn call(&self, address: &SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(address)
    }

    fn never_wait(stream: &TcpStream) -> io::Result<()> {
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

/// Whatever lies decrypted already is served as well, though it does not make a descriptor readable.
#[cfg(feature = "tls")]
#[test]
fn a_server_serves_encrypted_links() {
    use crate::tls::encrypted;
    use roadrunner_core::testing::{pattern, receive, send, soon};
    use roadrunner_mem::testing::{converse, Echo};
    use roadrunner_splice::Server;

    let transport = Tcp(encrypted());
    let (listener, address) = transport.listen();
    let (echo, ended) = Echo::<Tcp>::new();
    let server = Server::start(listener, 2, echo).expect("threads");
    let mut links: Vec<_> = (0..20)
        .map(|n| transport.connect(&address, &format!("{n}")))
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
    let options = Options::default().secret(secret()).checksum(true);
    testing::serve_many(&Tcp(options));
}

#[test]
fn slow_silent_and_hostile_peers_hold_up_nobody() {
    testing::peers_hold_up_nobody(&Tcp::default());
}

#[test]
fn a_drained_server_loses_nothing_that_was_sent() {
    testing::drain_loses_nothing(&Tcp::default());
}

#[test]
fn a_link_that_is_turned_away_or_makes_a_service_panic_is_closed_and_no_other() {
    testing::one_link_is_closed_and_no_other(&Tcp::default());
}
