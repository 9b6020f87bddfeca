//! Payloads carried by reference: pages taken from the guest, and spliced through a pipe into a socket.
//!
//! `splice(2)` returns as soon as the socket refers to the pages, long before the receiver has read them; on one host
//! the receiver reads the very pages. So the guest must not have them any more: they change places with those of a buffer
//! of the host first, and stay there until the receiver acknowledges the payload. Then they go back in exchange for the next
//! ones, if it is known that nothing refers to them: a receiver that acknowledged what it has not read would see whatever
//! the function writes to them. Otherwise, and after an error, they are unmapped, never written: what the kernel still
//! refers to stays as it was.
//!
//! Where the pages cannot change places (`Exchanged::Copied`) the bytes are in the host's buffer all the same, so they are
//! spliced from there, and the receipt counts that copy: to write them from the guest's memory they would have to be
//! copied back there and then into the socket.

mod pipe;

pub use pipe::Pipes;

use crate::pages::exchange;
use crate::sys::{Exchanged, PageBuffer, SigpipeBlocked, PAGE};
use nix::fcntl::{splice, SpliceFFlags};
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::time::TimeSpec;
use pipe::Pipe;
use roadrunner_core::frame::CHECKSUM_LEN;
use roadrunner_core::stream::{write_all, Carried, Start, Wire};
use roadrunner_core::{
    Backing, Deadline, LinearMemory, Method, Payload, Region, Span, TransferError,
};
use std::io;
use std::os::fd::AsFd;

/// A checksum that is computed of a payload while it is sent, and sent behind it.
pub trait Checksum {
    /// A payload begins.
    fn restart(&mut self);

    /// These bytes of it come next. They are about to be sent, so that this is the first time that they are read.
    fn add(&mut self, bytes: Span<'_>);

    /// The checksum of what was added, as it crosses the stream.
    fn bytes(&self) -> [u8; CHECKSUM_LEN];
}

/// Splices payloads of one function into a socket, and keeps what that takes from one payload to the next. For
/// implementers of [`Wire`].
///
/// Pages of a payload may come back, with what was in them, in exchange for those of a later payload from the same memory.
#[derive(Debug)]
pub struct Pump {
    from: u64,
    pipes: Pipes,
    /// The pages of a payload that has not been acknowledged yet.
    in_flight: Option<(u64, Taken)>,
    /// The pages of one that has.
    acknowledged: Option<Taken>,
    /// A payload that is partly sent.
    partly: Option<Ready>,
}

/// Between ranges at the same distance from this boundary, whole page tables move.
const PAGE_TABLE: usize = 2 << 20;

/// The whole pages of a payload, in a buffer of the host.
#[derive(Debug)]
struct Taken {
    buffer: PageBuffer,
    /// Where in the buffer they start.
    offset: usize,
    /// Where in the memory they came from.
    region: Region,
    /// The base of that memory: the only one that sees any of the buffer again, which may hold earlier bytes of it.
    base: usize,
    exchanged: Exchanged,
}

impl Taken {
    /// Exchanges a region of whole pages for as many of a buffer: of `used` if it fits, or else of a new one, whose are
    /// cleared. On an error the memory is as it was.
    fn take(
        memory: &mut dyn LinearMemory,
        region: Region,
        used: Option<Self>,
    ) -> Result<Self, TransferError> {
        let pages = region.span(memory)?;
        let (start, len) = (pages.as_ptr() as usize, pages.len());
        let base = memory.base().as_ptr() as usize;
        let offset = start % PAGE_TABLE;
        let room = offset + len;
        let used = used
            .filter(|used| used.base == base)
            .map(|used| used.buffer)
            // A much larger one would keep pages from the system that nobody uses.
            .filter(|buffer| (room..=room.saturating_mul(2)).contains(&buffer.len()));
        let mut buffer = match used {
            Some(buffer) => buffer,
            None => PageBuffer::new(room).map_err(|source| TransferError::Io {
                doing: "map pages to take the payload's place",
                source,
            })?,
        };
        let exchanged = exchange(memory, region, &mut buffer, offset as u64)?;
        Ok(Self {
            buffer,
            offset,
            region,
            base,
            exchanged,
        })
    }

    /// Puts the payload back where it came from. Nothing may refer to the pages any more, except what nobody will read.
    fn put_back(mut self, memory: &mut dyn LinearMemory) -> Result<(), TransferError> {
        exchange(memory, self.region, &mut self.buffer, self.offset as u64).map(drop)
    }

    fn span(&mut self) -> Span<'_> {
        let (_, rest) = self.buffer.span().split_at(self.offset);
        // Its length is that of a span.
        rest.split_at(self.region.len() as usize).0
    }

    fn carried(&self) -> Carried {
        Carried {
            method: Method::Splice,
            copies: u8::from(self.exchanged == Exchanged::Copied),
            acknowledge: true,
        }
    }
}

impl Pump {
    /// Splices payloads of at least `from` bytes, through pipes of `pipes`.
    #[must_use]
    pub fn new(from: u64, pipes: Pipes) -> Self {
        Self {
            from,
            pipes,
            in_flight: None,
            acknowledged: None,
            partly: None,
        }
    }

    /// The peer says that it has received the payload of this number, whole: for [`Wire::acknowledged`]. Its pages go back
    /// if they are `gone` from the socket, and to the system if not.
    ///
    /// They are if the peer is trusted; or if it is on another host whose kernel has acknowledged them. On this host a
    /// peer may hold them by reference, in its socket or in a pipe of its own, whatever it says.
    pub fn acknowledge(&mut self, sequence: u64, gone: bool) {
        if let Some((_, taken)) = self.in_flight.take_if(|(sent, _)| *sent == sequence) {
            self.acknowledged = gone.then_some(taken);
        }
    }

    /// Carries a frame by splicing, if its payload allows that: it has been given away, is long enough, has a whole page,
    /// and lies in memory that lets its pages go ([`Backing::PrivateAnonymous`]); and the one before has been
    /// acknowledged. `None`, with the payload where it was, if it does not, or if the system refuses before a byte has
    /// been sent: write it instead. For [`Wire::carry`], with a `socket` that is what `wire` writes to.
    ///
    /// The frame asks for an acknowledgement. With a `checksum`, that of the payload follows it.
    ///
    /// # Errors
    /// As [`Wire::carry`].
    pub fn carry<W: Wire + AsFd>(
        &mut self,
        wire: &mut W,
        start: Start,
        payload: &mut Payload<'_>,
        mut checksum: Option<&mut dyn Checksum>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Option<Carried>, TransferError> {
        // What is partly written goes on being written.
        let ready = match self.partly.take() {
            None if *sent == 0 => self.prepare(payload, &mut checksum),
            partly => partly,
        };
        let Some(mut ready) = ready else {
            return Ok(None);
        };
        let carried = ready.taken.carried();
        let header = start.header(carried);
        match ready.send_frame(wire, &header, payload, checksum, sent, deadline) {
            Ok(()) => {
                self.pipes.keep(ready.pipe);
                self.in_flight = Some((start.sequence(), ready.taken));
                Ok(Some(carried))
            }
            Err(error) if *sent == 0 => {
                // The pipe still refers to pages: it is closed here, not kept.
                drop(ready.pipe);
                ready.taken.put_back(payload.memory())?;
                Err(error)
            }
            Err(error) => {
                if matches!(error, TransferError::Timeout) {
                    self.partly = Some(ready);
                }
                Err(error)
            }
        }
    }

    /// The whole pages of a payload that can be spliced and is worth it.
    fn whole_pages(&self, payload: &mut Payload<'_>) -> Option<Region> {
        let whole = payload.region();
        if self.in_flight.is_some()
            || !payload.is_given()
            || payload.len() < self.from
            || payload.memory().backing_of(whole) != Backing::PrivateAnonymous
        {
            return None;
        }
        // The base is page-aligned, by the contract of that backing.
        let page = PAGE as u64;
        let start = whole.offset().checked_next_multiple_of(page)?;
        let end = whole.end()? / page * page;
        let len = end.checked_sub(start).filter(|len| *len > 0)?;
        Some(Region::new(start, len))
    }

    /// Does all that the system may refuse before a byte of the frame is out; `None` if it refused or the payload is none
    /// to splice, with the payload where it was.
    fn prepare(
        &mut self,
        payload: &mut Payload<'_>,
        checksum: &mut Option<&mut dyn Checksum>,
    ) -> Option<Ready> {
        let region = self.whole_pages(payload)?;
        if let Some(checksum) = checksum {
            let before = (region.offset() - payload.region().offset()) as usize;
            checksum.restart();
            checksum.add(payload.span().ok()?.split_at(before).0);
        }
        let pipe = self.pipes.take().ok()?;
        let used = self.acknowledged.take();
        let mut taken = Taken::take(payload.memory(), region, used).ok()?;
        match pipe.fill(taken.span()) {
            Ok(in_pipe) => {
                if let Some(checksum) = checksum {
                    checksum.add(taken.span().split_at(in_pipe).0);
                }
                Some(Ready {
                    taken,
                    pipe,
                    spliced: 0,
                    in_pipe,
                    behind: None,
                })
            }
            Err(_) => {
                // It was whole pages of this memory a moment ago.
                let _ = taken.put_back(payload.memory());
                None
            }
        }
    }
}

/// Pages taken, and how far they are sent.
#[derive(Debug)]
struct Ready {
    taken: Taken,
    pipe: Pipe,
    /// Bytes that have gone through the pipe.
    spliced: usize,
    /// Bytes that are in it.
    in_pipe: usize,
    /// With a checksum: what follows the pages, once they are sent.
    behind: Option<Vec<u8>>,
}

impl Ready {
    /// Goes on with a frame of which `sent` bytes are out: the header and what lies before the pages, the pages, and what
    /// lies behind them.
    fn send_frame<W: Wire + AsFd>(
        &mut self,
        wire: &mut W,
        header: &[u8],
        payload: &mut Payload<'_>,
        mut checksum: Option<&mut dyn Checksum>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        let pages = self.taken.region;
        // Both less than a page, except when the payload is.
        let before = (pages.offset() - payload.region().offset()) as usize;
        let (head, rest) = payload.span()?.split_at(before);
        let tail = rest.split_at(pages.len() as usize).1;
        if self.spliced == 0 {
            write_all(wire, header, head, sent, deadline)?;
        }
        let (in_front, spliced) = ((header.len() + head.len()) as u64, self.spliced);
        let through = self.send_pages(wire, &mut checksum, deadline);
        *sent += (self.spliced - spliced) as u64;
        through.map_err(|error| TransferError::from_io("splice to the link", error))?;
        if let Some(checksum) = checksum {
            self.behind.get_or_insert_with(|| {
                checksum.add(tail);
                let mut behind = vec![0; tail.len()];
                tail.copy_to_slice(&mut behind);
                behind.extend(checksum.bytes());
                behind
            });
        }
        let (copied, tail) = match &self.behind {
            Some(behind) => (&behind[..], Span::empty()),
            None => (&[][..], tail),
        };
        let mut of_tail = *sent - in_front - pages.len();
        let written = write_all(wire, copied, tail, &mut of_tail, deadline);
        *sent = in_front + pages.len() + of_tail;
        written
    }

    fn send_pages(
        &mut self,
        socket: &impl AsFd,
        checksum: &mut Option<&mut dyn Checksum>,
        deadline: Deadline,
    ) -> io::Result<()> {
        let blocked = SigpipeBlocked::new()?;
        loop {
            let (_, rest) = self.taken.span().split_at(self.spliced + self.in_pipe);
            // On the last chunk MORE would hold the end of the payload back for up to 200 ms.
            let more = !rest.is_empty();
            if self.in_pipe == 0 {
                if rest.is_empty() {
                    return Ok(());
                }
                let in_pipe = self.pipe.fill(rest)?;
                if let Some(checksum) = checksum {
                    checksum.add(rest.split_at(in_pipe).0);
                }
                self.in_pipe = in_pipe;
                continue;
            }
            let moved = splice_from(&self.pipe, socket, self.in_pipe, more, deadline);
            if matches!(&moved, Err(error) if error.kind() == io::ErrorKind::BrokenPipe) {
                blocked.take_back();
            }
            let moved = moved?;
            self.in_pipe -= moved;
            self.spliced += moved;
            let is_out = self.spliced == self.taken.span().len();
            if !is_out && deadline.is_over() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// Moves up to `len` bytes out of a pipe that has as many into a socket that does not wait; `more` follow at once.
fn splice_from(
    pipe: &Pipe,
    socket: &impl AsFd,
    len: usize,
    more: bool,
    deadline: Deadline,
) -> io::Result<usize> {
    let mut flags = SpliceFFlags::SPLICE_F_NONBLOCK;
    flags.set(SpliceFFlags::SPLICE_F_MORE, more);
    loop {
        let error = match splice(&pipe.reading, None, socket, None, len, flags) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(moved) => return Ok(moved),
            Err(errno) => io::Error::from(errno),
        };
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => {
                let Some(left) = deadline.remaining() else {
                    return Err(io::ErrorKind::TimedOut.into());
                };
                let mut events = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                match ppoll(&mut events, Some(TimeSpec::from_duration(left)), None) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            // Not our deadline: the system has given the peer up (tcp(7)).
            io::ErrorKind::TimedOut => return Err(io::ErrorKind::ConnectionAborted.into()),
            _ => return Err(error),
        }
    }
}
