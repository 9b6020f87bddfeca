//! Bells that links ring.

use crate::{early, soon};
use roadrunner_core::{Deadline, HostMemory, Payload, Transfer};
use roadrunner_mem::{link, Doorbell, Link};
use std::thread;

#[test]
fn a_bell_on_several_links_rings_for_each() {
    let (mut senders, receivers): (Vec<Link>, Vec<Link>) = (0..3).map(|_| link(early())).unzip();
    let bell = Doorbell::new();
    receivers.iter().for_each(|receiver| receiver.hang(&bell));
    assert!(!bell.wait(Deadline::now()));
    for at in [2, 0, 1] {
        let mut sender = senders.remove(if at == 2 { 2 } else { 0 });
        let ringer = thread::spawn(move || {
            let mut memory = HostMemory::from(*b"x");
            let region = memory.region();
            sender
                .send(Payload::kept(&mut memory, region).expect("inside"), soon())
                .expect("room");
            sender
        });
        assert!(bell.wait(soon()));
        assert!(receivers[at].is_ready());
        drop(ringer.join().expect("no panic"));
        assert!(bell.wait(soon()), "the peer's end rings too");
    }
}

#[test]
fn a_bell_that_is_hung_late_rings_for_what_is_there() {
    let (mut here, there) = link(early());
    let mut memory = HostMemory::from(*b"x");
    let region = memory.region();
    here.send(Payload::kept(&mut memory, region).expect("inside"), soon())
        .expect("room");
    let bell = Doorbell::new();
    there.hang(&bell);
    assert!(bell.wait(Deadline::now()));
    assert!(!bell.wait(Deadline::now()), "once");
}
