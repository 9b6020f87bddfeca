//! Payloads that the network card takes from where they lie: io_uring's `SENDMSG_ZC`, or `MSG_ZEROCOPY` (the kernel's
//! Documentation/networking/msg_zerocopy.rst) where that cannot be had.
//!
//! Either returns while the kernel still refers to the pages. It says in the ring, or on the socket's error queue, when it
//! does so no longer, which is when the peer's kernel has acknowledged their bytes, and whether it has copied them after
//! all, as it does where the receiver is on the same host. So `send` waits for that; and the last byte of a payload leaves,
//! by a copy, only then. Whatever fails before, the peer has no whole frame, and so nothing to show of pages that may be
//! overwritten as soon as `send` has returned.

use crate::checksum::{Sum, STEP};
use crate::socket::{revents, wait, Socket};
use crate::sys::{self, Ring};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{getsockopt, recvmsg, sockopt, ControlMessageOwned, MsgFlags};
use roadrunner_core::frame::HEADER_LEN;
use roadrunner_core::stream::{Carried, Start};
use roadrunner_core::{Deadline, Method, Span, TransferError};
use roadrunner_mem::{Checksum, PageBuffer};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// In an answer on the error queue: it is about `MSG_ZEROCOPY`, and the bytes were copied (linux/errqueue.h).
const ORIGIN: u8 = 5;
const COPIED: u8 = 1;

/// How a link hands payloads to the kernel that are sent without a copy.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ZeroCopyBy {
    /// By io_uring (`IORING_OP_SENDMSG_ZC`, Linux 6.2).
    IoUring,
    /// By sendmsg(2) with `MSG_ZEROCOPY`, and why not by io_uring if that was wanted
    /// ([`Options::io_uring`](crate::Options::io_uring)).
    Sendmsg(Option<Arc<io::Error>>),
}

/// Whether there is a ring.
#[derive(Debug)]
enum Uring {
    /// Not yet: a link that sends nothing large needs none.
    Untried,
    There(Box<Ring>),
    Refused(Arc<io::Error>),
    Unwanted,
}

/// What a connection that sends without copying keeps from one payload to the next.
#[derive(Debug)]
pub(crate) struct ZeroCopy {
    /// Bytes of the smallest payload that is sent like this.
    from: u64,
    /// Whether the peer is to acknowledge each payload.
    pub(crate) acknowledge: bool,
    /// The header of a frame, which the kernel refers to as well, even when this is dropped.
    header: PageBuffer,
    uring: Uring,
    /// Calls that the kernel has not answered on the error queue.
    waiting: u32,
    /// Whether any of the payload that is being sent was copied.
    is_copied: bool,
    /// Whether the last one was: what a header says before its payload is sent.
    was_copied: bool,
}

impl ZeroCopy {
    /// If the system can do that. With `wants_uring` it goes by io_uring where that can be had.
    pub(crate) fn new(socket: &impl AsFd, from: u64, wants_uring: bool) -> Option<Self> {
        sys::allow_zero_copy(socket.as_fd()).ok()?;
        Some(Self {
            from,
            acknowledge: false,
            header: PageBuffer::new(HEADER_LEN).ok()?,
            uring: if wants_uring {
                Uring::Untried
            } else {
                Uring::Unwanted
            },
            waiting: 0,
            is_copied: false,
            was_copied: true,
        })
    }

    /// How it goes by now; `None` until a payload had to be sent.
    pub(crate) fn by(&self) -> Option<ZeroCopyBy> {
        match &self.uring {
            Uring::Untried => None,
            Uring::There(_) => Some(ZeroCopyBy::IoUring),
            Uring::Refused(why) => Some(ZeroCopyBy::Sendmsg(Some(why.clone()))),
            Uring::Unwanted => Some(ZeroCopyBy::Sendmsg(None)),
        }
    }

    /// Sends a frame, `None` if it has to be written instead: it is short, nobody may wait for the answers, or the system
    /// refuses before a byte is sent.
    ///
    /// # Errors
    /// As [`Wire::carry`](roadrunner_core::stream::Wire::carry); but what was partly sent cannot go on: the connection is reset.
    pub(crate) fn carry(
        &mut self,
        socket: &mut Socket,
        start: Start,
        payload: Span<'_>,
        checksum: Option<&mut Sum>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Option<Carried>, TransferError> {
        if *sent > 0 || start.is_empty() || start.len() < self.from || deadline.has_passed() {
            return Ok(None);
        }
        let acknowledge = self.acknowledge;
        let carried = |copied| Carried {
            method: Method::ZeroCopySend,
            copies: u8::from(copied),
            acknowledge,
        };
        let header = start.header(carried(self.was_copied));
        if let Uring::Untried = self.uring {
            self.uring = match Ring::new() {
                Ok(ring) => Uring::There(Box::new(ring)),
                Err(error) => Uring::Refused(Arc::new(error)),
            };
        }
        // What was called back with nothing sent.
        let settled = self.settle(socket, deadline);
        settled.map_err(|error| TransferError::from_io("send without a copy", error))?;
        self.header.span().copy_from_slice(&header);
        self.is_copied = false;
        match self.send_frame(socket, payload, checksum, sent, deadline) {
            Ok(true) => {
                self.was_copied = self.is_copied;
                Ok(Some(carried(self.is_copied)))
            }
            Ok(false) => Ok(None),
            Err(error) => {
                if *sent > 0 && self.waiting() > 0 {
                    // Not one more byte of pages that are the caller's again.
                    sys::reset(socket.as_fd());
                }
                Err(error)
            }
        }
    }

    fn send_frame(
        &mut self,
        socket: &mut Socket,
        payload: Span<'_>,
        mut checksum: Option<&mut Sum>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<bool, TransferError> {
        if let Some(sum) = &mut checksum {
            sum.restart();
        }
        let (body, last) = payload.split_at(payload.len() - 1);
        let failed = |error| TransferError::from_io("send without a copy", error);
        while *sent < (HEADER_LEN + body.len()) as u64 {
            // Less than the sum above.
            let of_body = (*sent as usize).saturating_sub(HEADER_LEN);
            let until = (of_body + STEP).min(body.len());
            let step = body.split_at(until).0;
            if let Some(sum) = &mut checksum {
                sum.add(step.split_at(sum.done()).1);
            }
            let in_header = (*sent as usize).min(HEADER_LEN);
            let step = step.split_at(of_body).1;
            let count = self.send_some(socket, in_header, step, deadline);
            match count.map_err(failed)? {
                Some(count) => *sent += count as u64,
                None if *sent == 0 => return Ok(false),
                None => {
                    let head = &self.header.as_slice()[in_header..HEADER_LEN];
                    let written = socket.write_parts(head, step, &[], deadline);
                    *sent += written.map_err(failed)? as u64;
                    self.is_copied = true;
                }
            }
            if deadline.is_over() {
                return Err(TransferError::Timeout);
            }
        }
        self.settle(socket, deadline).map_err(failed)?;
        let sum = checksum.map(|sum| {
            sum.add(last);
            sum.bytes()
        });
        let tail = sum.as_ref().map_or(&[][..], |sum| sum);
        let mut of_tail = 0;
        while of_tail < last.len() + tail.len() {
            let last = last.split_at(of_tail).1;
            let tail = &tail[of_tail.saturating_sub(1)..];
            let written = socket.write_parts(&[], last, tail, deadline);
            of_tail += written.map_err(failed)?;
        }
        *sent += of_tail as u64;
        Ok(true)
    }

    /// Sends some of what follows the first `in_header` bytes of the header and of `step`; `None` if the system has no
    /// room for another such call, though none is waited for.
    fn send_some(
        &mut self,
        socket: &Socket,
        in_header: usize,
        step: Span<'_>,
        deadline: Deadline,
    ) -> io::Result<Option<usize>> {
        loop {
            let head = &self.header.as_slice()[in_header..HEADER_LEN];
            let sent = match &mut self.uring {
                Uring::There(ring) => match ring.send(socket.as_fd(), head, step, deadline) {
                    Ok(sent) => sent,
                    Err(error) => {
                        let is_over = ring.waiting() > 0;
                        let why = Arc::new(error);
                        self.uring = Uring::Refused(why.clone());
                        if is_over {
                            // Nobody hears any more when the kernel lets those pages go.
                            sys::reset(socket.as_fd());
                            return Err(io::Error::other(why));
                        }
                        continue;
                    }
                },
                _ => {
                    sys::send(socket.as_fd(), head, step, &[], true).inspect(|_| self.waiting += 1)
                }
            };
            let error = match sent {
                Ok(count) => return Ok(Some(count)),
                Err(error) => error,
            };
            let is_full = match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EINTR) => continue,
                Some(Errno::EAGAIN) => PollFlags::POLLOUT,
                // What calls are remembered in has a limit (net.core.optmem_max), and pinned pages as well (RLIMIT_MEMLOCK).
                Some(Errno::ENOBUFS | Errno::ENOMEM) if self.waiting() > 0 => PollFlags::empty(),
                Some(Errno::ENOBUFS | Errno::ENOMEM) => return Ok(None),
                // Not our deadline: the system has given the peer up.
                Some(Errno::ETIMEDOUT) => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => return Err(error),
            };
            // Answers that nobody takes would end each wait at once.
            if self.take_answers(socket)? == 0 || is_full == PollFlags::POLLOUT {
                self.wait(socket, is_full, deadline)?;
            }
        }
    }

    /// Waits until the kernel refers to none of the pages any more.
    fn settle(&mut self, socket: &Socket, deadline: Deadline) -> io::Result<()> {
        loop {
            let answered = self.take_answers(socket)?;
            if self.waiting() == 0 {
                return Ok(());
            }
            if answered == 0 {
                self.wait(socket, PollFlags::empty(), deadline)?;
            }
        }
    }

    /// Sends whose pages the kernel may refer to.
    fn waiting(&self) -> u32 {
        match &self.uring {
            Uring::There(ring) => ring.waiting(),
            _ => self.waiting,
        }
    }

    /// Waits for one of the events, or for an answer.
    fn wait(&mut self, socket: &Socket, events: PollFlags, deadline: Deadline) -> io::Result<()> {
        if deadline.has_passed() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if let (Uring::There(ring), true) = (&mut self.uring, events.is_empty()) {
            // A connection that breaks lets all pages go.
            ring.wait(deadline);
            return Ok(());
        }
        let mut events = [PollFd::new(socket.as_fd(), events)];
        wait(&mut events, deadline)?;
        if !revents(&events[0]).intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
            return Ok(());
        }
        // Answers come like errors.
        match getsockopt(socket, sockopt::SocketError)? {
            0 if revents(&events[0]).contains(PollFlags::POLLHUP) => {
                Err(io::ErrorKind::ConnectionReset.into())
            }
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Takes what the kernel has said, and says how many calls it was about.
    fn take_answers(&mut self, socket: &Socket) -> io::Result<u32> {
        if let Uring::There(ring) = &mut self.uring {
            let answered = ring.take_answers();
            self.is_copied |= ring.has_copied();
            return Ok(answered);
        }
        let mut answered = 0;
        let mut room = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        loop {
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let fd = socket.as_fd().as_raw_fd();
            let message = match recvmsg::<()>(fd, &mut [], Some(&mut room), flags) {
                Ok(message) => message,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Ok(answered),
                Err(errno) => return Err(errno.into()),
            };
            let mut answers = message.cmsgs()?.peekable();
            if answers.peek().is_none() {
                // A connection that is no more.
                return Ok(answered);
            }
            for answer in answers {
                let (ControlMessageOwned::Ipv4RecvErr(answer, _)
                | ControlMessageOwned::Ipv6RecvErr(answer, _)) = answer
                else {
                    continue;
                };
                if answer.ee_errno == 0 && answer.ee_origin == ORIGIN {
                    // From the first call to the last one, both included.
                    let calls = answer.ee_data.wrapping_sub(answer.ee_info).wrapping_add(1);
                    self.waiting = self.waiting.saturating_sub(calls);
                    self.is_copied |= answer.ee_code & COPIED != 0;
                    answered += calls;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roadrunner_faults::{Call, Fault, Plan};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    #[test]
    fn a_connection_that_always_takes_a_little_does_not_put_a_deadline_off() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let near = TcpStream::connect(address).expect("it listens");
        near.set_nonblocking(true).expect("a socket");
        let mut socket = Socket::new(near, None);
        let Some(mut sending) = ZeroCopy::new(&socket, 0, false) else {
            eprintln!("skipped: the system sends nothing without a copy");
            return;
        };
        let mut bytes = vec![7; 100_000];
        let payload = Span::from_slice(&mut bytes);
        // All of it has room.
        let plan = Plan::new().from_nth(Call::Sendmsg, 0, Fault::Short(1000));
        let late = Deadline::at(Instant::now());
        let mut sent = 0;
        let done = plan.during(|| sending.send_frame(&mut socket, payload, None, &mut sent, late));
        assert!(matches!(done, Err(TransferError::Timeout)), "{done:?}");
        assert_eq!(sent, 1000);
    }
}
