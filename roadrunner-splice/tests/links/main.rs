//! Links between hosts: what they carry, by which way, who may open one, and what becomes of them.

#[path = "../common/by_hand.rs"]
mod by_hand;
mod checksum;
#[path = "../common/mod.rs"]
mod common;
mod contract;
mod fallback;
mod hosts;
mod listener;
mod proxy;
mod server;
mod session;
mod splice;
mod streams;
#[cfg(feature = "tls")]
mod tls;
mod zerocopy;

use roadrunner_core::frame::{Header, Kind, HEADER_LEN};
use roadrunner_core::testing::soon;
use roadrunner_core::{Method, TransferError};
use roadrunner_splice::{connect, Listener, Options};
use std::process::Command;
use std::{env, thread};

/// Connects with `theirs` to a listener with `ours`, and gives both sides' errors.
fn turned_away(ours: Options, theirs: Options) -> (TransferError, TransferError) {
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

/// What the frame of a payload starts with that is written, whether or not that is true.
fn data_header(sequence: u64, length: u64) -> [u8; HEADER_LEN] {
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

/// Runs `test`, of the test `name`, in a process of its own: it changes what belongs to the process.
fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "ROADRUNNER_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return test();
    }
    let output = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", name])
        .env(ALONE, "1")
        .output()
        .expect("started");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("1 passed"), "no test {name}: {said}");
}
