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
