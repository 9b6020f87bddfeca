//! Sends without a copy through io_uring (io_uring_enter(2), `IORING_OP_SENDMSG_ZC`, Linux 6.2).

use super::reset;
use io_uring::{cqueue, opcode, squeue, types, IoUring, Probe};
use nix::errno::Errno;
use nix::libc;
use roadrunner_core::{Deadline, Span};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What an operation is told by when it is complete.
const SEND: u64 = 1;
const CANCEL: u64 = 2;
/// That the answer about the pages is to say whether they were copied, and how it does (linux/io_uring.h).
const REPORT_USAGE: u16 = 1 << 3;
const COPIED: u32 = 1 << 31;
/// Sends whose pages the kernel may still refer to. There is room for what it says of all of them and of the next.
const MOST: u32 = 60;
const ANSWERS: u32 = 2 * MOST + 8;

/// A ring that belongs to one connection. At most one send is under way at a time, and none between two calls.
pub(crate) struct Ring {
    ring: IoUring,
    /// What came of the send that is under way.
    result: Option<i32>,
    /// Sends whose pages the kernel has not let go.
    waiting: u32,
    is_copied: bool,
}

impl Ring {
    /// If the system has it and lets this process use it.
    pub(crate) fn new() -> io::Result<Self> {
        let ring = IoUring::builder().setup_cqsize(ANSWERS).build(2)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::SendMsgZc::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self {
            ring,
            result: None,
            waiting: 0,
            is_copied: false,
        })
    }

    /// Sends `head` and `body`, all of it unless the deadline passes or something is wrong, and says how many bytes.
    /// The kernel may refer to the pages of both until [`waiting`](Self::waiting) is 0 again.
    ///
    /// # Errors
    /// The outer one if the ring is of no use, which is to be asked nothing else then: nothing of this was sent. The inner
    /// one is the connection's: [`TimedOut`](io::ErrorKind::TimedOut) if nothing could be sent by the deadline.
    pub(crate) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        head: &[u8],
        body: Span<'_>,
        deadline: Deadline,
    ) -> io::Result<io::Result<usize>> {
        self.take_answers();
        if self.waiting >= MOST {
            return Ok(Err(Errno::ENOBUFS.into()));
        }
        let mut parts = [
            libc::iovec {
                iov_base: head.as_ptr().cast_mut().cast(),
                iov_len: head.len(),
            },
            libc::iovec {
                iov_base: body.as_ptr().cast(),
                iov_len: body.len(),
            },
        ];
        // SAFETY: msghdr is plain data for which all zeros (no name, no control message, no parts) is a valid value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len();
        let send = opcode::SendMsgZc::new(types::Fd(socket.as_raw_fd()), &message)
            .ioprio(REPORT_USAGE)
            // The kernel goes on by itself when the connection has room again.
            .flags((libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32)
            .build()
            .user_data(SEND);
        // SAFETY: what it points at (`message`, `parts`, the bytes of `head` and `body`) outlives the operation: from here
        // on this function returns only when the kernel has said what came of it, or has refused to take it, after which
        // the ring is dropped without being entered again. Nothing on the way panics. The kernel reads the bytes at most,
        // and pages that it refers to afterwards it holds itself, whatever becomes of the mapping.
        unsafe { self.push(&send)? };
        let mut is_cancelled = false;
        loop {
            let entered = self.enter(if is_cancelled { None } else { Some(deadline) });
            self.take_answers();
            if let Some(result) = self.result.take() {
                return Ok(match result {
                    _ if is_cancelled && matches!(-result, libc::ECANCELED | libc::EINTR) => {
                        Err(io::ErrorKind::TimedOut.into())
                    }
                    // What a kernel says that knows the operation and not all of its flags.
                    _ if matches!(-result, libc::EINVAL | libc::EOPNOTSUPP) => {
                        return Err(io::Error::from_raw_os_error(-result))
                    }
                    0.. => Ok(result as usize),
                    _ => Err(io::Error::from_raw_os_error(-result)),
                });
            }
            let is_taken = self.ring.submission().is_empty();
            match entered {
                Err(error) if !is_taken && !is_cancelled => return Err(error),
                // The send cannot be called back. Without a connection it ends as well.
                Err(_) if !is_taken => reset(socket),
                _ if deadline.has_passed() && !is_cancelled => {
                    is_cancelled = true;
                    let cancel = opcode::AsyncCancel::new(SEND).build().user_data(CANCEL);
                    // SAFETY: it points at nothing.
                    if unsafe { self.push(&cancel) }.is_err() {
                        reset(socket);
                    }
                }
                // An error while nothing has to be handed over is that of a wait: it is tried again. The send ends all the
                // same, by the deadline or by the peer.
                _ => {}
            }
        }
    }

    /// Waits for an answer about pages, until the deadline.
    pub(crate) fn wait(&self, deadline: Deadline) {
        // A system that cannot wait now says nothing of the pages: whoever needs the answer looks again.
        let _ = self.enter(Some(deadline));
    }

    /// How many sends there are of which the kernel has not said, as far as has been looked at, that it refers to their
    /// pages no longer.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Whether pages were copied since this was asked last.
    pub(crate) fn has_copied(&mut self) -> bool {
        std::mem::take(&mut self.is_copied)
    }

    /// # Safety
    /// What `entry` points at outlives the operation.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: by the contract of this function.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| Errno::EBUSY.into())
    }

    /// Hands over what has been pushed and waits for one answer, until the deadline if there is one.
    fn enter(&self, until: Option<Deadline>) -> io::Result<()> {
        let submitter = self.ring.submitter();
        let entered = match until {
            None => submitter.submit_and_wait(1),
            Some(deadline) => {
                let left = types::Timespec::from(deadline.remaining().unwrap_or_default());
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&left))
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes what the kernel has said, and says about how many sends' pages.
    pub(crate) fn take_answers(&mut self) -> u32 {
        let mut answered = 0;
        for answer in self.ring.completion() {
            let flags = answer.flags();
            if answer.user_data() != SEND {
                continue;
            }
            if cqueue::notif(flags) {
                self.waiting = self.waiting.saturating_sub(1);
                answered += 1;
                self.is_copied |= answer.result() as u32 & COPIED != 0;
            } else {
                self.result = Some(answer.result());
                self.waiting += u32::from(cqueue::more(flags));
            }
        }
        answered
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roadrunner_core::testing::{skipped, soon};
    use roadrunner_faults::{Call, Fault, Plan};
    use roadrunner_mem::PageBuffer;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    /// Much more than a connection holds that nobody reads from.
    const MUCH: usize = 32 << 20;

    /// A ring, or says why there is none.
    fn ring(test: &str) -> Option<Ring> {
        Ring::new()
            .map_err(|why| skipped(test, &why.to_string()))
            .ok()
    }

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (far, _) = listener.accept().expect("somebody called");
        (near, far)
    }

    fn send(
        ring: &mut Ring,
        socket: &impl AsFd,
        len: usize,
        deadline: Deadline,
    ) -> io::Result<io::Result<usize>> {
        let mut payload = PageBuffer::new(len).expect("memory");
        ring.send(
            socket.as_fd(),
            &[],
            payload.span().split_at(len).0,
            deadline,
        )
    }

    #[test]
    fn what_the_connection_has_no_room_for_goes_out_when_there_is_some() {
        let test = "what_the_connection_has_no_room_for_goes_out_when_there_is_some";
        let Some(mut ring) = ring(test) else { return };
        let (near, mut far) = connection();
        thread::scope(|scope| {
            let reader =
                scope.spawn(|| io::copy(&mut (&mut far).take(MUCH as u64), &mut io::sink()));
            let sent = send(&mut ring, &near, MUCH, soon());
            assert_eq!(sent.expect("a ring").expect("a reader"), MUCH);
            assert_eq!(reader.join().expect("no panic").expect("read"), MUCH as u64);
        });
    }

    #[test]
    fn pages_are_let_go_once_and_whether_they_were_copied_is_said_once() {
        let test = "pages_are_let_go_once_and_whether_they_were_copied_is_said_once";
        let Some(mut ring) = ring(test) else { return };
        let (near, mut far) = connection();
        let sent = send(
            &mut ring,
            &near,
            MUCH,
            Deadline::after(Duration::from_millis(20)),
        );
        let sent = sent.expect("a ring").expect("some of it") as u64;
        assert!(sent < MUCH as u64, "there is no such room");
        assert_eq!(ring.waiting(), 1, "nobody has read");
        thread::scope(|scope| {
            let reader = scope.spawn(|| io::copy(&mut (&mut far).take(sent), &mut io::sink()));
            let mut answers = 0;
            while ring.waiting() > 0 {
                ring.wait(soon());
                answers += ring.take_answers();
            }
            assert_eq!(answers, 1);
            assert_eq!(reader.join().expect("no panic").expect("read"), sent);
        });
        // Over loopback they always are.
        assert!(ring.has_copied());
        assert!(!ring.has_copied(), "asked a moment ago");
        let deadline = Deadline::after(Duration::from_millis(20));
        ring.wait(deadline);
        assert!(deadline.has_passed(), "nothing is to come");
    }

    #[test]
    fn a_signal_is_no_failure_of_the_ring() {
        let Some(mut ring) = ring("a_signal_is_no_failure_of_the_ring") else {
            return;
        };
        let (near, _far) = connection();
        let comes = Plan::new().nth(Call::RingEnter, 0, Fault::Errno(Errno::EINTR));
        let sent = comes.during(|| send(&mut ring, &near, 100, soon()));
        assert_eq!(sent.expect("a ring").expect("room"), 100);
        assert_eq!(comes.injected().len(), 1);
    }

    #[test]
    fn a_ring_that_takes_nothing_does_no_harm_to_the_connection() {
        let test = "a_ring_that_takes_nothing_does_no_harm_to_the_connection";
        let Some(mut ring) = ring(test) else { return };
        let (mut near, mut far) = connection();
        let fails = Plan::new().nth(Call::RingEnter, 0, Fault::Errno(Errno::EBUSY));
        let error = fails.during(|| send(&mut ring, &near, 100, soon()));
        let error = error.expect_err("as planned");
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        near.write_all(&[7]).expect("no reset");
        let mut byte = [0];
        far.read_exact(&mut byte).expect("no reset");
        assert_eq!(byte, [7]);
    }

    /// It is the connection that cannot send this way, and the caller has another one.
    #[test]
    fn a_socket_that_sends_nothing_without_a_copy_is_told_from_one_that_is_closed() {
        let test = "a_socket_that_sends_nothing_without_a_copy_is_told_from_one_that_is_closed";
        let Some(mut ring) = ring(test) else { return };
        let (near, _far) = UnixStream::pair().expect("sockets");
        let error = send(&mut ring, &near, 1, soon()).expect_err("not for such sockets");
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));

        let (near, far) = connection();
        drop(far);
        let error = (0..1000)
            .find_map(|_| {
                send(&mut ring, &near, 1 << 20, soon())
                    .expect("a ring")
                    .err()
            })
            .expect("nobody is there");
        assert!(
            matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)),
            "{error}"
        );
    }

    /// The first payload is let go while the second one waits for room, so that the wait ends before the second one does.
    #[test]
    fn a_wait_that_fails_is_no_end_of_the_send() {
        const FIRST: usize = 64 << 10;
        let Some(mut ring) = ring("a_wait_that_fails_is_no_end_of_the_send") else {
            return;
        };
        let (near, mut far) = connection();
        // The first send, the second, and then a wait.
        let fails = Plan::new().nth(Call::RingEnter, 2, Fault::Errno(Errno::EBUSY));
        let whole = (FIRST + MUCH) as u64;
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                fails.during(|| {
                    let first = send(&mut ring, &near, FIRST, soon()).expect("a ring");
                    assert_eq!(first.expect("room"), FIRST);
                    let second = send(&mut ring, &near, MUCH, soon()).expect("a ring");
                    assert_eq!(second.expect("a reader"), MUCH);
                });
            });
            let read = io::copy(&mut (&mut far).take(whole), &mut io::sink());
            assert_eq!(read.expect("no reset"), whole);
            sender.join().expect("no panic");
        });
        if fails.injected().is_empty() {
            skipped(
                "a_wait_that_fails_is_no_end_of_the_send",
                "nothing was waited for",
            );
        }
    }

    /// Memory is not given back while the kernel may read from it, whatever that costs the connection.
    #[test]
    fn a_send_that_cannot_be_called_back_ends_with_its_connection() {
        let test = "a_send_that_cannot_be_called_back_ends_with_its_connection";
        let Some(mut ring) = ring(test) else { return };
        let (near, mut far) = connection();
        let fails = Plan::new().nth(Call::RingEnter, 1, Fault::Errno(Errno::EBUSY));
        let deadline = Deadline::after(Duration::from_millis(20));
        let sent = fails.during(|| send(&mut ring, &near, MUCH, deadline));
        assert_eq!(fails.injected().len(), 1);
        // Some of it went out, which is not taken back.
        let _ = sent.expect("a ring");
        let error = io::copy(&mut far, &mut io::sink()).expect_err("no end of file");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
