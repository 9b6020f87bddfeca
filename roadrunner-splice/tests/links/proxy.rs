//! A connection in between, which changes bytes or cuts connections where a test says so.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

/// What happens to bytes on their way from the side that connected to the side that listens, or back.
pub(crate) trait Fate: Send + Sync + 'static {
    /// `bytes` come next on connection number `connection`, `at` bytes after its first one. They may be changed; how
    /// many of them pass before the connection is cut, or all.
    fn pass(&self, connection: usize, back: bool, at: usize, bytes: &mut [u8]) -> usize;
}

impl<F: Fn(usize, bool, usize, &mut [u8]) -> usize + Send + Sync + 'static> Fate for F {
    fn pass(&self, connection: usize, back: bool, at: usize, bytes: &mut [u8]) -> usize {
        self(connection, back, at, bytes)
    }
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn start(target: SocketAddr, fate: impl Fate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, fate) = (stop.clone(), Arc::new(fate));
        let thread = thread::spawn(move || {
            let mut threads = Vec::new();
            let mut open = Vec::new();
            for (number, near) in listener.incoming().enumerate() {
                if stopping.load(Ordering::SeqCst) {
                    break;
                }
                let near = Arc::new(near.expect("accepted"));
                let Ok(far) = TcpStream::connect(target).map(Arc::new) else {
                    continue;
                };
                open.extend([&near, &far].map(Arc::downgrade));
                for back in [false, true] {
                    let ends = (near.clone(), far.clone());
                    let (from, to) = if back { (ends.1, ends.0) } else { ends };
                    let fate = fate.clone();
                    threads.push(thread::spawn(move || {
                        pump(&*fate, number, back, &from, &to);
                    }));
                }
            }
            // Who holds the other ends may wait for this.
            for end in open.iter().filter_map(Weak::upgrade) {
                let _ = end.shutdown(Shutdown::Both);
            }
            for thread in threads {
                thread.join().expect("no panic");
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

fn pump(fate: &dyn Fate, number: usize, back: bool, mut from: &TcpStream, mut to: &TcpStream) {
    let mut bytes = [0; 16 << 10];
    let mut at = 0;
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let passed = fate.pass(number, back, at, &mut bytes[..count]);
        at += passed;
        if to.write_all(&bytes[..passed]).is_err() {
            break;
        }
        if passed < count {
            // Both ways, as a cable does.
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            assert!(joined.is_ok() || thread::panicking());
        }
    }
}
