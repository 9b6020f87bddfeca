//! Payloads on an encrypted link.

use super::{encrypted, listener};
use crate::by_hand::within_tls::by_hand_within_tls;
use crate::common::{both, pages};
use crate::proxy::{Fate, Proxy};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use roadrunner_core::testing::{data_frame, fill, pattern, receive, send, soon};
use roadrunner_core::{HostMemory, Method, Payload, Region, Transfer, TransferError};
use roadrunner_splice::{connect, Link, Options, Preference};
use std::collections::HashSet;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

#[test]
fn payloads_cross_and_receipts_count_what_encryption_moves() {
    for preference in [
        Preference::Auto,
        Preference::Splice,
        Preference::ZeroCopySend,
        Preference::Measured,
    ] {
        let options = encrypted().prefer(preference).checksum(true);
        let (mut a, mut b) = both(&options);
        assert!(a.wire().is_encrypted() && b.wire().is_encrypted());
        assert_eq!(a.wire().chosen(), None);
        for len in [0, 1, 16_384, 16_385, 65_536, 300_000, 5 << 20] {
            let bytes = pattern(len, len);
            let (sent, received) = thread::scope(|scope| {
                let sending = scope.spawn(|| send(&mut a, &bytes, soon()).expect("sent"));
                let received = receive(&mut b).expect("received");
                (sending.join().expect("no panic"), received)
            });
            assert!(received.0 == bytes, "{len}");
            let method = if len <= 16_384 {
                Method::Inline
            } else {
                Method::Write
            };
            assert_eq!((sent.method(), received.1.method()), (method, method));
            let copies = if len > 0 { (3, 6) } else { (0, 0) };
            assert_eq!((sent.copies(), received.1.copies()), copies);
        }
        a.close(soon()).expect("all is received");
        assert!(matches!(receive(&mut b), Err(TransferError::Closed)));
    }
}

#[test]
fn checksums_are_left_out_unless_they_are_asked_for() {
    let (a, _b) = both(&encrypted());
    assert!(!a.wire().has_checksums());
    let (a, _b) = both(&encrypted().checksum(true));
    assert!(a.wire().has_checksums());
}

/// Both ends of a link with somebody in between.
fn through(options: &Options, fate: impl Fate) -> (Proxy, Link, Link) {
    let mut listener = listener(options.clone());
    let proxy = Proxy::start(listener.address(), fate);
    let address = proxy.address.to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "a telling name", options, soon()));
        let accepted = listener.accept(soon()).expect("accepted");
        let connected = connecting.join().expect("no panic").expect("connected");
        (proxy, connected, accepted)
    })
}

/// Nothing of the name, the proof or a payload can be read in between, and what is changed there is noticed.
#[test]
fn nobody_in_between_reads_or_changes_a_payload() {
    let (seen, changes) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(AtomicBool::new(false)),
    );
    let (all, now) = (seen.clone(), changes.clone());
    let (_proxy, mut a, mut b) = through(&encrypted(), move |_, _, _, bytes: &mut [u8]| {
        all.lock().expect("no panic").extend_from_slice(bytes);
        if now.load(Ordering::SeqCst) {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        bytes.len()
    });
    send(&mut a, b"a telling payload", soon()).expect("sent");
    assert_eq!(receive(&mut b).expect("received").0, b"a telling payload");
    changes.store(true, Ordering::SeqCst);
    send(&mut a, b"a telling payload", soon()).expect("sent");
    let error = receive(&mut b).expect_err("it was changed");
    assert!(matches!(error, TransferError::Protocol(_)), "{error}");
    assert!(!b.is_open());
    drop((a, b));
    let seen = seen.lock().expect("no panic");
    assert!(seen.len() > 1000, "{}", seen.len());
    for word in [&b"telling"[..], b"auth-RR1", b"RR\x01"] {
        assert!(!seen.windows(word.len()).any(|window| window == word));
    }
}

/// Whole pages that are given away could go out without passing through this process, where nothing can encrypt them.
#[test]
fn what_could_be_spliced_or_sent_without_a_copy_goes_out_encrypted() {
    const LEN: usize = 2 << 20;
    const WINDOW: usize = 16;
    for preference in [Preference::Splice, Preference::ZeroCopySend] {
        let options = encrypted().prefer(preference).splice_from(0);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = seen.clone();
        let (_proxy, mut a, mut b) = through(&options, move |_, _, _, bytes: &mut [u8]| {
            all.lock().expect("no panic").extend_from_slice(bytes);
            bytes.len()
        });
        let bytes = pattern(LEN as u64, 1);
        let mut memory = pages(LEN as u64);
        fill(&mut memory, 0, &bytes);
        let (sent, received) = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let whole = Region::new(0, LEN as u64);
                a.send(Payload::given(&mut memory, whole)?, soon())
            });
            let received = receive(&mut b);
            (sending.join().expect("no panic"), received)
        });
        drop((a, b));
        let seen = seen.lock().expect("no panic");
        assert!(seen.len() > LEN, "{}", seen.len());
        let parts: HashSet<_> = bytes.chunks_exact(WINDOW).collect();
        let shown = seen.windows(WINDOW).filter(|window| parts.contains(window));
        assert_eq!(shown.count(), 0, "{preference:?}");
        assert!(received.expect("received").0 == bytes);
        assert_eq!(sent.expect("sent").method(), Method::Write);
    }
}

/// Where TLS says goodbye, and where it does not.
#[test]
fn a_payload_that_is_cut_is_truncated() {
    for says_goodbye in [false, true] {
        let (mut link, mut stream) = by_hand_within_tls(&Options::default());
        let frame = data_frame(0, &pattern(100_000, 1));
        stream.write_all(&frame[..70_000]).expect("room");
        if says_goodbye {
            stream.conn.send_close_notify();
            stream.flush().expect("room");
        }
        drop(stream);
        let error = receive(&mut link).expect_err("it is cut");
        assert!(
            matches!(error, TransferError::Truncated { got: 70_000, .. }),
            "{error}"
        );
        assert!(!link.is_open());
    }
}

/// What lies in a record behind the payload that is received does not make the descriptor readable.
#[test]
fn what_is_decrypted_already_is_pending() {
    let (mut link, mut stream) = by_hand_within_tls(&Options::default());
    assert!(!link.has_pending());
    let frames: Vec<_> = (0..3).map(|n| data_frame(n, &[n as u8; 10])).collect();
    stream.write_all(&frames.concat()).expect("room");
    let mut ready = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
    poll(&mut ready, PollTimeout::from(10_000_u16)).expect("a descriptor");
    for n in 0..3 {
        let mut memory = HostMemory::new();
        let delivery = link
            .try_recv(&mut memory)
            .expect("good")
            .expect("all is here");
        assert_eq!(memory.bytes(delivery.region()), Some(&[n; 10][..]));
        let mut readable = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut readable, PollTimeout::ZERO), Ok(0));
        assert_eq!(link.has_pending(), n < 2, "{n}");
    }
    // Half of a record is nothing that could be received.
    assert!(link
        .try_recv(&mut HostMemory::new())
        .expect("good")
        .is_none());
    assert!(!link.has_pending());
}

/// As much as fits, then what is left when there is room: whatever it stops at, nothing is sent twice or left out.
#[test]
fn sending_goes_on_where_it_had_to_wait() {
    for len in [1, 100, 5_000, 16_384, 40_000, 3_000_000] {
        let options = encrypted().buffer(16 << 10);
        let (mut a, mut b) = both(&options);
        let mut memory = HostMemory::from(pattern(len, 7));
        let mut sent = 0;
        // Until there is no more room.
        while let Some(receipt) = a
            .try_send(Payload::kept(&mut memory, Region::new(0, len)).expect("inside"))
            .expect("it goes on")
        {
            assert_eq!(receipt.bytes(), len);
            sent += 1;
        }
        assert!(a.wants().write, "{len}");
        let (mut received, mut done) = (0, false);
        let mut sink = HostMemory::new();
        while !done || received < sent {
            if !done {
                let payload = Payload::kept(&mut memory, Region::new(0, len)).expect("inside");
                done = a.try_send(payload).expect("it goes on").is_some();
                sent += u32::from(done);
            }
            while let Some(delivery) = b.try_recv(&mut sink).expect("it goes on") {
                let came = sink.bytes(delivery.region());
                assert!(came == Some(&pattern(len, 7)[..]), "{len}");
                received += 1;
                sink = HostMemory::new();
            }
        }
        assert_eq!(received, sent, "{len}");
    }
}
