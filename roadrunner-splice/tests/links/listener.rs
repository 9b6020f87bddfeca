//! Listeners, addresses, secrets, and who may come in.

use crate::by_hand::{by_hand, raw};
use crate::common::{both, open, pages, secret};
use crate::{data_header, turned_away};
use nix::sys::socket::{getsockopt, sockopt};
use roadrunner_core::testing::{data_frame, receive, say_hello, send, soon};
use roadrunner_core::{Deadline, HostMemory, Payload, Region, Transfer, TransferError};
use roadrunner_splice::{connect, Link, Listener, Options, Preference, Secret};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

const GREETING: usize = 40;
const TAG: usize = 32;

fn listener(options: Options) -> Listener {
    Listener::bind("127.0.0.1:0", options).expect("a free port")
}

fn with_secret() -> Options {
    Options::default().secret(secret())
}

fn kind(error: &TransferError) -> Option<io::ErrorKind> {
    match error {
        TransferError::Io { source, .. } => Some(source.kind()),
        _ => None,
    }
}

fn is_refused(error: &TransferError) -> bool {
    matches!(error, TransferError::Refused(_))
}

#[test]
fn many_links_share_a_listener_and_keep_their_names() {
    for options in [Options::default(), with_secret()] {
        let mut listener = listener(options.clone());
        let mut links: Vec<_> = (0..10)
            .map(|n| open(&mut listener, &format!("link {n}"), &options))
            .collect();
        for (n, (a, b)) in links.iter_mut().enumerate() {
            assert_eq!(b.name(), format!("link {n}"));
            send(a, &[n as u8; 50], soon()).expect("sent");
            send(b, &[n as u8 + 1; 50], soon()).expect("sent");
        }
        for (n, (a, b)) in links.iter_mut().enumerate() {
            assert_eq!(receive(b).expect("received").0, [n as u8; 50]);
            assert_eq!(receive(a).expect("received").0, [n as u8 + 1; 50]);
        }
    }
}

#[test]
fn names_and_both_families_are_loopback() {
    for address in ["localhost:0", "127.0.0.1:0", "[::1]:0"] {
        let mut listener = match Listener::bind(address, Options::default()) {
            // A host without IPv6.
            Err(TransferError::Io { source, .. })
                if address == "[::1]:0" && source.kind() == io::ErrorKind::AddrNotAvailable =>
            {
                eprintln!("skipped: no IPv6 here");
                continue;
            }
            bound => bound.expect("a free port"),
        };
        open(&mut listener, "either", &Options::default());
    }
}

#[test]
fn without_a_secret_nothing_leaves_the_host() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7"] {
        let error = Listener::bind(address, Options::default()).expect_err("not loopback");
        assert!(
            is_refused(&error) && error.to_string().contains("secret"),
            "{error}"
        );
        let error = connect(address, "out", &Options::default(), soon()).expect_err("not loopback");
        assert!(
            is_refused(&error) && error.to_string().contains("secret"),
            "{error}"
        );
    }
    Listener::bind("0.0.0.0:0", with_secret()).expect("with a secret it may");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let first = listener(Options::default());
    let address = first.address().to_string();
    let error = Listener::bind(&address, Options::default()).expect_err("taken");
    assert_eq!(kind(&error), Some(io::ErrorKind::AddrInUse));
    assert!(error.to_string().contains(&address), "{error}");
    let error = Listener::bind("no port", Options::default()).expect_err("no address");
    assert!(error.to_string().contains("no port"), "{error}");
}

/// Three ports in a row, held, at a loopback address that no other process of tests uses.
fn three_ports() -> [TcpListener; 3] {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let ip = std::net::Ipv4Addr::new(127, 64 + a % 64, b, c);
    loop {
        let first = TcpListener::bind((ip, 0)).expect("a free port");
        let port = first.local_addr().expect("bound").port();
        let next = |by| TcpListener::bind((ip, port.checked_add(by)?)).ok();
        if let (Some(second), Some(third)) = (next(1), next(2)) {
            return [first, second, third];
        }
    }
}

#[test]
fn a_listener_takes_a_free_port_of_a_range_and_says_when_there_is_none() {
    let [first, second, third] = three_ports();
    let [address, last] = [&first, &third].map(|one| one.local_addr().expect("bound"));
    let range = address.port()..=last.port();
    let options = Options::default().ports(range.clone());
    let open_port = format!("{}:0", address.ip());
    let listen = || Listener::bind(&open_port, options.clone());
    let all_taken = || {
        let error = listen().expect_err("all are taken");
        assert_eq!(kind(&error), Some(io::ErrorKind::AddrInUse));
        let words = format!("no port from {} to {} is free", range.start(), range.end());
        assert!(error.to_string().contains(&words), "{error}");
    };
    all_taken();
    drop((second, third));
    let mut links = Vec::new();
    // Past the one that is not its own.
    for port in [address.port() + 1, address.port() + 2] {
        let mut listener = listen().expect("one is free");
        assert_eq!(listener.address().port(), port);
        open(&mut listener, "through the wall", &options);
        links.push(listener);
    }
    all_taken();
    // Who says which one gets that one.
    drop(first);
    let listener = Listener::bind(&address.to_string(), options.clone()).expect("free again");
    assert_eq!(listener.address(), address);
    drop(links);
    assert_eq!(
        listen().expect("free again").address().port(),
        address.port() + 1
    );
}

#[test]
fn connect_waits_for_a_listener_that_starts_late_and_gives_up_in_time() {
    let free = {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
        probe.local_addr().expect("bound").to_string()
    };
    let deadline = Deadline::after(Duration::from_millis(50));
    let error = connect(&free, "nobody", &Options::default(), deadline).expect_err("nobody");
    assert_eq!(kind(&error), Some(io::ErrorKind::TimedOut));
    assert!(error.to_string().contains(&free), "{error}");
    assert!(deadline.has_passed());
    let error = connect("no port", "nobody", &Options::default(), soon()).expect_err("no address");
    assert!(error.to_string().contains("no port"), "{error}");

    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&free, "early", &Options::default(), soon()));
        thread::sleep(Duration::from_millis(20));
        let mut listener = Listener::bind(&free, Options::default()).expect("still free");
        listener.accept(soon()).expect("accepted");
        connecting.join().expect("no panic").expect("connected");
    });
}

#[test]
fn a_wrong_or_missing_secret_is_turned_away() {
    let other = Options::default().secret(Secret::from_bytes([1; 32]).expect("long enough"));
    let (accepting, connecting) = turned_away(with_secret(), other);
    assert!(is_refused(&accepting), "{accepting}");
    assert!(is_refused(&connecting), "{connecting}");

    let (accepting, connecting) = turned_away(with_secret(), Options::default());
    assert!(is_refused(&accepting), "{accepting}");
    assert!(is_refused(&connecting), "{connecting}");
    assert!(connecting.to_string().contains("secret"), "{connecting}");

    let (accepting, connecting) = turned_away(Options::default(), with_secret());
    assert!(
        matches!(accepting, TransferError::Protocol(_)),
        "{accepting}"
    );
    assert!(is_refused(&connecting), "{connecting}");
    assert!(connecting.to_string().contains("secret"), "{connecting}");
}

fn read<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).expect("bytes");
    bytes
}

/// A listener that knows no secret and sends back whatever it gets.
#[test]
fn a_reflected_proof_is_refused() {
    let mirror = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = mirror.local_addr().expect("bound").to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "vain", &with_secret(), soon()));
        let (mut stream, _) = mirror.accept().expect("it connects");
        let greeting: [u8; GREETING] = read(&mut stream);
        stream.write_all(&greeting).expect("room");
        let tag: [u8; TAG] = read(&mut stream);
        stream.write_all(&tag).expect("room");
        let error = connecting
            .join()
            .expect("no panic")
            .expect_err("its own words");
        assert!(is_refused(&error), "{error}");
    });
}

/// What a rightful peer said once, said again.
#[test]
fn a_replayed_proof_is_refused() {
    let mut listener = listener(with_secret());
    let between = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = between.local_addr().expect("bound").to_string();
    let recorded = thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "rightful", &with_secret(), soon()));
        let (mut client, _) = between.accept().expect("it connects");
        let mut server = raw(&listener);
        let recording = scope.spawn(move || {
            let greeting: [u8; GREETING] = read(&mut client);
            server.write_all(&greeting).expect("room");
            client
                .write_all(&read::<GREETING>(&mut server))
                .expect("room");
            let tag: [u8; TAG] = read(&mut client);
            server.write_all(&tag).expect("room");
            client.write_all(&read::<TAG>(&mut server)).expect("room");
            // The hellos.
            let mut hello = [0; 24 + 9 + 8];
            client.read_exact(&mut hello).expect("a hello");
            server.write_all(&hello).expect("room");
            server.read_exact(&mut hello).expect("a hello");
            client.write_all(&hello).expect("room");
            (greeting, tag)
        });
        listener
            .accept(soon())
            .expect("what is relayed as it is, is accepted");
        connecting
            .join()
            .expect("no panic")
            .expect("and so is the answer");
        recording.join().expect("no panic")
    });
    let mut stream = raw(&listener);
    stream.write_all(&recorded.0).expect("room");
    stream.write_all(&recorded.1).expect("room");
    let error = listener.accept(soon()).expect_err("a replay");
    assert!(is_refused(&error), "{error}");
    let _: [u8; GREETING] = read(&mut stream);
    // No proof of the listener's own, to one that gave none.
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(count) if count > 0));
}

#[test]
fn a_payload_before_the_proof_is_refused() {
    let mut listener = listener(with_secret());
    let mut stream = raw(&listener);
    stream.write_all(&data_frame(0, &[0; 100])).expect("room");
    let error = listener.accept(soon()).expect_err("no proof");
    assert!(is_refused(&error), "{error}");
}

#[test]
fn silent_and_slow_peers_hold_nobody_up() {
    for (base, start) in [
        (Options::default(), &b"RR\x01"[..]),
        (with_secret(), b"auth-RR1 and a part of a nonce"),
    ] {
        let options = base.handshake(Duration::from_millis(100));
        let mut listener = listener(options.clone());
        let mut held: Vec<_> = (0..6).map(|_| raw(&listener)).collect();
        // Half of them begin and go no further.
        for stream in &mut held[..3] {
            stream.write_all(start).expect("room");
        }
        let (mut a, mut b) = open(&mut listener, "talks", &options);
        send(&mut a, b"x", soon()).expect("sent");
        assert_eq!(receive(&mut b).expect("received").0, b"x");
        for _ in &held {
            let error = listener.accept(soon()).expect_err("silent");
            assert!(is_refused(&error), "{error}");
        }
        let nobody = listener.accept(Deadline::after(Duration::from_millis(1)));
        assert!(matches!(nobody, Err(TransferError::Timeout)));
        open(&mut listener, "the listener goes on", &options);
    }
}

#[test]
fn a_peer_that_waits_is_not_lost_when_accept_times_out() {
    let mut listener = listener(Options::default());
    let mut stream = raw(&listener);
    let early = listener.accept(Deadline::after(Duration::from_millis(5)));
    assert!(matches!(early, Err(TransferError::Timeout)));
    thread::scope(|scope| {
        let hello = scope.spawn(|| say_hello(&mut stream, "late"));
        assert_eq!(listener.accept(soon()).expect("accepted").name(), "late");
        hello.join().expect("no panic").expect("answered");
    });
}

#[test]
fn a_bad_hello_is_an_error_and_a_glance_is_none() {
    let mut listener = listener(Options::default());
    let mut version = data_frame(0, b"");
    version[2] = 2;
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(),
        version,
        data_frame(0, b"no hello at all"),
    ] {
        raw(&listener).write_all(&bytes).expect("room");
        let error = listener.accept(soon()).expect_err("bad");
        assert!(matches!(error, TransferError::Protocol(_)), "{error}");
    }
    drop(raw(&listener));
    let (a, _b) = open(&mut listener, "good", &Options::default());
    assert!(a.is_open());
}

/// The connecting side's own deadline, against a peer that accepts and never says a word.
#[test]
fn a_listener_that_never_answers_ends_in_a_timeout() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = mute.local_addr().expect("bound").to_string();
    for options in [Options::default(), with_secret()] {
        let deadline = Deadline::after(Duration::from_millis(50));
        let error = connect(&address, "hello?", &options, deadline).expect_err("mute");
        assert!(matches!(error, TransferError::Timeout), "{error}");
    }
}

/// Connects while the listener turns strangers away.
fn open_among_strangers(listener: &mut Listener, options: &Options) -> (Link, Link, usize) {
    let address = listener.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "rightful", options, soon()));
        let mut refused = 0;
        let accepted = loop {
            match listener.accept(soon()) {
                Ok(link) => break link,
                Err(error) => assert!(is_refused(&error), "{error}"),
            }
            refused += 1;
        };
        let connected = connecting.join().expect("no panic").expect("connected");
        (connected, accepted, refused)
    })
}

#[test]
fn strangers_that_say_nothing_cannot_hold_all_places() {
    for base in [Options::default(), with_secret()] {
        // They would be let go long after this test.
        let options = base.handshake(Duration::from_secs(600));
        let mut listener = listener(options.clone());
        let _silent: Vec<_> = (0..100).map(|_| raw(&listener)).collect();
        let (mut a, mut b, refused) = open_among_strangers(&mut listener, &options);
        assert!(refused >= 36, "{refused} of 100 were turned away");
        send(&mut a, b"x", soon()).expect("sent");
        assert_eq!(receive(&mut b).expect("received").0, b"x");
    }
}

#[test]
fn a_proof_may_come_byte_by_byte_and_holds_up_nobody() {
    let mut listener = listener(with_secret());
    let mut slow = raw(&listener);
    let greeting = [&b"auth-RR1"[..], &[7; 64]].concat();
    for byte in &greeting[..71] {
        slow.write_all(&[*byte]).expect("room");
        let nobody = listener.accept(Deadline::now());
        assert!(matches!(nobody, Err(TransferError::Timeout)));
    }
    open(&mut listener, "quick", &with_secret());
    slow.write_all(&greeting[71..]).expect("room");
    let error = listener.accept(soon()).expect_err("a wrong proof");
    assert!(is_refused(&error), "{error}");
}

#[test]
fn a_listener_has_no_more_connections_than_it_may() {
    let limits = [
        Options::default().connections(2),
        Options::default().connections_each(2),
    ];
    for options in limits {
        let mut listener = listener(options.clone());
        let (mut a, mut b) = open(&mut listener, "one", &options);
        let silent = raw(&listener);
        let nobody = listener.accept(Deadline::after(Duration::from_millis(1)));
        assert!(matches!(nobody, Err(TransferError::Timeout)));
        let mut third = raw(&listener);
        let error = listener.accept(soon()).expect_err("a third");
        assert!(is_refused(&error), "{error}");
        assert_eq!(third.read(&mut [0]).expect("an end"), 0);
        send(&mut a, b"x", soon()).expect("sent");
        assert_eq!(receive(&mut b).expect("received").0, b"x");
        // A place is free again when a connection ends, however it ends.
        drop(silent);
        let nobody = listener.accept(Deadline::after(Duration::from_millis(100)));
        assert!(matches!(nobody, Err(TransferError::Timeout)));
        let (c, d) = open(&mut listener, "two", &options);
        drop((b, d));
        open(&mut listener, "three", &options);
        drop((a, c));
    }
}

#[test]
fn a_peer_that_does_not_read_is_given_up_when_the_option_says_so() {
    let options = Options::default()
        .user_timeout(Duration::from_millis(200))
        .buffer(64 << 10);
    for prefer in [Preference::Write, Preference::Splice] {
        let (mut link, _stream) = by_hand(&options.clone().prefer(prefer).splice_from(0));
        let mut memory = pages(32 << 20);
        let payload = Payload::given(&mut memory, Region::new(0, 32 << 20)).expect("inside");
        let error = link.send(payload, soon()).expect_err("nobody reads");
        assert!(matches!(error, TransferError::PeerClosed), "{error}");
        assert!(!link.is_open());
    }
}

#[test]
fn a_silent_peer_is_asked_whether_it_is_there() {
    let options = Options::default().keep_alive(Duration::from_secs(9));
    let (a, b) = both(&options);
    for link in [&a, &b] {
        let idle = getsockopt(&link.as_fd(), sockopt::TcpKeepIdle).expect("an option");
        let interval = getsockopt(&link.as_fd(), sockopt::TcpKeepInterval).expect("an option");
        assert_eq!((idle, interval), (9, 3));
        assert!(getsockopt(&link.as_fd(), sockopt::KeepAlive).expect("an option"));
    }
    // Shorter or longer than the system can is as short or as long as it can.
    for time in [Duration::ZERO, Duration::MAX / 2] {
        both(&Options::default().keep_alive(time));
    }
}

/// Two links from one host, of which each has half a payload under way.
#[test]
fn payloads_from_one_address_share_what_they_may_take() {
    let options = Options::default().memory_each(100_000);
    let mut listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a free port");
    let (mut one, mut first) = open(&mut listener, "one", &options);
    let (mut two, mut second) = open(&mut listener, "two", &options);
    let write = |link: &mut Link, bytes: &[u8]| {
        let socket = link.as_fd().try_clone_to_owned().expect("a descriptor");
        let mut socket = TcpStream::from(socket);
        socket.write_all(bytes).expect("room in the buffer");
    };
    let mut memory = HostMemory::new();
    write(&mut one, &data_header(0, 60_000));
    // Until the header is here.
    while !first.has_pending() && memory.region().is_empty() {
        assert!(first.try_recv(&mut memory).expect("half of it").is_none());
    }
    write(&mut two, &data_header(0, 40_001));
    let mut refused = HostMemory::new();
    let error = second.recv(&mut refused, soon()).expect_err("no room");
    assert!(
        matches!(error, TransferError::NoRoom { len: 40_001, .. }),
        "{error}"
    );
    assert!(refused.region().is_empty() && !second.is_open());
    // What has come whole takes no room any more.
    write(&mut one, &[1; 60_000]);
    assert_eq!(
        first
            .recv(&mut memory, soon())
            .expect("whole")
            .region()
            .len(),
        60_000
    );
    let (mut three, mut third) = open(&mut listener, "three", &options);
    write(&mut three, &data_header(0, 100_000));
    write(&mut three, &[1; 100_000]);
    let delivery = third.recv(&mut HostMemory::new(), soon());
    assert_eq!(delivery.expect("there is room").region().len(), 100_000);
    drop((two, one, three));
}
