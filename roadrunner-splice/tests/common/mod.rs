//! Links to test with.

// Each test program uses a part of it.
#![allow(dead_code, unused_imports, unreachable_pub)]

#[cfg(feature = "tls")]
pub mod certificates;
#[allow(unsafe_code)]
mod pages;
mod proxy;

pub use pages::{default_sigpipe, page_memory, PageMemory};
pub use proxy::{Fate, Proxy};
use roadrunner_core::frame::{Header, Kind, HEADER_LEN};
use roadrunner_core::testing::{say_hello, soon};
use roadrunner_core::{Method, TransferError};
use roadrunner_splice::{connect, Link, Listener, Options, Secret};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

pub fn secret() -> Secret {
    Secret::from_bytes(b"correct horse battery staple").expect("long enough")
}

/// Both ends of a link over loopback.
pub fn both(options: &Options) -> (Link, Link) {
    let mut listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a free port");
    open(&mut listener, "test", options)
}

pub fn open(listener: &mut Listener, name: &str, options: &Options) -> (Link, Link) {
    let address = listener.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, name, options, soon()));
        let accepted = listener.accept(soon()).expect("accepted");
        let connected = connecting.join().expect("no panic").expect("connected");
        (connected, accepted)
    })
}

/// Connects with `theirs` to a listener with `ours`, and gives both sides' errors.
pub fn turned_away(ours: Options, theirs: Options) -> (TransferError, TransferError) {
    let mut listener = Listener::bind("127.0.0.1:0", ours).expect("a free port");
    let address = listener.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "stranger", &theirs, soon()));
        let accepted = listener.accept(soon()).expect_err("a stranger");
        let connected = connecting
            .join()
            .expect("no panic")
            .expect_err("a stranger");
        (accepted, connected)
    })
}

/// A plain connection to a listener.
pub fn raw(listener: &Listener) -> TcpStream {
    TcpStream::connect(listener.address()).expect("it listens")
}

/// An end whose peer is a plain socket.
pub fn by_hand(options: &Options) -> (Link, TcpStream) {
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

/// What the frame of a payload starts with that is written, whether or not that is true.
pub fn data_header(sequence: u64, length: u64) -> [u8; HEADER_LEN] {
    let kind = Kind::Data {
        method: Method::Write,
        copies: 1,
        acknowledge: false,
    };
    Header {
        kind,
        sequence,
        length,
    }
    .encode()
}
