//! Both sides that open links, and strangers who say anything to them.

use roadrunner_core::{Deadline, TransferError};
use roadrunner_splice::{connect, Link, Listener, Options};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{channel, Sender};
use std::thread;
use std::time::Duration;

/// Nobody waits so long here.
pub(crate) const LONG: Duration = Duration::from_secs(5);

/// Both ends that are to be fooled.
pub(crate) struct Ends {
    options: Options,
    listener: Listener,
    /// A listener that is no Roadrunner's, and what it is to say next.
    stranger: SocketAddr,
    says: Sender<Vec<u8>>,
}

impl Ends {
    pub(crate) fn new(options: Options) -> Self {
        let options = options.handshake(LONG);
        let stranger = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (says, next) = channel::<Vec<u8>>();
        let address = stranger.local_addr().expect("an address");
        thread::spawn(move || {
            for (bytes, socket) in next.into_iter().zip(stranger.incoming()) {
                if let Ok(mut socket) = socket {
                    say(&mut socket, &bytes);
                }
            }
        });
        Self {
            listener: Listener::bind("127.0.0.1:0", options.clone()).expect("a free port"),
            options,
            stranger: address,
            says,
        }
    }

    /// Both ends of a link of two who know each other: of the side that connected, and of the one that accepted.
    pub(crate) fn open(&mut self) -> (Link, Link) {
        let address = self.listener.address().to_string();
        let options = &self.options;
        thread::scope(|scope| {
            let connecting = scope.spawn(|| connect(&address, "fuzz", options, late()));
            let accepted = self.listener.accept(late()).expect("they know each other");
            let connected = connecting.join().expect("no panic");
            (connected.expect("they know each other"), accepted)
        })
    }

    /// A stranger connects, says this, and no more. Waiting for nobody, so that there are many a second.
    pub(crate) fn called(&mut self, bytes: &[u8]) {
        let mut socket = TcpStream::connect(self.listener.address()).expect("it listens");
        // There is room for so little.
        socket.write_all(bytes).expect("a new connection");
        let _ = socket.shutdown(Shutdown::Write);
        socket.set_nonblocking(true).expect("a socket");
        let late = late();
        while !is_over(&mut socket) {
            assert!(!late.has_passed(), "one who has said all is kept");
            match self.listener.accept(Deadline::now()) {
                Err(TransferError::Timeout) => {}
                accepted => refused(accepted),
            }
        }
    }

    /// One connects to a stranger who says this, and no more.
    pub(crate) fn calls(&mut self, bytes: Vec<u8>) {
        self.says.send(bytes).expect("it listens");
        let stranger = self.stranger.to_string();
        refused(connect(&stranger, "fuzz", &self.options, late()));
    }
}

fn late() -> Deadline {
    Deadline::after(LONG)
}

/// Says all, and reads what there is to the end, so that nothing is reset before it was read.
fn say(socket: &mut TcpStream, bytes: &[u8]) {
    // The other side may have hung up in the midst of it.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(LONG));
    let _ = socket.read_to_end(&mut Vec::new());
}

/// Whether the other side has hung up.
fn is_over(socket: &mut TcpStream) -> bool {
    loop {
        match socket.read(&mut [0; 512]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// A stranger gets no link, and nothing else goes wrong.
fn refused(opened: Result<Link, TransferError>) {
    match opened {
        Ok(_) => panic!("a stranger got in"),
        Err(
            TransferError::Refused(_) | TransferError::PeerClosed | TransferError::Truncated { .. },
        ) => {}
        Err(other) => panic!("{other}"),
    }
}
