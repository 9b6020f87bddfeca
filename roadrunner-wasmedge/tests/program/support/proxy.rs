//! What lies between two hosts: it sees all that they say to each other, and can cut it off.

use super::server::Server;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// What has been said, one way and the other.
    seen: [Mutex<Vec<u8>>; 2],
    ends: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    /// How many bytes pass to the side that listens, if not all.
    most: Mutex<Option<usize>>,
    released: Condvar,
}

impl Proxy {
    /// Passes on to `target` what comes to `listener`.
    pub(crate) fn start(listener: TcpListener, target: SocketAddr) -> Self {
        let address = listener.local_addr().expect("bound");
        let shared = Arc::<Shared>::default();
        let of_thread = shared.clone();
        let thread = thread::spawn(move || {
            let mut pumps = Vec::new();
            for near in listener.incoming() {
                if of_thread.stop.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(target)) else {
                    continue;
                };
                of_thread.connections.fetch_add(1, Ordering::SeqCst);
                let more = |end: &TcpStream| end.try_clone().expect("one more");
                let ends = [more(&near), more(&far)];
                of_thread.ends.lock().expect("no panic").extend(ends);
                for (way, from, to) in [(0, more(&near), more(&far)), (1, far, near)] {
                    let shared = of_thread.clone();
                    pumps.push(thread::spawn(move || pump(&shared, way, from, to)));
                }
            }
            of_thread.cut();
            for pump in pumps {
                pump.join().expect("no panic");
            }
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// Ends the connections that there are; new ones are passed on as before.
    pub(crate) fn cut(&self) {
        self.shared.cut();
    }

    /// Lets no more than about so many bytes pass to the side that listens, of all that come from now on.
    pub(crate) fn hold_after(&self, bytes: usize) {
        *self.shared.most.lock().expect("no panic") = Some(bytes);
    }

    /// Lets them go on.
    pub(crate) fn release(&self) {
        *self.shared.most.lock().expect("no panic") = None;
        self.shared.released.notify_all();
    }

    /// Whether these bytes have passed, one way or the other.
    #[cfg(feature = "tls")]
    pub(crate) fn saw(&self, bytes: &[u8]) -> bool {
        self.shared.seen.iter().any(|seen| {
            let seen = seen.lock().expect("no panic");
            seen.windows(bytes.len()).any(|window| window == bytes)
        })
    }

    /// How many connections it has passed on.
    #[cfg(feature = "tls")]
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many bytes have come.
    pub(crate) fn bytes(&self) -> usize {
        let seen = self.shared.seen.iter();
        seen.map(|seen| seen.lock().expect("no panic").len()).sum()
    }
}

impl Shared {
    fn cut(&self) {
        for end in self.ends.lock().expect("no panic").drain(..) {
            // It may have ended by itself.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn pump(shared: &Shared, way: usize, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 16 << 10];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        passed += count;
        shared.seen[way]
            .lock()
            .expect("no panic")
            .extend_from_slice(&bytes[..count]);
        let most = shared.most.lock().expect("no panic");
        let is_held = |most: &mut Option<usize>| way == 0 && most.is_some_and(|most| passed > most);
        drop(shared.released.wait_while(most, is_held));
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Whoever waits for more hears that there is none.
    let _ = to.shutdown(Shutdown::Write);
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.release();
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

/// A loopback address that no other process of tests uses.
pub(crate) fn own_address(number: u8) -> Ipv4Addr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 * (number % 3) + a % 64 + 1, b, c)
}

/// Two ports in a row, held.
pub(crate) fn two_ports(address: Ipv4Addr) -> [TcpListener; 2] {
    loop {
        let first = TcpListener::bind((address, 0)).expect("a free port");
        let port = first.local_addr().expect("bound").port();
        let next = port
            .checked_add(1)
            .map(|next| TcpListener::bind((address, next)));
        if let Some(Ok(second)) = next {
            return [first, second];
        }
    }
}

/// A server, and all that lies on the way to it: the run's connection, and that of the first function that listens there.
pub(crate) struct Watched {
    pub(crate) server: Server,
    pub(crate) control: Proxy,
    pub(crate) data: Proxy,
}

impl Watched {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        // A function listens at the server's address, and its predecessor connects to the one that the run knows.
        let (real, known) = (own_address(0), own_address(1));
        let (listener, port) = loop {
            let [first, _second] = two_ports(real);
            let port = first.local_addr().expect("bound").port();
            if let Ok(listener) = TcpListener::bind((known, port)) {
                break (listener, port);
            }
        };
        let data = Proxy::start(listener, SocketAddr::new(real.into(), port));
        let ports = format!("{port}-{}", port + 1);
        let mut all = vec!["--ports", &ports];
        all.extend(arguments);
        let program = Command::new(env!("CARGO_BIN_EXE_roadrunner"));
        let server = Server::start_as(program, &format!("{real}:0"), &all);
        let listener = TcpListener::bind((known, 0)).expect("a free port");
        let control = Proxy::start(listener, server.address.parse().expect("an address"));
        Self {
            server,
            control,
            data,
        }
    }
}
