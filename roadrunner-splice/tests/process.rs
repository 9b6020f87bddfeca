//! Two processes, one of which dies. The only test of this file, because it counts the process's descriptors.

use roadrunner_core::testing::{fill, pattern, receive, send, soon, CountingSink};
use roadrunner_core::{LinearMemory, Method, Payload, Region, Sink, Transfer, TransferError};
use roadrunner_mem::PageBuffer;
use roadrunner_splice::{connect, Link, Listener, Options, Preference};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

const ADDRESS: &str = "ROADRUNNER_TEST_ADDRESS";
const LEN: u64 = 16 << 20;

fn child(address: &str, name: &str) -> Child {
    Command::new(env::current_exe().expect("this program"))
        .args([
            "--exact",
            "a_killed_process_leaves_nothing_behind",
            "--nocapture",
        ])
        .env(ADDRESS, address)
        .env("ROADRUNNER_TEST_NAME", name)
        .stdout(Stdio::null())
        .spawn()
        .expect("started")
}

const RECEIVER: &str = "receiver";

/// What the child does: sends one payload after the other until it is killed, or receives one and dies in the next.
fn be_the_child(address: &str) {
    let name = env::var("ROADRUNNER_TEST_NAME").expect("from the parent");
    let mut link = connect(address, &name, &Options::default(), soon()).expect("it listens");
    if name == RECEIVER {
        assert!(receive(&mut link).expect("the first one").0 == pattern(LEN, 2));
        let _ = link.recv(&mut Mortal, soon());
    }
    while send(&mut link, &pattern(LEN, 1), soon()).is_ok() {}
}

/// Dies when a payload is on its way to it.
struct Mortal;

impl Sink for Mortal {
    fn reserve(&mut self, _len: u64, _align: u64) -> Result<Region, TransferError> {
        std::process::exit(9);
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        unreachable!("it is dead")
    }

    fn release(&mut self, _region: Region) {}
}

fn splice(link: &mut Link, memory: &mut PageBuffer) -> Result<Method, TransferError> {
    fill(memory, 0, &pattern(LEN, 2));
    let payload = Payload::given(memory, Region::new(0, LEN))?;
    link.send(payload, soon()).map(|receipt| receipt.method())
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[test]
fn a_killed_process_leaves_nothing_behind() {
    if let Ok(address) = env::var(ADDRESS) {
        return be_the_child(&address);
    }
    let before = descriptors();
    let options = Options::default().prefer(Preference::Splice);
    let mut listener = Listener::bind("127.0.0.1:0", options).expect("a free port");
    let address = listener.address().to_string();
    for round in 0..5 {
        let name = format!("round {round}");
        let mut sender = child(&address, &name);
        let mut link = listener.accept(soon()).expect("the child connects");
        assert_eq!(link.name(), name);
        let (bytes, _) = receive(&mut link).expect("the first one, whole");
        assert!(bytes == pattern(LEN, 1));

        // More than the socket holds is still to come of the second one, so it dies in the middle.
        sender.kill().expect("it runs");
        sender.wait().expect("it is ours");
        let mut sink = CountingSink::default();
        let error = link.recv(&mut sink, soon()).expect_err("killed");
        assert!(
            matches!(
                error,
                TransferError::Truncated { .. } | TransferError::PeerClosed
            ),
            "{error}"
        );
        assert_eq!(sink.reserved, sink.released);
        assert!(!link.is_open());
    }
    for _ in 0..3 {
        let mut receiver = child(&address, RECEIVER);
        let mut link = listener.accept(soon()).expect("the child connects");
        let mut memory = PageBuffer::new(LEN as usize).expect("memory");
        let method = splice(&mut link, &mut memory).expect("the first one, whole");
        assert_eq!(method, Method::Splice);
        // Later ones, because the sockets may hold the whole of the one that it dies in.
        let error = (0..10)
            .find_map(|_| splice(&mut link, &mut memory).err())
            .expect("nobody is there");
        assert!(matches!(error, TransferError::PeerClosed), "{error}");
        assert!(!link.is_open());
        receiver.wait().expect("it is ours");
    }
    drop(listener);
    assert_eq!(descriptors(), before);
}
