//! Whose hands are shaken, and whose are not.

use super::{being, encrypted, is_refused, listener};
use crate::by_hand::raw;
use crate::by_hand::within_tls::{of_pem, speak_tls};
use crate::common::certificates::{known, tls, trusting, with_identity, Authority, Identity};
use crate::common::{open, secret};
use crate::turned_away;
use nix::poll::{poll, PollFd, PollFlags};
use nix::sys::socket::{
    self, setsockopt, socket, sockopt, AddressFamily, SockFlag, SockType, SockaddrIn,
};
use rcgen::CustomExtension;
use roadrunner_core::testing::{data_frame, pattern, receive, say_hello, send, soon};
use roadrunner_core::{Deadline, TransferError};
use roadrunner_splice::{connect, Listener, Options, Tls};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Signed by nobody but itself.
fn self_signed(name: &str) -> Identity {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a name");
    Identity {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
    }
}

/// The accepting side by hand.
fn answer_tls(stream: TcpStream, identity: &Identity) -> StreamOwned<ServerConnection, TcpStream> {
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![of_pem(&identity.certificate)], key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"roadrunner/1".to_vec()];
    let connection = ServerConnection::new(Arc::new(config)).expect("a configuration");
    StreamOwned::new(connection, stream)
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

/// Not refused: whoever is connected to may have been killed, which says nothing against anybody.
#[test]
fn a_listener_that_dies_while_hands_are_shaken_is_gone() {
    let dying = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = dying.local_addr().expect("bound").to_string();
    for said in [0, 1, 60, 300] {
        thread::scope(|scope| {
            let connecting = scope.spawn(|| connect(&address, "hello?", &encrypted(), soon()));
            let (stream, _) = dying.accept().expect("somebody");
            let mut stream = answer_tls(stream, &known().1);
            while !stream.conn.wants_write() {
                stream.conn.read_tls(&mut stream.sock).expect("a greeting");
                stream.conn.process_new_packets().expect("a good one");
            }
            let mut answer = Vec::new();
            stream.conn.write_tls(&mut answer).expect("room");
            assert!(answer.len() > said);
            stream.sock.write_all(&answer[..said]).expect("room");
            drop(stream);
            let error = connecting.join().expect("no panic").expect_err("dead");
            assert!(
                matches!(error, TransferError::PeerClosed),
                "{said}: {error}"
            );
        });
    }
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
