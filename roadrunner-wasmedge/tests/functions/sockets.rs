//! Slots of a function whose successors are elsewhere: their bytes are copied, their pages stay.

use crate::support::puppet::{Do, Puppet};
use crate::support::soon;
use roadrunner_core::{Method, Sink, Transfer};

const MIB: u32 = 1 << 20;
const PLACE: u32 = 4 * MIB;
const LEN: u32 = 3 * MIB;

/// Sends a slot, then a buffer beside it, whose pages may go.
fn carries(mut here: impl Transfer, mut there: impl Transfer + Send, other: Method) {
    let (mut from, mut to) = (Puppet::new(), Puppet::new());
    from.act(&[
        Do::Bind(PLACE, LEN),
        Do::Fill(PLACE, LEN, 7),
        Do::Fill(2 * MIB, 2 * MIB, 8),
    ]);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            for (len, byte) in [(LEN, 7), (2 * MIB, 8)] {
                let delivery = there.recv(&mut *to, soon()).expect("a payload");
                let at = delivery.region().offset() as u32;
                assert_eq!(delivery.region().len(), u64::from(len));
                assert_eq!(to.one(Do::Count(at, len, byte)), len as i32);
            }
        });
        for (at, len, expected) in [(PLACE, LEN, Method::Write), (2 * MIB, 2 * MIB, other)] {
            let region = from.reply(at, len);
            let mut given = from.given(region).expect("in the memory");
            assert_eq!(given.is_slot(), at == PLACE);
            let payload = given.payload().expect("in the memory");
            let receipt = here.send(payload, soon()).expect("sent");
            assert_eq!(receipt.method(), expected);
        }
        receiver.join().expect("received");
    });
    // Still on loan, as it was, and part of the memory.
    assert_eq!(from.one(Do::Count(PLACE, LEN, 7)), LEN as i32);
    assert_eq!(from.slots().expect("it has some").loaned, 1);
    assert!(from.memory().len() >= (PLACE + LEN) as usize);
}

#[test]
fn over_a_unix_socket() {
    use roadrunner_uds::{pair, Options, Preference};
    let options = Options::default().prefer(Preference::Splice);
    let (here, there) = pair("slots", &options).expect("a pair");
    carries(here, there, Method::Splice);
}

#[test]
fn over_tcp() {
    use roadrunner_splice::{connect, Listener, Options, Preference};
    let options = Options::default().prefer(Preference::Splice);
    let mut listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a listener");
    let address = listener.address().to_string();
    let (here, there) = std::thread::scope(|scope| {
        let accepted = scope.spawn(|| listener.accept(soon()).expect("a link"));
        let connected = connect(&address, "slots", &options, soon()).expect("a link");
        (connected, accepted.join().expect("accepted"))
    });
    carries(here, there, Method::Splice);
}
