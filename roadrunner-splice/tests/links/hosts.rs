//! Links between two hosts: network namespaces with a cable between them, which is shaped, and pulled in mid-payload and put
//! back.

use crate::common::{page_memory, secret};
use crate::data_header;
use roadrunner_core::testing::{fill, pattern, receive, send, skipped, soon, LENGTHS};
use roadrunner_core::{
    Deadline, HostMemory, LinearMemory, Method, Payload, Region, Sink, Transfer, TransferError,
};
use roadrunner_netns::{Host, Pair};
use roadrunner_splice::{connect, Link, Listener, Options, Preference, Secret};
use roadrunner_splice::{Session, SessionListener};
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::mpsc::{channel, Sender};
use std::thread;
use std::time::Duration;

/// Two hosts, or says why there are none.
fn hosts(test: &str) -> Option<Pair> {
    Pair::new().map_err(|reason| skipped(test, &reason)).ok()
}

fn options() -> Options {
    Options::default().secret(secret())
}

fn listen(host: &Host, options: &Options) -> Listener {
    let address = format!("{}:0", host.address());
    let listener = host.within(|| Listener::bind(&address, options.clone()));
    listener.expect("entered").expect("a free port")
}

/// Both ends of a link from the left to the right.
fn across(pair: &Pair, listener: &mut Listener, options: &Options) -> (Link, Link) {
    let address = listener.address().to_string();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let link = pair
                .left
                .within(|| connect(&address, "across", options, soon()));
            link.expect("entered").expect("connected")
        });
        let accepted = loop {
            match listener.accept(soon()) {
                Ok(link) => break link,
                // Of a stranger.
                Err(TransferError::Refused(_) | TransferError::Protocol(_)) => {}
                Err(error) => panic!("{error}"),
            }
        };
        (connecting.join().expect("no panic"), accepted)
    })
}

#[test]
fn payloads_that_cross_a_cable_are_as_they_were_when_send_returned() {
    let test = "payloads_that_cross_a_cable_are_as_they_were_when_send_returned";
    let Some(pair) = hosts(test) else { return };
    pair.shape("1gbit").expect("tc shapes it");
    let longest = LENGTHS.into_iter().max().expect("there are some");
    for preference in [
        Preference::Write,
        Preference::Splice,
        Preference::ZeroCopySend,
        Preference::Measured,
    ] {
        let options = options().prefer(preference).splice_from(64 << 10);
        let mut listener = listen(&pair.right, &options);
        let (mut a, mut b) = across(&pair, &mut listener, &options);
        for len in LENGTHS {
            let (overwritten, told) = channel();
            thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    let mut memory = page_memory(len.max(1));
                    fill(&mut *memory, 0, &pattern(len, len));
                    let region = Region::new(0, len);
                    let payload = Payload::given(&mut *memory, region).expect("inside");
                    let receipt = a.send(payload, soon()).expect("sent");
                    fill(&mut *memory, 0, &vec![0xEE; len as usize]);
                    overwritten.send(()).expect("somebody waits");
                    receipt
                });
                // Late, if it is not read before it has been overwritten: what lies in sockets and on the cable is all there is.
                let _ = told.recv_timeout(Duration::from_millis(20));
                let (bytes, _) = receive(&mut b).expect("received");
                assert!(bytes == pattern(len, len), "{preference:?}: {len}");
                let method = sender.join().expect("no panic").method();
                if len == longest {
                    let as_wished = match preference {
                        Preference::Write => method == Method::Write,
                        Preference::Splice => method == Method::Splice,
                        // Or written, where the system refuses.
                        Preference::ZeroCopySend => method != Method::Splice,
                        _ => true,
                    };
                    assert!(as_wished, "{preference:?}: {method}");
                }
            });
        }
    }
}

#[test]
fn whoever_comes_over_the_cable_harms_only_himself() {
    let test = "whoever_comes_over_the_cable_harms_only_himself";
    let Some(pair) = hosts(test) else { return };
    let options = options().connections(40).memory_each(1 << 20);
    let mut listener = listen(&pair.right, &options);
    let there = listener.address();
    let connected = || {
        let stream = pair.left.within(|| TcpStream::connect(there));
        stream.expect("entered").expect("it listens")
    };
    // Floods it: silence, garbage, half a proof.
    let strangers: Vec<_> = (0..60_usize)
        .map(|number| {
            let mut stranger = connected();
            // One that has been dropped already cannot be written to.
            let _ = match number % 3 {
                0 => Ok(()),
                1 => stranger.write_all(&[0xa5; 300]),
                _ => stranger.write_all(&[b"auth-RR1", &[7_u8; 50][..]].concat()),
            };
            // Whoever says nothing keeps his place for a while; the others are found out.
            let _ = listener.accept(Deadline::now()).map(drop);
            stranger
        })
        .collect();
    drop(strangers);
    let other = Secret::from_bytes(b"another one, just as long").expect("long enough");
    let wrong = Options::default().secret(other);
    thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let to = there.to_string();
            pair.left.within(|| connect(&to, "wrong", &wrong, soon()))
        });
        while !connecting.is_finished() {
            let accepted = listener.accept(Deadline::after(Duration::from_millis(5)));
            assert!(accepted.is_err(), "a stranger came in");
        }
        let refused = connecting.join().expect("no panic").expect("entered");
        assert!(
            matches!(refused, Err(TransferError::Refused(_))),
            "{refused:?}"
        );
    });

    let (mut good, mut its_end) = across(&pair, &mut listener, &options);
    // Who is let in and lies: about a length, and about what he is.
    for lie in [
        &data_header(0, u64::MAX)[..],
        &data_header(0, (1 << 20) + 1),
        &[0x5a; 64],
    ] {
        let (liar, mut end) = across(&pair, &mut listener, &options);
        let socket = liar.as_fd().try_clone_to_owned().expect("a descriptor");
        TcpStream::from(socket)
            .write_all(lie)
            .expect("room in the buffer");
        let error = receive(&mut end).expect_err("a lie");
        let is_told = matches!(
            error,
            TransferError::TooLarge { .. }
                | TransferError::NoRoom { .. }
                | TransferError::Protocol(_)
        );
        assert!(is_told, "{error}");
    }
    // Who stops reading.
    let (mut sender, _silent) = across(&pair, &mut listener, &options);
    let deadline = Deadline::after(Duration::from_millis(200));
    let error = send(&mut sender, &vec![0; 32 << 20], deadline).expect_err("nobody reads");
    assert!(matches!(error, TransferError::Timeout), "{error}");

    send(&mut good, b"all is well", soon()).expect("sent");
    assert_eq!(receive(&mut its_end).expect("received").0, b"all is well");
}

/// Says that a payload has begun to come.
struct Telling {
    memory: HostMemory,
    begun: Sender<u64>,
}

impl Sink for Telling {
    fn reserve(&mut self, len: u64, align: u64) -> Result<Region, TransferError> {
        // Nobody listens any more when the cable is back.
        let _ = self.begun.send(len);
        self.memory.reserve(len, align)
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        self.memory.memory()
    }

    fn release(&mut self, region: Region) {
        self.memory.release(region);
    }
}

/// How many connections to that port a host has.
fn connections(host: &Host, port: u16) -> usize {
    let output = host
        .command("ss")
        .args(["--tcp", "--no-header", "--numeric", "state", "established"])
        .args(["dport", "=", &format!(":{port}")])
        .output()
        .expect("ss of iproute2");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().count()
}

#[test]
fn a_session_delivers_once_though_its_cable_is_pulled_in_mid_payload_and_put_back() {
    let test = "a_session_delivers_once_though_its_cable_is_pulled_in_mid_payload_and_put_back";
    // The second one takes 0.8 s. A copy of each is kept in one case, and each stays in its place in the other.
    let lens = [1, 10_000_000, 0, 300_000];
    for keep in [16 << 20, 0] {
        let Some(pair) = hosts(test) else { return };
        pair.shape("100mbit").expect("tc shapes it");
        // A connection whose other end says nothing is given up soon.
        let options = options()
            .keep(keep)
            .user_timeout(Duration::from_millis(300));
        let address = format!("{}:0", pair.right.address());
        let listener = pair
            .right
            .within(|| SessionListener::bind(&address, options.clone()))
            .expect("entered")
            .expect("a free port");
        let there = listener.address();
        thread::scope(|scope| {
            scope.spawn(|| {
                let sends = || {
                    let to = there.to_string();
                    let mut a = Session::connect(&to, "test", &options, soon()).expect("connected");
                    for (n, len) in lens.into_iter().enumerate() {
                        send(&mut a, &pattern(len, n as u64), soon()).expect("sent");
                    }
                    a.close(soon()).expect("closed");
                };
                pair.left.within(sends).expect("entered");
            });
            let (begun, begins) = channel();
            let receiver = scope.spawn(|| {
                let mut b = listener.accept(soon()).expect("a session");
                let memory = HostMemory::new();
                let mut sink = Telling { memory, begun };
                for (n, len) in lens.into_iter().enumerate() {
                    b.recv(&mut sink, soon()).expect("received");
                    assert!(*sink.memory.as_slice() == pattern(len, n as u64), "{n}");
                }
                let end = b.recv(&mut sink, soon());
                assert!(matches!(end, Err(TransferError::Closed)), "{end:?}");
            });
            assert_eq!(begins.recv(), Ok(lens[0]));
            assert_eq!(begins.recv(), Ok(lens[1]));
            pair.right.unplug().expect("ip pulls it");
            let late = soon();
            while connections(&pair.left, there.port()) > 0 {
                assert!(!late.has_passed(), "the sender's host still has it");
                thread::sleep(Duration::from_millis(20));
            }
            pair.right.plug().expect("ip puts it back");
            receiver.join().expect("no panic");
            // It began once more, on another connection.
            assert_eq!(
                begins.try_iter().collect::<Vec<_>>(),
                [lens[1], lens[2], lens[3]]
            );
        });
    }
}
