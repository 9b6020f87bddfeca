//! Links that are encrypted, and those who should not be at the other end.

#![cfg(feature = "tls")]

mod common;

use common::certificates::{
    answer_tls, being, by_hand_within_tls, encrypted, known, self_signed, speak_tls, tls, trusting,
    with_identity, Authority,
};
use common::{both, open, raw, secret, Fate, PageMemory, Proxy};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    self, setsockopt, socket, sockopt, AddressFamily, SockFlag, SockType, SockaddrIn,
};
use rcgen::CustomExtension;
use roadrunner_core::testing::{data_frame, fill, pattern, receive, say_hello, send, soon};
use roadrunner_core::{Deadline, HostMemory, Method, Payload, Region, Transfer, TransferError};
use roadrunner_splice::{
    connect, Link, Listener, Options, Preference, Session, SessionListener, Tls,
};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

fn listener(options: Options) -> Listener {
    Listener::bind("127.0.0.1:0", options).expect("a free port")
}

fn is_refused(error: &TransferError) -> bool {
    matches!(error, TransferError::Refused(_))
}

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
        let mut memory = PageMemory::new(LEN as u64);
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

/// Both sides' errors.
fn turned_away(ours: Options, theirs: Options) -> (TransferError, TransferError) {
    let mut listener = listener(ours);
    let address = listener.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "stranger", &theirs, soon()));
        let accepted = listener.accept(soon()).expect_err("a stranger");
        let connected = connecting.join().expect("no panic");
        (accepted, connected.expect_err("a stranger"))
    })
}

#[test]
fn a_listener_with_a_certificate_that_is_not_right_is_left_alone() {
    let (authority, _) = known();
    let long_ago = rcgen::date_time_ymd(2001, 1, 1);
    let expired = authority.sign("127.0.0.1", |params| {
        params.not_before = long_ago;
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let of_another_name = authority.sign("elsewhere.example", |_| {});
    let of_another_authority = Authority::new("a stranger").sign("127.0.0.1", |_| {});
    for (identity, why) in [
        (expired, "expired"),
        (of_another_name, "not valid for name"),
        (of_another_authority, "UnknownIssuer"),
        (self_signed("127.0.0.1"), "UnknownIssuer"),
    ] {
        for base in [Options::default(), Options::default().secret(secret())] {
            let ours = base.clone().tls(being(&identity));
            let theirs = base.tls(trusting(&authority.pem));
            let (accepting, connecting) = turned_away(ours, theirs);
            assert!(is_refused(&connecting), "{connecting}");
            assert!(connecting.to_string().contains(why), "{connecting}");
            assert!(is_refused(&accepting), "{accepting}");
        }
    }
}

#[test]
fn a_certificate_is_for_the_name_that_is_connected_to_or_asked_for() {
    let (authority, _) = known();
    for (certified, asked, at) in [
        ("localhost", None, "localhost"),
        ("elsewhere.example", Some("elsewhere.example"), "127.0.0.1"),
        ("::1", Some("::1"), "127.0.0.1"),
    ] {
        let identity = authority.sign(certified, |_| {});
        let mut listener = listener(encrypted().tls(being(&identity)));
        let mut tls = trusting(&authority.pem);
        if let Some(name) = asked {
            tls = tls.peer_name(name).expect("a name");
        }
        let options = encrypted().tls(tls);
        let address = format!("{at}:{}", listener.address().port());
        thread::scope(|scope| {
            let connecting = scope.spawn(|| connect(&address, "by name", &options, soon()));
            listener.accept(soon()).expect("accepted");
            connecting.join().expect("no panic").expect("connected");
        });
    }
}

/// What the listener shows is more than its connection takes at once.
#[test]
fn a_long_certificate_goes_through_small_buffers() {
    const LEN: usize = 50_000;
    const BUFFER: usize = 4096;
    let (authority, _) = known();
    let comment = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55_555, 1], vec![0; LEN]);
    let long = authority.sign("127.0.0.1", |params| params.custom_extensions.push(comment));
    let options = Options::default().tls(being(&long)).buffer(BUFFER);
    let mut listener = listener(options);
    // The window that it offers is small from the start.
    let (family, kind) = (AddressFamily::Inet, SockType::Stream);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("a descriptor");
    setsockopt(&socket, sockopt::RcvBuf, &BUFFER).expect("a size");
    let SocketAddr::V4(address) = listener.address() else {
        panic!("{}", listener.address());
    };
    socket::connect(socket.as_raw_fd(), &SockaddrIn::from(address)).expect("it listens");
    let mut stream = speak_tls(TcpStream::from(socket));
    stream.conn.write_tls(&mut stream.sock).expect("room");
    let mut patience = 10_000_u16;
    let mut has_something_to_do = |listener: &Listener| {
        let mut events = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut events, std::mem::take(&mut patience)).expect("a descriptor") > 0
    };
    while has_something_to_do(&listener) {
        let accepted = listener.try_accept().expect("nothing wrong");
        assert!(accepted.is_none(), "nobody takes what it says");
    }
    thread::scope(|scope| {
        let hand = scope.spawn(move || {
            let mut shown = Vec::new();
            while shown.len() < LEN {
                let mut bytes = [0; BUFFER];
                let count = stream.sock.read(&mut bytes).expect("all of it");
                assert!(count > 0, "it ended after {} bytes", shown.len());
                shown.extend(&bytes[..count]);
            }
            // Only now it says another word.
            let mut shown = &shown[..];
            while !shown.is_empty() {
                stream.conn.read_tls(&mut shown).expect("room");
                stream.conn.process_new_packets().expect("nothing wrong");
            }
            say_hello(&mut stream, "by hand").expect("hello");
        });
        listener.accept(soon()).expect("hello");
        hand.join().expect("no panic");
    });
}

#[test]
fn a_certificate_that_is_trusted_itself_pins_its_owner() {
    let identity = self_signed("127.0.0.1");
    let ours = encrypted().tls(being(&identity));
    let theirs = encrypted().tls(trusting(&identity.certificate));
    let mut pinned = listener(ours);
    let address = pinned.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "pinned", &theirs, soon()));
        pinned.accept(soon()).expect("accepted");
        connecting.join().expect("no panic").expect("connected");
    });
    let (_, connecting) = turned_away(encrypted(), theirs);
    assert!(is_refused(&connecting), "{connecting}");
}

#[test]
fn a_listener_that_asks_for_certificates_gets_one_that_it_trusts() {
    let (authority, _) = known();
    let asking = || encrypted().tls(tls().ask_for_certificates());
    let trusts = || trusting(&authority.pem);
    let strange = Authority::new("a stranger").sign("127.0.0.1", |_| {});
    for (theirs, why) in [
        (trusts(), "no certificate"),
        (with_identity(trusts(), &strange), "UnknownIssuer"),
    ] {
        let (accepting, connecting) = turned_away(asking(), encrypted().tls(theirs));
        assert!(is_refused(&accepting), "{accepting}");
        assert!(accepting.to_string().contains(why), "{accepting}");
        assert!(
            matches!(
                connecting,
                TransferError::Refused(_) | TransferError::PeerClosed
            ),
            "{connecting}"
        );
    }
    let mut listener = listener(asking());
    let client = authority.sign("a client", |_| {});
    let theirs = encrypted().tls(with_identity(trusts(), &client));
    let address = listener.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "known", &theirs, soon()));
        listener.accept(soon()).expect("accepted");
        connecting.join().expect("no panic").expect("connected");
    });
}

#[test]
fn a_wrong_secret_is_turned_away_all_the_same() {
    let wrong = roadrunner_splice::Secret::from_bytes([1; 32]).expect("long enough");
    let (accepting, connecting) = turned_away(encrypted(), encrypted().secret(wrong));
    assert!(is_refused(&accepting), "{accepting}");
    assert!(is_refused(&connecting), "{connecting}");
}

#[test]
fn one_who_speaks_plainly_and_one_who_does_not_never_meet() {
    for base in [Options::default(), Options::default().secret(secret())] {
        let within = base.clone().tls(tls());
        let (accepting, connecting) = turned_away(within.clone(), base.clone());
        assert!(is_refused(&accepting), "{accepting}");
        assert!(is_refused(&connecting), "{connecting}");
        assert!(connecting.to_string().contains("TLS"), "{connecting}");
        let (accepting, connecting) = turned_away(base, within);
        assert!(
            matches!(
                accepting,
                TransferError::Refused(_) | TransferError::Protocol(_)
            ),
            "{accepting}"
        );
        assert!(
            matches!(
                connecting,
                TransferError::Refused(_) | TransferError::PeerClosed
            ),
            "{connecting}"
        );
    }
}

/// One who has a certificate that the connecting side trusts, and the listener's word: he passes on what each says inside.
#[test]
fn a_proof_that_is_passed_on_from_another_tunnel_is_refused() {
    const GREETING: usize = 40;
    const TAG: usize = 32;
    let mut listener = listener(encrypted());
    let between = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = between.local_addr().expect("bound").to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "deceived", &encrypted(), soon()));
        let (near, _) = between.accept().expect("it connects");
        let far = raw(&listener);
        let relaying = scope.spawn(move || {
            let (mut near, mut far) = (answer_tls(near, &known().1), speak_tls(far));
            let mut greeting = [0; GREETING];
            near.read_exact(&mut greeting).expect("a greeting");
            assert!(greeting.starts_with(b"auth-RR1"), "it reads all of it");
            far.write_all(&greeting).expect("room");
            far.read_exact(&mut greeting).expect("a greeting");
            near.write_all(&greeting).expect("room");
            let mut tag = [0; TAG];
            near.read_exact(&mut tag).expect("a proof");
            far.write_all(&tag).expect("room");
            far.read_exact(&mut tag)
        });
        let error = listener.accept(soon()).expect_err("of another tunnel");
        assert!(is_refused(&error), "{error}");
        relaying.join().expect("no panic").expect_err("no answer");
        let error = connecting.join().expect("no panic").expect_err("no answer");
        assert!(is_refused(&error), "{error}");
    });
}

#[test]
fn garbage_instead_of_hands_is_refused_and_a_glance_is_none() {
    let mut listener = listener(encrypted());
    let mut hello = vec![22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc];
    hello.extend(pattern(0x3ffc, 1));
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(),
        pattern(100_000, 3),
        vec![0; 20_000],
        vec![22; 20_000],
        data_frame(0, b"a payload"),
        hello,
    ] {
        let mut stream = raw(&listener);
        // It may be reset before all of it is out.
        let _ = stream.write_all(&bytes);
        let error = listener.accept(soon()).expect_err("garbage");
        assert!(is_refused(&error), "{error}");
    }
    drop(raw(&listener));
    open(&mut listener, "the listener goes on", &encrypted());
}

#[test]
fn slow_hands_hold_nobody_up() {
    let options = encrypted().handshake(Duration::from_millis(200));
    let mut listener = listener(options.clone());
    let mut held: Vec<_> = (0..6).map(|_| raw(&listener)).collect();
    // Half of them begin a greeting and go no further.
    for stream in &mut held[..3] {
        stream
            .write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])
            .expect("room");
    }
    // And one shakes hands, and does not prove anything.
    let mut mute = speak_tls(raw(&listener));
    let (mut a, mut b) = open(&mut listener, "talks", &options);
    send(&mut a, b"x", soon()).expect("sent");
    assert_eq!(receive(&mut b).expect("received").0, b"x");
    thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let _ = mute.read(&mut [0; 40]);
            mute.read(&mut [0; 1])
        });
        for _ in 0..=held.len() {
            let error = listener.accept(soon()).expect_err("silent");
            assert!(is_refused(&error), "{error}");
        }
        let _ = waiting.join().expect("no panic");
    });
    let nobody = listener.accept(Deadline::after(Duration::from_millis(1)));
    assert!(matches!(nobody, Err(TransferError::Timeout)));
    open(&mut listener, "the listener goes on", &options);
}

#[test]
fn a_listener_that_never_answers_ends_in_a_timeout() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = mute.local_addr().expect("bound").to_string();
    let deadline = Deadline::after(Duration::from_millis(50));
    let error = connect(&address, "hello?", &encrypted(), deadline).expect_err("mute");
    assert!(matches!(error, TransferError::Timeout), "{error}");
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

#[test]
fn what_cannot_be_shown_or_trusted_is_said_at_once() {
    let (authority, identity) = known();
    let another = self_signed("127.0.0.1");
    for (made, why) in [
        (Tls::new().trust("no certificate"), "no certificate"),
        (
            Tls::new().trust_file("/nonexistent/authority.pem"),
            "/nonexistent/authority.pem",
        ),
        (Tls::new().identity("", &identity.key), "no certificate"),
        (
            Tls::new().identity(&identity.certificate, ""),
            "private key",
        ),
        (
            Tls::new().identity(&identity.certificate, &another.key),
            "private key",
        ),
        (
            Tls::new().identity_from_files("/nonexistent/a", "/nonexistent/b"),
            "/nonexistent/a",
        ),
        (Tls::new().peer_name("no name"), "no name"),
    ] {
        let error = made.expect_err("nothing right");
        assert!(error.to_string().contains(why), "{error}");
    }
    let printed = format!("{:?}", tls());
    assert!(
        !printed.contains("PRIVATE") && printed.len() < 200,
        "{printed}"
    );

    let trusts = encrypted().tls(trusting(&authority.pem));
    let error = Listener::bind("127.0.0.1:0", trusts).expect_err("nothing to show");
    assert!(
        is_refused(&error) && error.to_string().contains("certificate"),
        "{error}"
    );
    let listener = listener(encrypted());
    let shows = encrypted().tls(being(identity));
    let error = connect(&listener.address().to_string(), "all", &shows, soon());
    let error = error.expect_err("nobody to trust");
    assert!(
        is_refused(&error) && error.to_string().contains("trust"),
        "{error}"
    );
}
