//! Links to test with, for each of the test programs.

#[cfg(feature = "tls")]
pub(crate) mod certificates;

use roadrunner_core::testing::soon;
use roadrunner_core::LinearMemory;
use roadrunner_mem::PageBuffer;
use roadrunner_splice::{connect, Link, Listener, Options, Secret};
use std::thread;

pub(crate) fn secret() -> Secret {
    Secret::from_bytes(b"correct horse battery staple").expect("long enough")
}

/// Both ends of a link over loopback.
pub(crate) fn both(options: &Options) -> (Link, Link) {
    let mut listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a free port");
    open(&mut listener, "test", options)
}

pub(crate) fn open(listener: &mut Listener, name: &str, options: &Options) -> (Link, Link) {
    let address = listener.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, name, options, soon()));
        let accepted = listener.accept(soon()).expect("accepted");
        let connected = connecting.join().expect("no panic").expect("connected");
        (connected, accepted)
    })
}

/// Pages that may be taken, as those of a runtime.
pub(crate) fn pages(len: u64) -> PageBuffer {
    PageBuffer::new(len as usize).expect("memory")
}

/// The same for the suites.
pub(crate) fn page_memory(len: u64) -> Box<dyn LinearMemory + Send> {
    Box::new(pages(len))
}
