//! The ring beside the socket: order, sleep, and ends that have none or wait by other means.

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use proptest::prelude::*;
use roadrunner_core::testing::{pattern, receive, send, soon, CountingSink};
use roadrunner_core::{Deadline, HostMemory, Method, Payload, Transfer, TransferError};
use roadrunner_uds::{connect, pair, Address, Link, Listener, Options, Preference};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Two ends that have both waited once, so that each counts as awake.
fn awake(options: &Options) -> (Link, Link) {
    let (mut a, mut b) = pair("ring", options).expect("a pair");
    for end in [&mut a, &mut b] {
        let heard = end.listen(Deadline::after(Duration::from_millis(1)));
        assert!(matches!(heard, Ok(false)), "{heard:?}");
    }
    (a, b)
}

fn sleepy() -> Options {
    Options::default().spin(Duration::ZERO)
}

fn method(link: &mut Link, len: u64) -> Method {
    send(link, &pattern(len, 1), soon()).expect("sent").method()
}

#[test]
fn small_frames_go_through_the_ring_and_are_there_at_once() {
    let (mut a, mut b) = awake(&Options::default());
    assert!(!b.has_pending());
    send(&mut a, b"small", soon()).expect("room");
    assert!(b.has_pending(), "it went through the socket");
    assert_eq!(receive(&mut b).expect("sent").0, b"small");
    assert!(!b.has_pending());
    // Whoever waits for the descriptor is told by it.
    let _ = b.as_fd();
    send(&mut a, b"small", soon()).expect("room");
    assert!(!b.has_pending(), "it went through the ring");
    assert_eq!(receive(&mut b).expect("sent").0, b"small");
}

#[test]
fn ends_without_a_ring_get_on_with_ends_that_have_one() {
    for (ours, theirs) in [(0, 0), (0, 1 << 16), (1 << 16, 0), (1 << 12, 1 << 20)] {
        let address = Address::abstract_name(format!(
            "roadrunner-ring-{}-{ours}-{theirs}",
            std::process::id()
        ))
        .expect("short");
        let options = |bytes| {
            let options = Options::default().ring(bytes).prefer(Preference::Ring);
            options.ring_from(64 << 10)
        };
        let mut listener = Listener::bind(address.clone(), options(theirs)).expect("bound");
        let (mut a, mut b) = thread::scope(|scope| {
            let a = scope.spawn(|| connect(&address, "a", &options(ours), soon()));
            let b = listener.accept(soon()).expect("it connects");
            (a.join().expect("no panic").expect("it listens"), b)
        });
        for end in [&mut a, &mut b] {
            let _ = end.listen(Deadline::after(Duration::from_millis(1)));
        }
        for len in [0, 1, 1000, 20_000, 300_000] {
            thread::scope(|scope| {
                let both = ours > 0 && theirs > 0;
                let sender = scope.spawn(|| method(&mut a, len));
                assert!(receive(&mut b).expect("sent").0 == pattern(len, 1));
                let copied = sender.join().expect("no panic") == Method::Copy;
                assert_eq!(copied, both && len >= 64 << 10, "{ours} {theirs} {len}");
            });
            thread::scope(|scope| {
                scope.spawn(|| method(&mut b, len));
                assert!(receive(&mut a).expect("sent").0 == pattern(len, 1));
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Frames of all sizes by all ways, in both directions.
    #[test]
    fn the_order_is_kept_whichever_way_frames_go(
        lengths in proptest::collection::vec(prop_oneof![0..100_u64, 0..20_000_u64, 60_000..400_000_u64], 1..40),
        ring in prop_oneof![Just(4096_usize), Just(1 << 16), Just(1 << 18)],
        prefer in proptest::sample::select(vec![Preference::Write, Preference::Ring, Preference::Segment]),
        spin in prop_oneof![Just(0_u64), Just(5), Just(50)],
        watched in any::<bool>(),
    ) {
        let options = Options::default()
            .ring(ring)
            .prefer(prefer)
            .segment_from(60_000)
            .spin(Duration::from_micros(spin));
        let (mut a, mut b) = awake(&options);
        if watched {
            let _ = b.as_fd();
        }
        thread::scope(|scope| {
            let lengths = &lengths;
            scope.spawn(move || {
                for (seed, len) in lengths.iter().enumerate() {
                    send(&mut a, &pattern(*len, seed as u64), soon()).expect("sent");
                    if seed % 7 == 6 {
                        assert_eq!(receive(&mut a).expect("answered").0, [seed as u8]);
                    }
                }
                a.close(soon()).expect("closed");
            });
            for (seed, len) in lengths.iter().enumerate() {
                assert!(receive(&mut b).expect("sent").0 == pattern(*len, seed as u64), "{seed}");
                if seed % 7 == 6 {
                    send(&mut b, &[seed as u8], soon()).expect("room");
                }
            }
            let end = b.recv(&mut CountingSink::default(), soon());
            assert!(matches!(end, Err(TransferError::Closed)), "{end:?}");
        });
    }
}

#[test]
fn nobody_sleeps_on_who_always_sleeps() {
    const ROUNDS: u32 = 5000;
    for spin in [0, 1, 20] {
        let options = Options::default().spin(Duration::from_micros(spin));
        let (mut a, mut b) = awake(&options);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    assert_eq!(receive(&mut b).expect("sent").0, round.to_le_bytes());
                    send(&mut b, &round.to_le_bytes(), soon()).expect("room");
                }
            });
            for round in 0..ROUNDS {
                send(&mut a, &round.to_le_bytes(), soon()).expect("room");
                assert_eq!(receive(&mut a).expect("answered").0, round.to_le_bytes());
            }
        });
    }
}

/// As an event loop does: what is pending first, then the descriptor.
fn by_descriptor(link: &mut Link) -> Vec<u8> {
    let mut memory = HostMemory::new();
    loop {
        if let Some(delivery) = link.try_recv(&mut memory).expect("open") {
            return memory.bytes(delivery.region()).expect("inside").to_vec();
        }
        let mut events = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::from(10_000_u16);
        assert_ne!(poll(&mut events, timeout), Ok(0), "nobody woke it");
    }
}

#[test]
fn who_waits_for_the_descriptor_is_woken_for_everything() {
    let (mut a, mut b) = awake(&Options::default());
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..3000_u32 {
                let bytes = round.to_le_bytes();
                match round % 3 {
                    // Between the two ways of waiting nothing is lost either.
                    0 => assert_eq!(receive(&mut b).expect("sent").0, bytes),
                    _ => assert_eq!(by_descriptor(&mut b), bytes),
                }
                if round % 50 == 0 {
                    send(&mut b, b"go on", soon()).expect("room");
                }
            }
        });
        for round in 0..3000_u32 {
            send(&mut a, &round.to_le_bytes(), soon()).expect("room");
            if round % 50 == 0 {
                receive(&mut a).expect("answered");
            }
        }
    });
}

#[test]
fn a_receiver_that_takes_nothing_out_ends_in_a_timeout() {
    let options = Options::default().prefer(Preference::Ring).ring(1 << 16);
    let (mut a, b) = awake(&options);
    let before = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(100));
    let error = send(&mut a, &pattern(1 << 20, 1), deadline).expect_err("nobody reads");
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert!(before.elapsed() >= Duration::from_millis(100));
    assert!(!a.is_open(), "half a payload is out");
    drop(b);

    // What fits nowhere is not sent at all.
    let (mut a, _b) = awake(&options);
    let mut sent = 0;
    let error = loop {
        match send(&mut a, &[7; 64], Deadline::after(Duration::from_millis(5))) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 100_000, "the link holds without bound");
    };
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert!(a.is_open());
}

#[test]
fn what_was_sent_before_an_end_is_received_after_it() {
    let (mut a, mut b) = awake(&Options::default());
    for seed in 0..20 {
        send(&mut a, &pattern(100 + seed, seed), soon()).expect("room");
    }
    a.close(soon()).expect("closed");
    drop(a);
    for seed in 0..20 {
        assert!(receive(&mut b).expect("sent").0 == pattern(100 + seed, seed));
    }
    let end = b.recv(&mut CountingSink::default(), soon());
    assert!(matches!(end, Err(TransferError::Closed)), "{end:?}");
    // And nobody is there to be told anything.
    let gone = loop {
        match send(&mut b, b"anybody?", soon()) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(gone, TransferError::PeerClosed), "{gone}");
}

#[test]
fn a_wait_by_one_core_sleeps_at_once() {
    let (mut a, mut b) = awake(&sleepy());
    let before = cpu();
    let error = b.recv(
        &mut CountingSink::default(),
        Deadline::after(Duration::from_millis(300)),
    );
    assert!(matches!(error, Err(TransferError::Timeout)));
    assert!(cpu() - before < Duration::from_millis(200), "it spun");
    send(&mut a, b"still there", soon()).expect("room");
    assert_eq!(receive(&mut b).expect("sent").0, b"still there");
}

/// Processor time of this thread.
fn cpu() -> Duration {
    let time = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now();
    Duration::from(time.expect("a clock"))
}

const ADDRESS: &str = "ROADRUNNER_RING_ADDRESS";

fn child(address: &Address) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_peer_that_is_killed_is_seen_by_who_spins"])
        .env(ADDRESS, address.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("started")
}

/// Awake, as far as its lane says, for ever.
fn be_the_child(address: &str) {
    let address: Address = address.parse().expect("from the parent");
    let options = Options::default().spin(Duration::from_secs(60));
    let mut link = connect(&address, "child", &options, soon()).expect("it listens");
    send(&mut link, b"here", soon()).expect("room");
    let forever = Deadline::after(Duration::from_secs(60));
    while let Ok(_) | Err(TransferError::Timeout) = link.recv(&mut CountingSink::default(), forever)
    {
    }
}

#[test]
fn a_peer_that_is_killed_is_seen_by_who_spins() {
    if let Ok(address) = std::env::var(ADDRESS) {
        return be_the_child(&address);
    }
    // To receive, to send what fits in the ring, and to wait until there is room in it.
    for sends in [0, 64, 4 << 20] {
        let address = format!("@roadrunner-killed-{}-{sends}", std::process::id());
        let options = Options::default()
            .spin(Duration::from_secs(60))
            .prefer(Preference::Ring);
        let address: Address = address.parse().expect("short");
        let mut listener = Listener::bind(address.clone(), options).expect("bound");
        let mut peer = child(&address);
        let mut link = listener.accept(soon()).expect("it connects");
        assert_eq!(receive(&mut link).expect("sent").0, b"here");
        send(&mut link, b"through the ring", soon()).expect("room");
        let error = thread::scope(|scope| {
            let link = &mut link;
            let loser = scope.spawn(move || {
                if sends > 0 {
                    // To somebody who says that he is awake.
                    let payload = pattern(sends, 1);
                    loop {
                        if let Err(error) = send(link, &payload, soon()) {
                            return error;
                        }
                        thread::yield_now();
                    }
                }
                link.recv(&mut CountingSink::default(), soon())
                    .expect_err("killed")
            });
            peer.kill().expect("it runs");
            peer.wait().expect("it is ours");
            loser.join().expect("no panic")
        });
        assert!(matches!(error, TransferError::PeerClosed), "{error}");
    }
}

#[test]
fn a_payload_that_is_given_up_leaves_the_ring_behind_with_the_link() {
    let options = Options::default().prefer(Preference::Ring).ring(4096);
    let (mut a, mut b) = awake(&options);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut memory = HostMemory::from(pattern(1 << 20, 1));
            let region = memory.region();
            let payload = Payload::kept(&mut memory, region).expect("inside");
            a.send(payload, soon())
        });
        let mut sink = HostMemory::with_limit(1000);
        let error = b.recv(&mut sink, soon()).expect_err("no room");
        assert!(matches!(error, TransferError::NoRoom { .. }), "{error}");
        assert!(!b.is_open());
        drop(b);
        let error = sender
            .join()
            .expect("no panic")
            .expect_err("nobody takes it");
        assert!(matches!(error, TransferError::PeerClosed), "{error}");
    });
}
