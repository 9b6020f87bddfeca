//! A peer that sends every malformed frame and descriptor that it can think of. The only test of this file, because it
//! counts the process's descriptors.

mod rings;
mod segments;

use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::socket::{sendmsg, ControlMessage, MsgFlags};
use nix::unistd::ftruncate;
use roadrunner_core::testing::{say_hello, soon};
use roadrunner_uds::{Link, Options, UnixWire};
use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread;

const PAGE: u64 = 4096;
const LIMIT: u64 = 1 << 20;
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// An end whose peer is a plain socket.
fn by_hand() -> (Link, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let wire = UnixWire::new(ours, &Options::default().limit(LIMIT)).expect("our own uid");
    let link = thread::scope(|scope| {
        let hand = scope.spawn(|| say_hello(&mut theirs, "by hand").expect("hello"));
        let link = Link::accept(wire, LIMIT, soon()).expect("hello");
        hand.join().expect("no panic");
        link
    });
    (link, theirs)
}

/// Sends bytes, and descriptors with the first of them.
fn pass(stream: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let with: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(bytes)],
        with,
        MsgFlags::empty(),
        None,
    );
    assert_eq!(sent, Ok(bytes.len()));
}

fn memfd(len: u64, flags: MFdFlags, seals: Option<SealFlag>) -> OwnedFd {
    let descriptor = memfd_create(c"hostile", flags).expect("a memfd");
    ftruncate(&descriptor, len as i64).expect("room");
    if let Some(seals) = seals {
        fcntl(&descriptor, FcntlArg::F_ADD_SEALS(seals)).expect("sealed");
    }
    descriptor
}

fn sealed(len: u64) -> OwnedFd {
    memfd(len, MFdFlags::MFD_ALLOW_SEALING, Some(SEALS))
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[test]
fn whatever_a_peer_passes_is_looked_at_first() {
    segments::everything();
    rings::at_the_opening();
    rings::garbage();
    segments::sockets_that_linger_in_others();
}
