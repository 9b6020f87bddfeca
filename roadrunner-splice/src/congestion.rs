//! Which congestion control a connection has, and how one is made that has it from the start.
//!
//! It is chosen before there is a connection. BBR paces, and what takes its place on a connection that is there goes on
//! pacing, by a rate that follows from the first round trips: those of a handshake, which wait for a process. With the kernel's own
//! timer between two segments a message of 64 KiB took twice as long until some thirty messages had gone over a connection.

use crate::options::Options;
use crate::socket::{revents, wait};
use crate::wire::is_loopback;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    connect, getsockopt, setsockopt, socket, sockopt, AddressFamily, SockFlag, SockType,
    SockaddrStorage,
};
use roadrunner_core::Deadline;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The name of the one that runs, or will; `None` if the system does not say.
pub(crate) fn of(socket: &impl AsFd) -> Option<String> {
    let name = getsockopt(socket, sockopt::TcpCongestion).ok()?;
    let name = name.into_string().ok()?;
    Some(name.trim_end_matches('\0').to_owned())
}

/// For a socket whose other end, or for a listening one whose own, is at `ip`. Never an error: a link with the system's own
/// choice is slower, not wrong.
pub(crate) fn choose(socket: &impl AsFd, ip: IpAddr, options: &Options) {
    let set =
        |name: &str| setsockopt(socket, sockopt::TcpCongestion, &OsString::from(name)).is_ok();
    match &options.congestion {
        Some(name) if of(socket).as_ref() != Some(name) => {
            set(name);
        }
        None if is_loopback(ip) && of(socket).as_deref() == Some("bbr") => {
            let _ = set("cubic") || set("reno");
        }
        _ => {}
    }
}

/// Connects, in as much time as is given. The connection does not block.
pub(crate) fn dial(
    address: &SocketAddr,
    options: &Options,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = TcpStream::from(socket(family, SockType::Stream, flags, None)?);
    choose(&socket, address.ip(), options);
    let deadline = Deadline::after(timeout);
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(*address)) {
        Ok(()) => return Ok(socket),
        // It goes on also where a signal came (connect(2)).
        Err(Errno::EINPROGRESS | Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    loop {
        let mut events = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        wait(&mut events, deadline)?;
        if !revents(&events[0]).is_empty() {
            return socket.take_error()?.map_or(Ok(socket), Err);
        }
        if deadline.has_passed() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::Listener;
    use std::net::TcpListener;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_connection_has_what_was_asked_for_when_it_begins() {
        // Part of every kernel (tcp(7)).
        let options = Options::default().congestion("reno");
        let listener = Listener::bind("127.0.0.1:0", options.clone()).expect("a port");
        let near = dial(&listener.address(), &options, SOON).expect("it listens");
        assert_eq!(of(&near).as_deref(), Some("reno"));
        // What is accepted from it has what it has, before anything else can be said.
        assert_eq!(of(&listener.socket).as_deref(), Some("reno"));
    }

    #[test]
    fn bbr_never_begins_on_loopback() {
        let options = Options::default();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = Listener::bind(address, options.clone()) else {
                eprintln!("skipped: there is no {address}");
                continue;
            };
            let near = dial(&listener.address(), &options, SOON).expect("it listens");
            assert_ne!(of(&near).as_deref(), Some("bbr"));
            assert_ne!(of(&listener.socket).as_deref(), Some("bbr"));
        }
    }

    #[test]
    fn nobody_there_is_an_error_and_so_is_silence() {
        let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = gone.local_addr().expect("it is bound");
        drop(gone);
        let error = dial(&address, &Options::default(), SOON).expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
        // Its queue is full once it has as many as it takes (listen(2)), and what comes then gets no answer.
        let silent = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        );
        let silent = TcpListener::from(silent.expect("a socket"));
        let any = SockaddrStorage::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        nix::sys::socket::bind(silent.as_raw_fd(), &any).expect("a port");
        let backlog = nix::sys::socket::Backlog::new(0).expect("a number");
        nix::sys::socket::listen(&silent, backlog).expect("it is bound");
        let address = silent.local_addr().expect("it is bound");
        let short = Duration::from_millis(50);
        let mut kept = Vec::new();
        let error = loop {
            match dial(&address, &Options::default(), short) {
                Ok(socket) => kept.push(socket),
                Err(error) => break error,
            }
            assert!(kept.len() < 16, "a queue of one takes no more");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }
}
