//! Listeners, addresses, and who may come in.

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use roadrunner_core::testing::{receive, send, soon};
use roadrunner_core::{Deadline, Transfer, TransferError};
use roadrunner_uds::{connect, Address, Link, Listener, Options};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

fn options() -> Options {
    Options::default()
}

fn unique() -> Address {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Address::abstract_name(format!("roadrunner-test-{}-{count}", std::process::id()))
        .expect("short")
}

fn file() -> (tempfile::TempDir, PathBuf, Address) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("link.sock");
    let address = Address::file(&path).expect("short");
    (directory, path, address)
}

/// A plain socket to a listener with an abstract name.
fn raw(address: &Address) -> UnixStream {
    let name = address.to_string();
    let address = SocketAddr::from_abstract_name(&name[1..]).expect("short");
    UnixStream::connect_addr(&address).expect("it listens")
}

fn open(listener: &mut Listener, name: &str) -> (Link, Link) {
    let address = listener.address().clone();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, name, &options(), soon()));
        let accepted = listener.accept(soon()).expect("accepted");
        (
            connecting.join().expect("no panic").expect("connected"),
            accepted,
        )
    })
}

fn kind(error: &TransferError) -> Option<io::ErrorKind> {
    match error {
        TransferError::Io { source, .. } => Some(source.kind()),
        _ => None,
    }
}

#[test]
fn many_links_share_a_listener_and_keep_their_names() {
    let mut listener = Listener::bind(unique(), options()).expect("bound");
    let mut links: Vec<_> = (0..20)
        .map(|n| open(&mut listener, &format!("link {n}")))
        .collect();
    for (n, (a, b)) in links.iter_mut().enumerate() {
        assert_eq!(b.name(), format!("link {n}"));
        assert_eq!(b.wire().peer().pid(), std::process::id());
        send(a, &[n as u8; 50], soon()).expect("sent");
        send(b, &[n as u8 + 1; 50], soon()).expect("sent");
    }
    for (n, (a, b)) in links.iter_mut().enumerate() {
        assert_eq!(receive(b).expect("received").0, [n as u8; 50]);
        assert_eq!(receive(a).expect("received").0, [n as u8 + 1; 50]);
    }
}

#[test]
fn a_socket_file_is_private_and_goes_with_its_listener() {
    let (_directory, path, address) = file();
    let mut listener = Listener::bind(address, options()).expect("bound");
    let mode = fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let (mut a, mut b) = open(&mut listener, "file");
    drop(listener);
    assert!(!path.exists());
    send(&mut a, b"the link goes on", soon()).expect("sent");
    assert_eq!(receive(&mut b).expect("received").0, b"the link goes on");
}

#[test]
fn a_file_that_another_put_in_its_place_stays() {
    let (_directory, path, address) = file();
    let listener = Listener::bind(address, options()).expect("bound");
    fs::remove_file(&path).expect("removed");
    let theirs = UnixListener::bind(&path).expect("bound");
    drop(listener);
    assert!(path.exists());
    drop(theirs);
}

#[test]
fn a_stale_file_is_replaced_and_one_in_use_is_not() {
    let (_directory, path, address) = file();
    // std leaves the file behind, as a process that is killed does.
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    let mut listener = Listener::bind(address.clone(), options()).expect("stale, so replaced");

    let error = Listener::bind(address, options()).expect_err("in use");
    assert_eq!(kind(&error), Some(io::ErrorKind::AddrInUse));
    let text = error.to_string();
    assert!(text.contains(path.to_str().expect("UTF-8")), "{text}");

    // The first one is as it was, and the attempt did not leave it a peer to wait for.
    let (mut a, mut b) = open(&mut listener, "still here");
    send(&mut a, b"x", soon()).expect("sent");
    assert_eq!(receive(&mut b).expect("received").0, b"x");
}

#[test]
fn an_abstract_name_in_use_is_named() {
    let listener = Listener::bind(unique(), options()).expect("bound");
    let address = listener.address().clone();
    let error = Listener::bind(address.clone(), options()).expect_err("in use");
    assert_eq!(kind(&error), Some(io::ErrorKind::AddrInUse));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let (_directory, path, address) = file();
    fs::write(&path, "precious").expect("written");
    let error = Listener::bind(address, options()).expect_err("a file");
    assert_eq!(kind(&error), Some(io::ErrorKind::AlreadyExists));
    assert_eq!(fs::read(&path).expect("still there"), b"precious");

    let nowhere = Address::file("/nonexistent/directory/a.sock").expect("short");
    let error = Listener::bind(nowhere, options()).expect_err("no directory");
    assert!(
        error.to_string().contains("/nonexistent/directory"),
        "{error}"
    );
}

#[test]
fn of_listeners_that_start_together_over_a_stale_file_one_wins() {
    for _ in 0..20 {
        let (_directory, path, address) = file();
        drop(UnixListener::bind(&path).expect("bound"));
        let all: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| Listener::bind(address.clone(), options())))
                .collect();
            threads
                .into_iter()
                .map(|one| one.join().expect("no panic"))
                .collect()
        });
        let (bound, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
        assert_eq!((bound.len(), refused.len()), (1, 3));
        UnixStream::connect(&path).expect("the one that won is reachable");
    }
}

#[test]
fn connect_waits_for_a_listener_that_starts_late() {
    let (_directory, _path, address) = file();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "early", &options(), soon()));
        thread::sleep(Duration::from_millis(20));
        let mut listener = Listener::bind(address.clone(), options()).expect("bound");
        listener.accept(soon()).expect("accepted");
        connecting.join().expect("no panic").expect("connected");
    });
}

#[test]
fn connect_gives_up_in_time_and_says_where() {
    let address = unique();
    let deadline = Deadline::after(Duration::from_millis(50));
    let error = connect(&address, "nobody", &options(), deadline).expect_err("nobody");
    assert_eq!(kind(&error), Some(io::ErrorKind::TimedOut));
    assert!(deadline.has_passed());
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_peer_of_another_user_is_turned_away_by_either_side() {
    let someone = Options::default().uid(nix::unistd::geteuid().as_raw() + 1);
    let mut listener = Listener::bind(unique(), someone.clone()).expect("bound");
    let address = listener.address().clone();
    let mut stream = raw(&address);
    stream.write_all(b"whatever").expect("room");
    let error = listener.accept(soon()).expect_err("not allowed");
    assert!(
        matches!(&error, TransferError::Refused(reason) if reason.contains("uid")),
        "{error}"
    );
    // Nothing was said to it.
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(count) if count > 0));

    let error = connect(&address, "me", &someone, soon()).expect_err("not allowed");
    assert!(matches!(error, TransferError::Refused(_)), "{error}");
}

#[test]
fn a_silent_peer_holds_nobody_up() {
    let quick = Options::default().handshake(Duration::from_millis(100));
    let mut listener = Listener::bind(unique(), quick).expect("bound");
    let address = listener.address().clone();
    let silent: Vec<_> = (0..5).map(|_| raw(&address)).collect();

    // Others are let in meanwhile, before any of the silent ones is given up.
    let (mut a, mut b) = open(&mut listener, "talks");
    send(&mut a, b"x", soon()).expect("sent");
    assert_eq!(receive(&mut b).expect("received").0, b"x");

    for _ in &silent {
        let error = listener.accept(soon()).expect_err("silent");
        assert!(matches!(error, TransferError::Refused(_)), "{error}");
    }
    let nobody = listener.accept(Deadline::after(Duration::from_millis(1)));
    assert!(matches!(nobody, Err(TransferError::Timeout)));
    open(&mut listener, "the listener goes on");
}

/// Accepts a link of this name, whoever else is turned away meanwhile.
fn accept_among_strangers(listener: &mut Listener, name: &str) -> Link {
    loop {
        match listener.accept(soon()) {
            Ok(link) => {
                assert_eq!(link.name(), name);
                return link;
            }
            // In vain, or gone in the middle of a word.
            Err(TransferError::Refused(_) | TransferError::Truncated { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn strangers_without_number_hold_nobody_up() {
    let patient = Options::default().handshake(Duration::from_secs(3600));
    let mut listener = Listener::bind(unique(), patient).expect("bound");
    let address = listener.address().clone();
    for said in [&b""[..], b"RR", b"RR\x01\x01\0\0"] {
        let strangers: Vec<_> = (0..200)
            .map(|_| {
                let mut stream = raw(&address);
                stream.write_all(said).expect("room");
                stream
            })
            .collect();
        thread::scope(|scope| {
            let connecting = scope.spawn(|| connect(&address, "talks", &options(), soon()));
            let mut b = accept_among_strangers(&mut listener, "talks");
            let mut a = connecting.join().expect("no panic").expect("connected");
            send(&mut a, b"x", soon()).expect("sent");
            assert_eq!(receive(&mut b).expect("received").0, b"x");
        });
        drop(strangers);
    }
}

/// Waits until a descriptor is readable; false if it is not in time.
fn readable(descriptor: &impl AsFd, time: Duration) -> bool {
    let mut events = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    let time = PollTimeout::try_from(time).expect("short");
    poll(&mut events, time).expect("poll") == 1
}

#[test]
fn the_descriptor_of_a_listener_says_when_to_accept() {
    const LONG: Duration = Duration::from_secs(30);
    let quick = Options::default().handshake(Duration::from_millis(50));
    let mut listener = Listener::bind(unique(), quick).expect("bound");
    let address = listener.address().clone();
    assert!(!readable(&listener, Duration::ZERO));
    assert!(listener.try_accept().expect("nobody").is_none());

    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&address, "told", &options(), soon()));
        let link = loop {
            assert!(readable(&listener, LONG), "somebody connects");
            if let Some(link) = listener.try_accept().expect("a good hello") {
                break link;
            }
        };
        assert_eq!(link.name(), "told");
        connecting.join().expect("no panic").expect("connected");
    });

    // Also when somebody has been silent for too long.
    let _silent = raw(&address);
    let error = loop {
        assert!(readable(&listener, LONG), "its time passes");
        match listener.try_accept() {
            Ok(link) => assert!(link.is_none()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TransferError::Refused(_)), "{error}");
    assert!(!readable(&listener, Duration::ZERO));
}

#[test]
fn a_peer_that_says_half_is_given_up_in_its_time() {
    let quick = Options::default().handshake(Duration::from_millis(50));
    let mut listener = Listener::bind(unique(), quick).expect("bound");
    let mut stream = raw(&listener.address().clone());
    stream.write_all(b"RR").expect("room");
    let before = Instant::now();
    let error = listener.accept(soon()).expect_err("half a hello");
    assert!(matches!(error, TransferError::Refused(_)), "{error}");
    assert!(before.elapsed() < Duration::from_secs(30));
    open(&mut listener, "the listener goes on");
}

#[test]
fn a_peer_that_waits_is_not_lost_when_accept_times_out() {
    let mut listener = Listener::bind(unique(), options()).expect("bound");
    let mut stream = raw(&listener.address().clone());
    let early = listener.accept(Deadline::after(Duration::from_millis(5)));
    assert!(matches!(early, Err(TransferError::Timeout)));
    thread::scope(|scope| {
        let hello = scope.spawn(|| roadrunner_core::testing::say_hello(&mut stream, "late"));
        assert_eq!(listener.accept(soon()).expect("accepted").name(), "late");
        hello.join().expect("no panic").expect("answered");
    });
}

#[test]
fn a_bad_hello_is_an_error_and_the_listener_goes_on() {
    let mut listener = Listener::bind(unique(), options()).expect("bound");
    let address = listener.address().clone();
    let hello = |length: u64, version: u8| {
        let mut bytes = b"RR\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        bytes[2] = version;
        bytes.extend(length.to_le_bytes());
        bytes.extend([0xFF; 300]);
        bytes
    };
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(),
        hello(20, 2),       // another version
        hello(20, 1),       // a name that is not UTF-8
        hello(8 + 256, 1),  // a name that is too long
        hello(u64::MAX, 1), // a name that nobody has room for
        hello(3, 1),        // a hello that is too short
        roadrunner_core::testing::data_frame(0, b"no hello at all"),
    ] {
        let mut stream = raw(&address);
        stream.write_all(&bytes).expect("room");
        let error = listener.accept(soon()).expect_err("bad");
        assert!(matches!(error, TransferError::Protocol(_)), "{error}");
    }
    raw(&address).write_all(b"RR\x01\x01\0").expect("room");
    let error = listener.accept(soon()).expect_err("it left");
    assert!(matches!(error, TransferError::Truncated { .. }), "{error}");
    // One that only looked is no error.
    drop(raw(&address));
    let (a, _b) = open(&mut listener, "good");
    assert!(a.is_open());
    let long = connect(&address, &"x".repeat(256), &options(), soon()).expect_err("too long");
    assert!(matches!(long, TransferError::Protocol(_)), "{long}");
}
