//! Payloads carried by reference: pages taken from the guest, and spliced through a pipe into the socket.
//!
//! `splice(2)` returns as soon as the socket refers to the pages, long before the receiver has read them; on one host
//! the receiver reads the very pages. So the guest must not have them any more: they change places with those of a buffer
//! of the host first, stay there until the receiver acknowledges the payload, and go back in exchange for the next ones.
//! After an error they are unmapped, never written: what the kernel still refers to stays as it was.
//!
//! Where the pages cannot change places (`Exchanged::Copied`) the bytes are in the host's buffer all the same, so they are
//! spliced from there, and the receipt counts that copy: to write them from the guest's memory they would have to be
//! copied back there and then into the socket.

use crate::options::{Options, Preference};
use crate::sys::{vmsplice, SigpipeBlocked};
use crate::wire::TcpWire;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::unistd::pipe2;
use roadrunner_core::stream::{write_all, write_frame, Carried, Start};
use roadrunner_core::{
    Backing, Deadline, LinearMemory, Method, Payload, Region, Span, TransferError,
};
use roadrunner_mem::{exchange, Exchanged, PageBuffer, PAGE_SIZE};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// What a wire keeps from one spliced payload to the next.
#[derive(Debug)]
pub(crate) struct Splicer {
    from: Option<u64>,
    chunk: usize,
    pipe: Option<Pipe>,
    /// The pages of a payload that has not been acknowledged yet.
    in_flight: Option<(u64, Taken)>,
    /// The pages of one that has.
    acknowledged: Option<Taken>,
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

impl Splicer {
    pub(crate) fn new(options: &Options, loopback: bool) -> Self {
        let splices = match options.preference {
            Preference::Auto => !loopback,
            Preference::Write => false,
            Preference::Splice => true,
        };
        Self {
            from: splices.then_some(options.splice_from),
            chunk: options.chunk,
            pipe: None,
            in_flight: None,
            acknowledged: None,
        }
    }

    pub(crate) fn acknowledge(&mut self, sequence: u64) {
        if let Some((_, taken)) = self.in_flight.take_if(|(sent, _)| *sent == sequence) {
            self.acknowledged = Some(taken);
        }
    }

    /// The whole pages of a payload that can be spliced and is worth it.
    fn whole_pages(&self, payload: &mut Payload<'_>) -> Option<Region> {
        let from = self.from?;
        if self.in_flight.is_some()
            || !payload.is_given()
            || payload.len() < from
            || payload.memory().backing() != Backing::PrivateAnonymous
        {
            return None;
        }
        // The base is page-aligned, by the contract of that backing.
        let page = PAGE_SIZE as u64;
        let start = payload.region().offset().checked_next_multiple_of(page)?;
        let end = payload.region().end()? / page * page;
        let len = end.checked_sub(start).filter(|len| *len > 0)?;
        Some(Region::new(start, len))
    }

    fn ready_pipe(&mut self) -> io::Result<Pipe> {
        match self.pipe.take() {
            Some(pipe) => Ok(pipe),
            None => Pipe::new(self.chunk),
        }
    }
}

/// Carries a frame, spliced if the payload allows it and written if not.
pub(crate) fn carry(
    wire: &mut TcpWire,
    start: Start,
    payload: &mut Payload<'_>,
    sent: &mut u64,
    deadline: Deadline,
) -> Result<Carried, TransferError> {
    if let Some(region) = wire.splicer.whole_pages(payload) {
        if let Some(ready) = prepare(&mut wire.splicer, payload, region) {
            return carry_spliced(wire, start, payload, ready, sent, deadline);
        }
    }
    write_frame(wire, start, payload.span()?, sent, deadline)
}

/// Pages taken, and a pipe that already refers to the first of them.
struct Ready {
    taken: Taken,
    pipe: Pipe,
    in_pipe: usize,
}

/// Does all that the system may refuse before a byte of the frame is out; `None` if it refused, with the payload where
/// it was.
fn prepare(splicer: &mut Splicer, payload: &mut Payload<'_>, region: Region) -> Option<Ready> {
    let pipe = splicer.ready_pipe().ok()?;
    let used = splicer.acknowledged.take();
    let mut taken = Taken::take(payload.memory(), region, used).ok()?;
    match pipe.fill(taken.span()) {
        Ok(in_pipe) => Some(Ready {
            taken,
            pipe,
            in_pipe,
        }),
        Err(_) => {
            // It was whole pages of this memory a moment ago.
            let _ = taken.put_back(payload.memory());
            None
        }
    }
}

fn carry_spliced(
    wire: &mut TcpWire,
    start: Start,
    payload: &mut Payload<'_>,
    mut ready: Ready,
    sent: &mut u64,
    deadline: Deadline,
) -> Result<Carried, TransferError> {
    let (region, carried) = (ready.taken.region, ready.taken.carried());
    // Both less than a page, except when the payload is.
    let before = (region.offset() - payload.region().offset()) as usize;
    let (head, rest) = payload.span()?.split_at(before);
    let tail = rest.split_at(region.len() as usize).1;
    match send_parts(
        wire,
        &start.header(carried),
        head,
        &mut ready,
        tail,
        sent,
        deadline,
    ) {
        Ok(()) => {
            wire.splicer.pipe = Some(ready.pipe);
            wire.splicer.in_flight = Some((start.sequence(), ready.taken));
            Ok(carried)
        }
        Err(error) => {
            // The pipe may still refer to pages: it is closed here, not kept.
            drop(ready.pipe);
            if *sent == 0 {
                ready.taken.put_back(payload.memory())?;
            }
            Err(error)
        }
    }
}

fn send_parts(
    wire: &mut TcpWire,
    header: &[u8],
    head: Span<'_>,
    ready: &mut Ready,
    tail: Span<'_>,
    sent: &mut u64,
    deadline: Deadline,
) -> Result<(), TransferError> {
    write_all(wire, header, head, sent, deadline)?;
    send_pages(wire, ready, sent, deadline)
        .map_err(|error| TransferError::from_io("splice to the link", error))?;
    write_all(wire, &[], tail, sent, deadline)
}

fn send_pages(
    wire: &TcpWire,
    ready: &mut Ready,
    sent: &mut u64,
    deadline: Deadline,
) -> io::Result<()> {
    let blocked = SigpipeBlocked::new()?;
    let mut in_pipe = ready.in_pipe;
    let mut rest = ready.taken.span().split_at(in_pipe).1;
    loop {
        while in_pipe > 0 {
            // On the last chunk MORE would hold the end of the payload back for up to 200 ms.
            let more = !rest.is_empty();
            let moved = wire.splice_from(&ready.pipe.reading, in_pipe, more, deadline);
            if matches!(&moved, Err(error) if error.kind() == io::ErrorKind::BrokenPipe) {
                blocked.take_back();
            }
            let moved = moved?;
            in_pipe -= moved;
            *sent += moved as u64;
        }
        if rest.is_empty() {
            return Ok(());
        }
        in_pipe = ready.pipe.fill(rest)?;
        rest = rest.split_at(in_pipe).1;
    }
}

/// A pipe with nothing in it, while it is kept.
#[derive(Debug)]
struct Pipe {
    reading: OwnedFd,
    writing: OwnedFd,
    capacity: usize,
}

impl Pipe {
    fn new(size: usize) -> io::Result<Self> {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Refused when this user has many large pipes; the default works as well, in smaller steps.
        let wished = i32::try_from(size).unwrap_or(i32::MAX);
        let _ = fcntl(&writing, FcntlArg::F_SETPIPE_SZ(wished));
        let capacity = fcntl(&writing, FcntlArg::F_GETPIPE_SZ)?;
        Ok(Self {
            reading,
            writing,
            capacity: usize::try_from(capacity).unwrap_or(PAGE_SIZE),
        })
    }

    /// Makes the empty pipe refer to the first of `pages`, and says to how many bytes of them.
    fn fill(&self, pages: Span<'_>) -> io::Result<usize> {
        let chunk = pages.split_at(self.capacity).0;
        loop {
            match vmsplice(self.writing.as_fd(), chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                done => return done,
            }
        }
    }
}
