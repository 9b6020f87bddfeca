//! Two processes, one of which is killed. The only test of this file, because it counts the process's descriptors.

use roadrunner_core::testing::{pattern, receive, send, soon, CountingSink};
use roadrunner_core::{Transfer, TransferError};
use roadrunner_splice::{connect, Listener, Options};
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

/// What the child does: sends one payload after the other until it is killed or turned away.
fn be_the_child(address: &str) {
    let name = env::var("ROADRUNNER_TEST_NAME").expect("from the parent");
    let mut link = connect(address, &name, &Options::default(), soon()).expect("it listens");
    while send(&mut link, &pattern(LEN, 1), soon()).is_ok() {}
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
    let mut listener = Listener::bind("127.0.0.1:0", Options::default()).expect("a free port");
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
    drop(listener);
    assert_eq!(descriptors(), before);
}
