//! Peers by hand: plain sockets that say hello.

use roadrunner_core::testing::{say_hello, soon};
use roadrunner_splice::{Link, Listener, Options};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

/// A plain connection to a listener.
pub(crate) fn raw(listener: &Listener) -> TcpStream {
    TcpStream::connect(listener.address()).expect("it listens")
}

/// An end whose peer is a plain socket.
pub(crate) fn by_hand(options: &Options) -> (Link, TcpStream) {
    let listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a free port");
    let stream = raw(&listener);
    greeted(listener, stream)
}

/// The end that a listener opens with whoever says hello by hand.
fn greeted<S: Read + Write + Send>(mut listener: Listener, mut stream: S) -> (Link, S) {
    let link = thread::scope(|scope| {
        let hand = scope.spawn(|| say_hello(&mut stream, "by hand").expect("hello"));
        let link = listener.accept(soon()).expect("hello");
        hand.join().expect("no panic");
        link
    });
    (link, stream)
}

#[cfg(feature = "tls")]
pub(crate) mod within_tls {
    use super::{greeted, raw};
    use crate::common::certificates::{known, tls};
    use roadrunner_splice::{Link, Listener, Options};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
    use std::net::TcpStream;
    use std::sync::Arc;

    pub(crate) fn of_pem(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
    }

    /// The connecting side by hand.
    pub(crate) fn speak_tls(stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(of_pem(&known().0.pem)).expect("an authority");
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").expect("a number");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        StreamOwned::new(connection, stream)
    }

    /// An end whose peer is a plain stream within TLS.
    pub(crate) fn by_hand_within_tls(
        options: &Options,
    ) -> (Link, StreamOwned<ClientConnection, TcpStream>) {
        let options = options.clone().tls(tls());
        let listener = Listener::bind("127.0.0.1:0", options).expect("a free port");
        let stream = speak_tls(raw(&listener));
        greeted(listener, stream)
    }
}
