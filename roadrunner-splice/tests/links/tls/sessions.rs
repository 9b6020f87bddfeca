//! Sessions whose connections are encrypted.

use super::encrypted;
use crate::proxy::Proxy;
use roadrunner_core::testing::{pattern, receive, send, soon};
use roadrunner_core::{Deadline, HostMemory, LinearMemory, Region, Sink, Transfer, TransferError};
use roadrunner_splice::{Session, SessionListener};
use std::thread;
use std::time::Duration;

#[test]
fn a_session_goes_on_when_its_encrypted_connection_is_cut() {
    let listener = SessionListener::bind("127.0.0.1:0", encrypted()).expect("a free port");
    // The first connection is cut in the midst of the second payload.
    let proxy = Proxy::start(
        listener.address(),
        |number, back: bool, at, bytes: &mut [u8]| {
            let most = if number == 0 && !back {
                150_000
            } else {
                usize::MAX
            };
            bytes.len().min(most - at)
        },
    );
    let address = proxy.address.to_string();
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut session = Session::connect(&address, "long", &encrypted(), soon())?;
            for n in 0..3 {
                send(&mut session, &pattern(100_000, n), soon())?;
            }
            session.close(soon())
        });
        let mut session = listener.accept(soon()).expect("accepted");
        for n in 0..3 {
            let (bytes, receipt) = receive(&mut session).expect("received");
            assert!(bytes == pattern(100_000, n));
            assert_eq!(receipt.copies(), 6);
        }
        assert!(matches!(receive(&mut session), Err(TransferError::Closed)));
        sending.join().expect("no panic").expect("sent");
    });
}

/// Acknowledgements that come in one read are nothing that a receive has to do with.
#[test]
fn a_session_to_which_payloads_are_acknowledged_is_not_ready() {
    let listener = SessionListener::bind("127.0.0.1:0", encrypted()).expect("a free port");
    let address = listener.address().to_string();
    let (mut a, mut b) = thread::scope(|scope| {
        let connecting = scope.spawn(|| Session::connect(&address, "asked", &encrypted(), soon()));
        let accepted = listener.accept(soon()).expect("accepted");
        let connected = connecting.join().expect("no panic").expect("connected");
        (connected, accepted)
    });
    for n in 0..3 {
        send(&mut a, &pattern(100, n), soon()).expect("sent");
    }
    for n in 0..3 {
        assert!(receive(&mut b).expect("received").0 == pattern(100, n));
    }
    let late = soon();
    while a.unacknowledged() > 0 {
        assert!(!a.is_ready().expect("open"), "nothing was sent to it");
        assert!(!late.has_passed(), "they are acknowledged");
    }
    send(&mut b, b"an answer", soon()).expect("sent");
    while !a.is_ready().expect("open") {
        assert!(!late.has_passed(), "it was answered");
    }
    assert_eq!(receive(&mut a).expect("received").0, b"an answer");
    drop((a, b));
}

/// It takes until this deadline to find a place.
struct Slow(HostMemory, Deadline);

impl Sink for Slow {
    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.0.memory()
    }

    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        while !self.1.has_passed() {
            thread::yield_now();
        }
        self.0.reserve(len, align)
    }

    fn release(&mut self, region: Region) {
        self.0.release(region);
    }
}

/// What lies there already, in many records, is not read past the deadline for that.
#[test]
fn a_session_that_sends_what_it_has_kept_receives_no_longer_than_until_its_deadline() {
    let options = encrypted().buffer(1 << 20);
    let listener = SessionListener::bind("127.0.0.1:0", options.clone()).expect("a free port");
    let address = listener.address().to_string();
    let (mut a, mut b) = thread::scope(|scope| {
        let connecting = scope.spawn(|| Session::connect(&address, "busy", &options, soon()));
        let accepted = listener.accept(soon()).expect("accepted");
        let connected = connecting.join().expect("no panic").expect("connected");
        (connected, accepted)
    });
    // Longer than the buffers, so that the rest waits at the new connection.
    let long = pattern(8 << 20, 1);
    send(&mut a, &long, Deadline::after(Duration::from_millis(20))).expect("kept");
    let late = soon();
    while !a.is_connected() {
        assert!(!a.is_ready().expect("open"), "nothing comes");
        b.is_ready().expect("open");
        assert!(!late.has_passed(), "it connects again");
    }
    let short = pattern(200_000, 2);
    send(&mut b, &short, soon()).expect("room");
    let deadline = Deadline::after(Duration::from_secs(1));
    let mut sink = Slow(HostMemory::new(), deadline);
    let received = a.recv(&mut sink, deadline);
    assert!(
        matches!(received, Err(TransferError::Timeout)),
        "{received:?}"
    );
    // It comes again.
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&mut b).expect("received").0);
        assert!(receive(&mut a).expect("received").0 == short);
        // What is left of its own.
        while !receiver.is_finished() {
            assert!(!a.is_ready().expect("open"), "nothing comes");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(receiver.join().expect("no panic") == long);
    });
    drop((a, b));
}
