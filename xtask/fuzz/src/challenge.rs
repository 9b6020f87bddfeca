//! The proof of the secret, against a stranger. There is a socket beneath it, so that it is slower than the other targets.

use roadrunner_core::{Deadline, TransferError};
use roadrunner_splice::{connect, Listener, Options, Secret};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{channel, Sender};
use std::thread;
use std::time::Duration;

const SECRET: &[u8] = b"nobody can guess this one";
/// Nobody waits so long here.
const LONG: Duration = Duration::from_secs(5);

/// Both ends that are to be fooled.
struct Ends {
    listener: Listener,
    /// A listener that is no Roadrunner's, and what it is to say next.
    stranger: SocketAddr,
    says: Sender<Vec<u8>>,
}

thread_local! {
    static ENDS: RefCell<Ends> = RefCell::new(Ends::new());
}

fn options() -> Options {
    let secret = Secret::from_bytes(SECRET).expect("long enough");
    Options::default().secret(secret).handshake(LONG)
}

impl Ends {
    fn new() -> Self {
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
            listener: Listener::bind("127.0.0.1:0", options()).expect("a free port"),
            stranger: address,
            says,
        }
    }
}

/// Says all, and reads what there is to the end, so that nothing is reset before it was read.
fn say(socket: &mut TcpStream, bytes: &[u8]) {
    // The other side may have hung up in the midst of it.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(LONG));
    let _ = socket.read_to_end(&mut Vec::new());
}

/// The first byte says whether the stranger connects or listens, and whether it knows how a greeting begins.
pub(crate) fn run(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let mut bytes = rest.to_vec();
    if first & 2 != 0 {
        bytes.splice(..0, *b"auth-RR1");
    }
    ENDS.with_borrow_mut(|ends| {
        if first & 1 == 0 {
            let address = ends.listener.address();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut socket = TcpStream::connect(address).expect("it listens");
                    say(&mut socket, &bytes);
                });
                let accepted = ends
                    .listener
                    .accept(Deadline::after(Duration::from_millis(500)));
                refused(accepted.map(drop));
            });
        } else {
            ends.says.send(bytes).expect("it listens");
            let connected = connect(
                &ends.stranger.to_string(),
                "fuzz",
                &options(),
                Deadline::after(LONG),
            );
            refused(connected.map(drop));
        }
    });
}

/// A stranger gets no link, and nothing else goes wrong.
fn refused(opened: Result<(), TransferError>) {
    match opened {
        Ok(()) => panic!("a stranger got in"),
        // One that says nothing is no error of the listener's.
        Err(
            TransferError::Refused(_)
            | TransferError::Timeout
            | TransferError::PeerClosed
            | TransferError::Truncated { .. },
        ) => {}
        Err(other) => panic!("{other}"),
    }
}
