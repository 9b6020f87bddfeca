//! Until a link is open: the proof of the secret and hellos, and before them the hands that TLS shakes.

use crate::common::secret;
use roadrunner_faults::{is_long, Call, Meeting};
use roadrunner_splice::{connect, Link, Listener, Options};
use std::sync::Mutex;

/// A listener, and where it is.
type Place = (Mutex<Listener>, String);

fn meeting(name: &str, options: &Options, test: impl Fn(&Meeting<'_, Place, Link>)) {
    test(&Meeting {
        name,
        listen: &|| {
            let listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a free port");
            let address = listener.address().to_string();
            (Mutex::new(listener), address)
        },
        connect: &|(_, address): &Place, deadline| connect(address, "met", options, deadline),
        accept: &|(listener, _): &Place, deadline| {
            let mut listener = listener.lock().expect("nobody panics with it");
            listener.accept(deadline)
        },
        calls: &[
            Call::Socket,
            Call::Connect,
            Call::Accept,
            Call::Setsockopt,
            Call::Sendmsg,
            Call::Recv,
        ],
    });
}

fn plainly(test: impl Fn(&Meeting<'_, Place, Link>)) {
    let options = Options::default().secret(secret());
    meeting("tcp, until it is open", &options, test);
}

#[test]
fn every_call_fails_until_a_link_is_open() {
    plainly(|meeting| meeting.sweep());
}

#[test]
fn either_side_dies_until_a_link_is_open() {
    plainly(|meeting| meeting.deaths(if is_long() { 1 } else { 7 }));
}

#[test]
fn calls_fail_at_random_until_a_link_is_open() {
    plainly(|meeting| meeting.at_random());
}

#[cfg(feature = "tls")]
mod within_tls {
    use super::{meeting, Place};
    use crate::common::certificates::tls;
    use crate::common::secret;
    use roadrunner_faults::{is_long, Meeting};
    use roadrunner_splice::{Link, Options};

    fn within_tls(test: impl Fn(&Meeting<'_, Place, Link>)) {
        let options = Options::default().secret(secret()).tls(tls());
        meeting("tls, until it is open", &options, test);
    }

    #[test]
    fn every_call_fails_while_hands_are_shaken() {
        within_tls(|meeting| meeting.sweep());
    }

    #[test]
    fn either_side_dies_while_hands_are_shaken() {
        within_tls(|meeting| meeting.deaths(if is_long() { 1 } else { 23 }));
    }

    #[test]
    fn calls_fail_at_random_while_hands_are_shaken() {
        within_tls(|meeting| meeting.at_random());
    }
}
