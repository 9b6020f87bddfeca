//! What the system refuses is done otherwise, and said.

use crate::alone;
use crate::common::{both, pages};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use roadrunner_core::testing::{fill, pattern, receive, soon};
use roadrunner_core::{Method, Payload, Region, Transfer};
use roadrunner_splice::{Options, Preference};
use std::thread;

#[test]
fn without_a_pipe_the_payload_is_written_and_the_receipt_says_so() {
    alone(
        "fallback::without_a_pipe_the_payload_is_written_and_the_receipt_says_so",
        without_a_pipe,
    );
}

fn without_a_pipe() {
    let len = 4 << 20;
    let (mut a, mut b) = both(&Options::default().prefer(Preference::Splice));
    let mut memory = pages(len);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    for (round, (limit, method)) in [(3, Method::Write), (hard, Method::Splice)]
        .into_iter()
        .enumerate()
    {
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).expect("not above the hard one");
        fill(&mut memory, 0, &pattern(len, round as u64));
        let receipt = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let payload = Payload::given(&mut memory, Region::new(0, len)).expect("inside");
                a.send(payload, soon()).expect("sent")
            });
            assert!(receive(&mut b).expect("received").0 == pattern(len, round as u64));
            sender.join().expect("no panic")
        });
        assert_eq!(receipt.method(), method);
        assert_eq!(receipt.copies(), u8::from(method == Method::Write));
    }
}
