//! Every call that is listed is one that a plan can make fail, and none that has no plan is changed.

#[allow(unsafe_code)]
mod every;

use nix::errno::Errno;
use nix::fcntl::{fcntl, splice, vmsplice, FcntlArg, OFlag, SpliceFFlags};
use nix::poll::{poll, ppoll, PollFd, PollFlags, PollTimeout};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::socket::{getsockopt, recv, send, sendmsg, setsockopt, sockopt, MsgFlags};
use nix::unistd::{dup, pipe2};
use roadrunner_faults::{Call, Fault, Plan, Way};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

/// An error that none of these calls has (errno(3)): seen, it comes from the plan.
const MARK: Errno = Errno::EDOM;

#[test]
fn every_symbol_asks_the_plan() {
    let mut symbols = BTreeSet::new();
    for (call, symbol, make) in every::symbols() {
        assert!(symbols.insert((call, symbol)));
        let plan = Plan::new().nth(call, 0, Fault::Errno(MARK));
        let failed = plan.during(|| {
            let failed = make();
            (failed, Errno::last())
        });
        assert_eq!(failed, (true, MARK), "{symbol} gets past the plan");
        assert_eq!((plan.seen(call), plan.done(call)), (1, 0), "{symbol}");
        assert_eq!(plan.injected(), [(call, 0, Fault::Errno(MARK))], "{symbol}");
    }
    let listed: BTreeSet<_> = Call::ALL
        .iter()
        .flat_map(|call| call.symbols().split(' ').map(|symbol| (*call, symbol)))
        .collect();
    assert_eq!(symbols, listed);
}

/// What the standard library and nix make of it: the symbols that the crates under test come by.
#[test]
fn the_standard_library_and_nix_come_by() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let (mut a, mut b) = UnixStream::pair().expect("sockets");
    let (out, into) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let file = tempfile::tempfile().expect("a file");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = tcp.local_addr().expect("an address");
    let mut byte = [0];
    let is_marked = |result: io::Result<()>| {
        let error = result.expect_err("as planned");
        assert_eq!(error.raw_os_error(), Some(MARK as i32));
    };
    let check = |call: Call, make: &mut dyn FnMut() -> io::Result<()>| {
        let plan = Plan::new().from_nth(call, 0, Fault::Errno(MARK));
        is_marked(plan.during(make));
        assert!(plan.seen(call) > 0 && plan.done(call) == 0, "{call:?}");
    };
    check(Call::Recv, &mut || b.read_exact(&mut byte));
    check(Call::Recv, &mut || {
        Ok(recv(b.as_raw_fd(), &mut [0], MsgFlags::empty()).map(drop)?)
    });
    check(Call::Send, &mut || a.write_all(&[1]));
    check(Call::Send, &mut || {
        Ok(send(a.as_raw_fd(), &[1], MsgFlags::empty()).map(drop)?)
    });
    check(Call::Readv, &mut || {
        b.read_vectored(&mut [IoSliceMut::new(&mut [0])]).map(drop)
    });
    check(Call::Writev, &mut || {
        a.write_vectored(&[IoSlice::new(&[1])]).map(drop)
    });
    check(Call::Sendmsg, &mut || {
        let parts = [IoSlice::new(&[1])];
        Ok(sendmsg::<()>(a.as_raw_fd(), &parts, &[], MsgFlags::empty(), None).map(drop)?)
    });
    check(Call::Read, &mut || (&file).read(&mut [0]).map(drop));
    check(Call::Write, &mut || (&file).write(&[0]).map(drop));
    check(Call::Splice, &mut || {
        Ok(splice(&out, None, &a, None, 1, SpliceFFlags::SPLICE_F_NONBLOCK).map(drop)?)
    });
    check(Call::Vmsplice, &mut || {
        Ok(vmsplice(&into, &[IoSlice::new(&[1])], SpliceFFlags::empty()).map(drop)?)
    });
    check(Call::Accept, &mut || listener.accept().map(drop));
    check(Call::Accept, &mut || tcp.accept().map(drop));
    check(Call::Connect, &mut || UnixStream::connect(&path).map(drop));
    check(Call::Connect, &mut || TcpStream::connect(address).map(drop));
    check(Call::Socket, &mut || {
        TcpListener::bind("127.0.0.1:0").map(drop)
    });
    check(Call::Bind, &mut || {
        TcpListener::bind("127.0.0.1:0").map(drop)
    });
    check(Call::Listen, &mut || {
        TcpListener::bind("127.0.0.1:0").map(drop)
    });
    check(Call::Socketpair, &mut || UnixStream::pair().map(drop));
    check(Call::Setsockopt, &mut || {
        Ok(setsockopt(&a, sockopt::SndBuf, &4096)?)
    });
    check(Call::Getsockopt, &mut || {
        Ok(getsockopt(&a, sockopt::SndBuf).map(drop)?)
    });
    check(Call::Getsockname, &mut || tcp.local_addr().map(drop));
    check(Call::Getpeername, &mut || a.peer_addr().map(drop));
    check(Call::Ioctl, &mut || a.set_nonblocking(false));
    check(Call::Fcntl, &mut || a.try_clone().map(drop));
    check(Call::Fcntl, &mut || {
        Ok(fcntl(&into, FcntlArg::F_GETPIPE_SZ).map(drop)?)
    });
    check(Call::Dup, &mut || Ok(dup(&a).map(drop)?));
    check(Call::Pipe, &mut || Ok(pipe2(OFlag::O_CLOEXEC).map(drop)?));
    check(Call::Poll, &mut || {
        let mut events = [PollFd::new(a.as_fd(), PollFlags::POLLOUT)];
        Ok(poll(&mut events, PollTimeout::ZERO).map(drop)?)
    });
    check(Call::Poll, &mut || {
        let mut events = [PollFd::new(a.as_fd(), PollFlags::POLLOUT)];
        Ok(ppoll(&mut events, None, None).map(drop)?)
    });
    check(Call::Open, &mut || File::open("/").map(drop));
    check(Call::Stat, &mut || path.symlink_metadata().map(drop));
    check(Call::Unlink, &mut || std::fs::remove_file(&path));
    check(Call::Truncate, &mut || file.set_len(1));
    check(Call::Memfd, &mut || {
        Ok(memfd_create(c"name", MFdFlags::empty()).map(drop)?)
    });
    let plan = Plan::new().nth(Call::Thread, 0, Fault::Errno(Errno::EAGAIN));
    let error = plan
        .during(|| thread::Builder::new().spawn(|| ()))
        .expect_err("as planned");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_short_transfer_moves_the_first_bytes() {
    let (mut a, mut b) = UnixStream::pair().expect("sockets");
    let mut got = [0; 10];
    let plan = Plan::new()
        .nth(Call::Send, 0, Fault::Short(3))
        .nth(Call::Writev, 0, Fault::Short(4))
        .nth(Call::Sendmsg, 0, Fault::Short(2))
        .nth(Call::Recv, 0, Fault::Short(1))
        .nth(Call::Readv, 0, Fault::Short(5));
    plan.during(|| {
        assert_eq!(a.write(b"abcdef").expect("room"), 3);
        let parts = [IoSlice::new(b"def"), IoSlice::new(b"ghi")];
        assert_eq!(a.write_vectored(&parts).expect("room"), 4);
        let parts = [IoSlice::new(b"hijklm")];
        let sent = sendmsg::<()>(a.as_raw_fd(), &parts, &[], MsgFlags::empty(), None);
        assert_eq!(sent.expect("room"), 2);
        assert_eq!(b.read(&mut got).expect("bytes"), 1);
        let (one, rest) = got[1..].split_at_mut(2);
        let mut parts = [IoSliceMut::new(one), IoSliceMut::new(rest)];
        assert_eq!(b.read_vectored(&mut parts).expect("bytes"), 5);
        b.read_exact(&mut got[6..9]).expect("bytes");
    });
    assert_eq!(&got[..9], b"abcdefghi");
    assert_eq!((plan.moved(Way::Out), plan.moved(Way::In)), (9, 9));
    assert_eq!(plan.injected().len(), 5);
}

#[test]
fn a_socket_dies_at_the_byte() {
    for life in 0..=6 {
        let (mut a, mut b) = UnixStream::pair().expect("sockets");
        let plan = Plan::new().dies(Way::Out, life);
        let written = plan.during(|| {
            let first = a.write(b"abcdef");
            (first, a.write(b"more"))
        });
        let (first, then) = written;
        if life == 0 {
            assert_eq!(first.expect_err("dead").kind(), io::ErrorKind::BrokenPipe);
        } else {
            assert_eq!(first.expect("alive"), life as usize);
        }
        assert_eq!(then.expect_err("dead").kind(), io::ErrorKind::BrokenPipe);
        assert!(plan.has_died());
        let mut got = Vec::new();
        b.read_to_end(&mut got).expect("the end");
        assert_eq!(got, &b"abcdef"[..life as usize]);
        assert_eq!(a.read(&mut [0]).expect("the end"), 0);
    }
}

#[test]
fn lots_are_drawn_from_the_seed() {
    let draw = |seed| {
        let plan = Plan::new().random(seed, 3, &[Call::Stat]);
        let mut lot = Vec::new();
        plan.during(|| {
            for _ in 0..50 {
                lot.push(
                    File::open("/")
                        .map_err(|error| error.raw_os_error())
                        .is_ok(),
                );
                std::fs::symlink_metadata("/").expect("spared");
            }
        });
        lot
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn other_threads_are_left_alone() {
    let plan = Plan::new().from_nth(Call::Open, 0, Fault::Errno(Errno::EMFILE));
    plan.during(|| {
        assert!(File::open("/").is_err());
        let other = thread::spawn(|| File::open("/").is_ok());
        assert!(other.join().expect("no panic"));
        Plan::new().during(|| assert!(File::open("/").is_ok()));
        assert!(File::open("/").is_err());
    });
    assert!(File::open("/").is_ok());
}
