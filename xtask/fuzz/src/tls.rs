//! Hands that TLS shakes with a stranger, and what a peer says who has been let in: records of any bytes, and frames within.

use crate::script::{read, Script};
use crate::shelf::Shelf;
use crate::strangers::{Ends, LONG};
use arbitrary::Arbitrary;
use roadrunner_core::stream::write_all;
use roadrunner_core::testing::send;
use roadrunner_core::{Deadline, Span, Transfer, TransferError};
use roadrunner_splice::{Link, Options, Secret, Tls};
use std::cell::RefCell;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsFd;

thread_local! {
    static ENDS: RefCell<Ends> = RefCell::new(Ends::new(options()));
}

/// What a peer does with a link that it opened as it should.
#[derive(Debug, Arbitrary)]
struct Input {
    room: u16,
    script: Script,
    /// Beneath TLS, where there should be records.
    beneath: Vec<u8>,
    /// Before what the script says.
    comes_first: bool,
}

fn options() -> Options {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a name");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let tls = Tls::new().trust(&certificate).expect("a certificate");
    let tls = tls
        .identity(&certificate, key)
        .expect("they belong together");
    let secret = Secret::from_bytes(b"certificates are not enough").expect("long enough");
    Options::default().secret(secret).tls(tls)
}

/// The first byte says who is the stranger: the one who connects or the one who listens, before hands are shaken or after.
pub(crate) fn run(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    ENDS.with_borrow_mut(|ends| match first & 3 {
        0 => ends.called(rest),
        1 => ends.calls(rest.to_vec()),
        side => {
            let Some(input) = read::<Input>(rest) else {
                return;
            };
            let (connected, accepted) = ends.open();
            if side == 2 {
                input.play(connected, accepted);
            } else {
                input.play(accepted, connected);
            }
        }
    });
}

impl Input {
    fn play(&self, hostile: Link, link: Link) {
        let said = self.script.bytes();
        self.say(hostile, &said);
        hear(link, self.room.into(), said.is_empty());
    }

    /// As much as there is room for, and then it leaves.
    fn say(&self, mut hostile: Link, said: &[u8]) {
        let beneath = hostile.as_fd().try_clone_to_owned();
        let mut beneath = TcpStream::from(beneath.expect("a descriptor"));
        if self.comes_first {
            let _ = beneath.write_all(&self.beneath);
        }
        let _ = write_all(
            hostile.wire_mut(),
            said,
            Span::empty(),
            &mut 0,
            Deadline::now(),
        );
        if !self.comes_first {
            let _ = beneath.write_all(&self.beneath);
        }
    }
}

/// Takes what comes, to the end.
fn hear(mut link: Link, room: u64, nothing: bool) {
    let mut shelf = Shelf::new(room);
    let error = loop {
        match link.recv(&mut shelf, Deadline::after(LONG)) {
            Ok(delivery) => {
                assert!(!nothing, "a payload that nobody sent");
                let region = delivery.region();
                assert_eq!(region.len(), delivery.receipt().bytes());
                shelf.received(region);
            }
            Err(error) => break error,
        }
    };
    shelf.check_empty();
    match error {
        TransferError::PeerClosed
        | TransferError::Truncated { .. }
        | TransferError::Protocol(_)
        | TransferError::TooLarge { .. } => {
            assert!(!link.is_open(), "open after {error}");
            let sent = send(&mut link, b"an answer", Deadline::now());
            assert!(matches!(sent, Err(TransferError::Broken)), "{sent:?}");
        }
        TransferError::Closed | TransferError::NoRoom { .. } => {}
        other => panic!("{other}"),
    }
}
