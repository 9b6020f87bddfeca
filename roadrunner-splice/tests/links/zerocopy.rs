//! Payloads that the network card would take from where they lie.

use crate::by_hand::by_hand;
use crate::common::both;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags};
use roadrunner_core::testing::{
    fill, host_memory, pattern, read_header, receive, reuse_with_full_buffers, send, soon,
    Conformance, LENGTHS,
};
use roadrunner_core::{
    Deadline, HostMemory, Method, Payload, Receipt, Region, Transfer, TransferError,
};
use roadrunner_faults::{Call, Fault, Plan};
use roadrunner_splice::{Link, Options, Preference, ZeroCopyBy};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

fn options(io_uring: bool) -> Options {
    Options::default()
        .prefer(Preference::ZeroCopySend)
        .splice_from(20_000)
        .io_uring(io_uring)
}

/// Whether payloads went by io_uring; said if they should have and did not.
fn went_by_io_uring(link: &Link, wanted: bool) -> bool {
    match link.wire().zero_copy_by() {
        Some(ZeroCopyBy::IoUring) if wanted => true,
        Some(ZeroCopyBy::Sendmsg(None)) if !wanted => false,
        Some(ZeroCopyBy::Sendmsg(Some(why))) if wanted => {
            eprintln!("skipped: sends by io_uring, went by sendmsg: {why}");
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_contract_holds_and_a_receiver_on_this_host_costs_a_copy() {
    for (give, offset, checksum, io_uring) in [
        (false, 0, false, false),
        (true, 13, true, false),
        (false, 13, false, true),
        (true, 0, true, true),
    ] {
        let receipts = Conformance {
            open: &|| both(&options(io_uring).checksum(checksum)),
            memory: &host_memory,
            give,
            offset,
        }
        .all();
        for receipt in receipts {
            let method = match receipt.bytes() {
                0..=16_384 => Method::Inline,
                16_385..20_000 => Method::Write,
                _ => Method::ZeroCopySend,
            };
            assert_eq!(receipt.method(), method);
            assert_eq!(receipt.copies(), u8::from(receipt.bytes() > 0));
        }
    }
}

/// What lies in the sender's queue lies in the sender's pages.
#[test]
fn the_source_may_be_overwritten_when_send_has_returned() {
    for (len, io_uring) in LENGTHS.iter().flat_map(|len| [(*len, false), (*len, true)]) {
        for buffer in [4096, 1 << 20] {
            let options = options(io_uring).splice_from(0).buffer(buffer);
            let (mut link, mut stream) = by_hand(&options);
            let receipt = reuse_with_full_buffers(&mut link, &mut stream, &host_memory, false, len);
            let method = if len == 0 {
                Method::Inline
            } else {
                Method::ZeroCopySend
            };
            assert_eq!(receipt.method(), method, "{len}");
            if len > 0 {
                went_by_io_uring(&link, io_uring);
            }
        }
    }
}

/// The deadline passes with all of it in the sender's queue: what the peer gets then is nothing that was written later.
#[test]
fn nothing_follows_from_pages_whose_payload_has_failed() {
    for (io_uring, buffer) in [(false, 16 << 20), (true, 16 << 20), (true, 4096)] {
        nothing_follows(&options(io_uring).buffer(buffer));
    }
}

fn nothing_follows(options: &Options) {
    let len = 1 << 20;
    let (mut link, mut stream) = by_hand(options);
    let mut memory = HostMemory::from(vec![1; len]);
    let payload = Payload::kept(&mut memory, Region::new(0, len as u64)).expect("inside");
    let deadline = Deadline::after(Duration::from_millis(50));
    let error = link.send(payload, deadline).expect_err("nobody reads");
    assert!(matches!(error, TransferError::Timeout), "{error}");
    assert!(!link.is_open());
    fill(&mut memory, 0, &vec![0xEE; len]);
    let mut bytes = Vec::new();
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).expect("a time");
    // The connection has been reset.
    let _ = stream.read_to_end(&mut bytes);
    assert!(bytes.len() < len, "{}", bytes.len());
    assert!(!bytes.contains(&0xEE));
}

#[test]
fn where_the_system_has_no_room_for_it_the_payload_is_written_and_the_receipt_says_so() {
    for (checksum, nth) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
        let (mut a, mut b) = both(&options(false).checksum(checksum).buffer(64 << 10));
        thread::scope(|scope| {
            let sender = scope.spawn(move || {
                let plan = Plan::new().from_nth(Call::Sendmsg, nth, Fault::Errno(Errno::ENOBUFS));
                plan.during(|| send(&mut a, &pattern(300_000, 1), soon()))
            });
            let received = receive(&mut b);
            let sent = sender.join().expect("no panic");
            // Without room for anything else either.
            assert!(matches!(sent, Err(TransferError::Io { .. })), "{sent:?}");
            assert!(received.is_err());
        });
    }
    let (mut a, mut b) = both(&options(false));
    for (nth, method) in [(0, Method::Write), (1, Method::ZeroCopySend)] {
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let plan = Plan::new().nth(Call::Sendmsg, nth, Fault::Errno(Errno::ENOBUFS));
                plan.during(|| send(&mut a, &pattern(3_000_000, 1), soon()))
            });
            let (bytes, delivered) = receive(&mut b).expect("received");
            let sent = sender.join().expect("no panic").expect("sent");
            assert!(bytes == pattern(3_000_000, 1));
            assert_eq!((sent.method(), sent.copies()), (method, 1));
            assert_eq!((delivered.method(), delivered.copies()), (method, 2));
        });
    }
}

/// Sends one payload from `a` to `b` under a plan.
fn pass(a: &mut Link, b: &mut Link, plan: &Plan, seed: u64) -> Receipt {
    let bytes = pattern(3_000_000, seed);
    thread::scope(|scope| {
        let sender = scope.spawn(|| plan.during(|| send(a, &bytes, soon())));
        assert!(receive(b).expect("received").0 == bytes);
        sender.join().expect("no panic").expect("sent")
    })
}

#[test]
fn without_io_uring_payloads_go_by_sendmsg_and_the_link_says_why() {
    let (call, error) = (Call::RingSetup, Fault::Errno);
    for (call, errno) in [
        (call, Errno::ENOSYS),
        (call, Errno::EPERM),
        (call, Errno::EMFILE),
        (call, Errno::ENOMEM),
        (Call::RingRegister, Errno::EINVAL),
        (Call::Map, Errno::ENOMEM),
        (Call::RingEnter, Errno::EAGAIN),
    ] {
        let (mut a, mut b) = both(&options(true));
        assert!(a.wire().zero_copy_by().is_none(), "nothing was sent");
        let plan = Plan::new().from_nth(call, 0, error(errno));
        let receipt = pass(&mut a, &mut b, &plan, 1);
        assert_eq!(receipt.method(), Method::ZeroCopySend);
        if plan.seen(call) == 0 {
            eprintln!("skipped: {call:?} fails: it is not called");
            continue;
        }
        let Some(ZeroCopyBy::Sendmsg(Some(why))) = a.wire().zero_copy_by() else {
            panic!("{call:?} {errno}: {:?}", a.wire().zero_copy_by());
        };
        if cfg!(feature = "io-uring") && plan.seen(Call::RingSetup) == 1 {
            assert_eq!(why.raw_os_error(), Some(errno as i32), "{call:?}");
        }
        // It does not try again, and goes on.
        let calm = Plan::new();
        assert_eq!(
            pass(&mut a, &mut b, &calm, 2).method(),
            Method::ZeroCopySend
        );
        assert_eq!(calm.seen(Call::RingSetup) + calm.seen(Call::RingEnter), 0);
    }
}

/// It has nobody any more who says when the pages are free.
#[test]
fn a_ring_that_fails_in_mid_payload_breaks_the_link() {
    let (mut a, mut b) = both(&options(true));
    pass(&mut a, &mut b, &Plan::new(), 1);
    if !went_by_io_uring(&a, true) {
        return;
    }
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            // The first step is taken, with one call or more.
            let plan = Plan::new().from_nth(Call::RingEnter, 1, Fault::Errno(Errno::EBUSY));
            let sent = plan.during(|| send(&mut a, &pattern(3_000_000, 1), soon()));
            (sent, a.is_open(), plan.done(Call::RingEnter))
        });
        let received = receive(&mut b);
        let (sent, is_open, entered) = sender.join().expect("no panic");
        assert_eq!(entered, 1);
        match sent {
            Err(_) => assert!(!is_open && received.is_err(), "{received:?}"),
            // The kernel had let go of all of it by then.
            Ok(receipt) => assert!(is_open && receipt.bytes() == 3_000_000 && received.is_ok()),
        }
    });
}

/// Writes to a connection until there is no room any more.
fn fill_up(connection: &mut TcpStream) -> usize {
    let mut written = 0;
    loop {
        let before = written;
        while let Ok(count) = connection.write(&[0xF1; 4096]) {
            written += count;
        }
        if written == before {
            return written;
        }
        // Until nothing more goes over.
        let mut events = [PollFd::new(connection.as_fd(), PollFlags::POLLOUT)];
        poll(&mut events, 200_u16).expect("a descriptor");
    }
}

/// A link of which nothing goes out by a deadline, and what lies before that on its way. Sooner or later the system makes
/// some room in a connection that nobody reads: then a payload has begun, and the link is over.
fn stuck(options: &Options, bytes: &[u8]) -> (Link, TcpStream, usize) {
    for _ in 0..20 {
        let (mut link, stream) = by_hand(options);
        let mut connection = TcpStream::from(link.as_fd().try_clone_to_owned().expect("one"));
        let filled = fill_up(&mut connection);
        let deadline = Deadline::after(Duration::from_millis(20));
        let error = send(&mut link, bytes, deadline).expect_err("no room");
        assert!(matches!(error, TransferError::Timeout), "{error}");
        if link.is_open() {
            return (link, stream, filled);
        }
    }
    panic!("a payload that was not begun broke the link");
}

/// The kernel waits for room with the payload in its hands, and gives it back when the deadline passes.
#[test]
fn a_link_without_room_by_the_deadline_goes_on_as_nothing_was_sent() {
    let bytes = pattern(100_000, 1);
    for io_uring in [false, true] {
        let (mut link, mut stream, filled) = stuck(&options(io_uring).buffer(4096), &bytes);
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).expect("a time");
        stream
            .read_exact(&mut vec![0; filled])
            .expect("as it was filled");
        thread::scope(|scope| {
            let sender = scope.spawn(|| send(&mut link, &bytes, soon()));
            assert_eq!(read_header(&mut stream).expect("a header").length, 100_000);
            let mut got = vec![0; 100_000];
            stream.read_exact(&mut got).expect("the payload");
            assert!(got == bytes);
            let sent = sender.join().expect("no panic").expect("sent");
            assert_eq!(sent.method(), Method::ZeroCopySend);
        });
        went_by_io_uring(&link, io_uring);
    }
}
