//! Two ends of a link, one payload between them, and what either must be able to say afterwards.

use crate::plan::Plan;
use roadrunner_core::testing::{fill, pattern, NewMemory};
use roadrunner_core::{
    Deadline, LinearMemory, Method, Payload, Receipt, Region, Sink, Transfer, TransferError,
};
use std::thread;
use std::time::Duration;

/// A byte that no pattern has in it.
const SECRET: u8 = 0x5E;
/// Bytes on either side of a region that must not change.
const MARGIN: u64 = 4096;
/// Longer than any operation takes here. Nothing may need it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

/// What a payload is, and where it lies.
#[derive(Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) len: u64,
    pub(crate) offset: u64,
    pub(crate) given: bool,
    pub(crate) memory: NewMemory<'a>,
}

/// What is wrong, in a sentence.
pub(crate) type Wrong = String;

macro_rules! hold {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}
pub(crate) use hold;

/// What one end saw.
#[derive(Debug)]
pub(crate) struct Saw {
    /// What came of the first operation, the one under the plan.
    pub(crate) first: Result<Receipt, TransferError>,
    /// Whether the link said that it can go on, then.
    pub(crate) open: bool,
    /// How all that followed ended: with the end of the link, in order, or with the first error.
    pub(crate) end: Result<(), TransferError>,
}

impl Saw {
    /// Every error that it saw.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &TransferError> {
        self.first
            .as_ref()
            .err()
            .into_iter()
            .chain(self.end.as_ref().err())
    }
}

/// Bytes of a payload after one that was not sent: if the receiver's first operation fails, it may take this along.
const FILLER: u64 = 50;
/// Bytes of a payload that has to arrive if both ends go on, and of the answer to it.
const SECOND: u64 = 51;
const ANSWER: u64 = 52;

/// What a payload of so many bytes has to be.
fn expected(len: u64) -> Vec<u8> {
    pattern(len, len % 7)
}

/// A second one of the same length, from the same place: what was kept of the first is used again.
fn again(load: Load<'_>) -> Vec<u8> {
    pattern(load.len, 7)
}

/// Sends one that the sender keeps.
fn send_small<L: Transfer>(link: &mut L, load: Load<'_>, len: u64) -> Result<(), TransferError> {
    let mut memory = (load.memory)(len);
    fill(&mut *memory, 0, &expected(len));
    let payload = Payload::kept(&mut *memory, Region::new(0, len))?;
    link.send(payload, soon()).map(drop)
}

/// Sends the payload from where it lies.
fn send_load<L: Transfer>(
    link: &mut L,
    load: Load<'_>,
    memory: &mut dyn LinearMemory,
) -> Result<Receipt, TransferError> {
    let region = Region::new(load.offset, load.len);
    let payload = if load.given {
        Payload::given(memory, region)?
    } else {
        Payload::kept(memory, region)?
    };
    link.send(payload, soon())
}

/// Which operation of an end is under its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The payload.
    Payload,
    /// The end that follows it.
    End,
}

/// Sends the payload under the plan, and if the link goes on a second one; takes the answer, closes, and takes the other
/// side's end.
pub(crate) fn send_one<L: Transfer>(
    mut link: L,
    load: Load<'_>,
    plan: &Plan,
    stage: Stage,
) -> Result<Saw, Wrong> {
    let content = expected(load.len);
    let size = load.offset + load.len + MARGIN;
    let mut memory = (load.memory)(size);
    fill_all(&mut *memory, SECRET);
    fill(&mut *memory, load.offset, &content);
    let sent = match stage {
        Stage::Payload => plan.during(|| send_load(&mut link, load, &mut *memory)),
        Stage::End => send_load(&mut link, load, &mut *memory),
    };
    let open = link.is_open();
    let now = bytes_of(&mut *memory);
    let (before, rest) = now.split_at(load.offset as usize);
    let (there, behind) = rest.split_at(load.len as usize);
    hold!(
        is_secret(before) && is_secret(behind),
        "the sender's memory around the payload has changed"
    );
    let is_kept = !load.given || (sent.is_err() && open);
    hold!(
        !is_kept || there == content,
        "the payload, which is the sender's to keep, has changed (sent: {sent:?})"
    );
    // All of it is mapped, readable and writable; and what was sent is safe from what is written now.
    fill_all(&mut *memory, 0xEE);
    let end = go_on(&mut link, open, |link| {
        if sent.is_err() {
            send_small(link, load, FILLER)?;
        }
        send_small(link, load, SECOND)?;
        let mut shelf = Shelf::new(load, ANSWER);
        let receipt = shelf.take(link)?;
        if receipt.bytes() != ANSWER || shelf.check_holds(&expected(ANSWER)).is_err() {
            return Ok(false);
        }
        fill(&mut *memory, load.offset, &again(load));
        send_load(link, load, &mut *memory)?;
        Ok(true)
    });
    let end = match end? {
        Ok(()) => close(&mut link, plan, stage, true),
        error => error,
    };
    Ok(Saw {
        first: sent,
        open: word(&link, open, stage),
        end,
    })
}

/// Receives the payload under the plan, and if the link goes on the next one; answers, takes the other side's end and
/// closes.
pub(crate) fn receive_one<L: Transfer>(
    mut link: L,
    load: Load<'_>,
    plan: &Plan,
    stage: Stage,
) -> Result<Saw, Wrong> {
    let mut shelf = Shelf::new(load, load.len);
    let first = match stage {
        Stage::Payload => plan.during(|| shelf.take(&mut link)),
        Stage::End => shelf.take(&mut link),
    };
    let open = link.is_open();
    match &first {
        Ok(receipt) => shelf.check_holds(&expected(receipt.bytes()))?,
        Err(_) => shelf.check_empty()?,
    }
    let end = go_on(&mut link, open, |link| {
        let mut last = first.as_ref().map_or(0, |receipt| receipt.bytes());
        while last != SECOND {
            let mut shelf = Shelf::new(load, load.len);
            let next = shelf.take(link)?.bytes();
            let in_order = matches!((last, next), (0, _) | (_, FILLER | SECOND));
            if !in_order || shelf.check_holds(&expected(next)).is_err() {
                return Ok(false);
            }
            last = next;
        }
        send_small(link, load, ANSWER)?;
        let mut shelf = Shelf::new(load, load.len);
        shelf.take(link)?;
        Ok(shelf.check_holds(&again(load)).is_ok())
    });
    let end = match end? {
        Ok(()) => close(&mut link, plan, stage, false),
        error => error,
    };
    Ok(Saw {
        first,
        open: word(&link, open, stage),
        end,
    })
}

/// What a link said about itself after the operation that was under the plan.
fn word<L: Transfer>(link: &L, after_payload: bool, stage: Stage) -> bool {
    match stage {
        Stage::Payload => after_payload,
        Stage::End => link.is_open(),
    }
}

/// Goes on with a link that says it can, and holds one that says it cannot to that. `more` says whether what arrived is
/// what was sent.
fn go_on<L: Transfer>(
    link: &mut L,
    open: bool,
    more: impl FnOnce(&mut L) -> Result<bool, TransferError>,
) -> Result<Result<(), TransferError>, Wrong> {
    if !open {
        stands_still(link)?;
        return Ok(Err(TransferError::Broken));
    }
    match more(link) {
        Ok(true) => Ok(Ok(())),
        Ok(false) => Err("what arrived is not what was sent".to_owned()),
        Err(error) => {
            if !link.is_open() {
                stands_still(link)?;
            }
            Ok(Err(error))
        }
    }
}

/// Closes this end and takes the other's; whoever sent the payload first.
fn close<L: Transfer>(
    link: &mut L,
    plan: &Plan,
    stage: Stage,
    first: bool,
) -> Result<(), TransferError> {
    let planned = |link: &mut L| match stage {
        Stage::Payload => close_and_take_end(link, first),
        Stage::End => plan.during(|| close_and_take_end(link, first)),
    };
    match planned(link) {
        // It said that it can go on; closing twice is closing once.
        Err(_) if stage == Stage::End && link.is_open() => close_and_take_end(link, first),
        done => done,
    }
}

fn close_and_take_end<L: Transfer>(link: &mut L, first: bool) -> Result<(), TransferError> {
    if first {
        link.close(soon())?;
        take_end(link)
    } else {
        take_end(link)?;
        link.close(soon())
    }
}

fn take_end<L: Transfer>(link: &mut L) -> Result<(), TransferError> {
    let mut memory = roadrunner_core::HostMemory::new();
    match link.recv(&mut memory, soon()) {
        Err(TransferError::Closed) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(TransferError::Sink("a payload after the end".into())),
    }
}

/// A link that says it is broken does nothing more.
fn stands_still<L: Transfer>(link: &mut L) -> Result<(), Wrong> {
    let mut memory = roadrunner_core::HostMemory::from(vec![1; 10]);
    let received = link.recv(&mut memory, soon());
    let sent = Payload::kept(&mut memory, Region::new(0, 1))
        .and_then(|payload| link.send(payload, soon()));
    hold!(
        matches!(received, Err(TransferError::Broken))
            && matches!(sent, Err(TransferError::Broken)),
        "a link that says it is broken received {received:?} and sent {sent:?}"
    );
    Ok(())
}

/// Whether nothing has written to it since it was filled. Compared as a whole, because a test is not optimised.
fn is_secret(bytes: &[u8]) -> bool {
    bytes == vec![SECRET; bytes.len()]
}

fn fill_all(memory: &mut dyn LinearMemory, byte: u8) {
    let bytes = vec![byte; memory.len()];
    fill(memory, 0, &bytes);
}

fn bytes_of(memory: &mut dyn LinearMemory) -> Vec<u8> {
    let mut bytes = vec![0; memory.len()];
    Region::new(0, bytes.len() as u64)
        .span(memory)
        .expect("all of it")
        .copy_to_slice(&mut bytes);
    bytes
}

/// A place for one payload, between bytes that must not change.
struct Shelf {
    memory: Box<dyn LinearMemory + Send>,
    offset: u64,
    room: u64,
    reserved: Vec<Region>,
    released: Vec<Region>,
}

impl Shelf {
    fn new(load: Load<'_>, room: u64) -> Self {
        let room = room.max(ANSWER);
        let mut memory = (load.memory)(load.offset + room + MARGIN);
        fill_all(&mut *memory, SECRET);
        Self {
            memory,
            offset: load.offset,
            room,
            reserved: Vec::new(),
            released: Vec::new(),
        }
    }

    fn take<L: Transfer>(&mut self, link: &mut L) -> Result<Receipt, TransferError> {
        let delivery = link.recv(self, soon())?;
        Ok(delivery.receipt())
    }

    /// It holds these bytes, and nothing else has changed.
    fn check_holds(&mut self, expected: &[u8]) -> Result<(), Wrong> {
        hold!(
            self.reserved.len() == self.released.len() + 1,
            "reserved {:?} and released {:?} for a payload that arrived",
            self.reserved,
            self.released
        );
        let now = bytes_of(&mut *self.memory);
        let (before, rest) = now.split_at(self.offset as usize);
        let (there, behind) = rest.split_at(expected.len().min(rest.len()));
        hold!(there == expected, "what arrived is not what was sent");
        hold!(
            is_secret(before) && is_secret(behind),
            "the receiver's memory around the payload has changed"
        );
        Ok(())
    }

    fn check_empty(&mut self) -> Result<(), Wrong> {
        hold!(
            self.reserved == self.released,
            "reserved {:?} and released {:?} for a payload that did not arrive",
            self.reserved,
            self.released
        );
        // All of it is mapped, readable and writable.
        let now = bytes_of(&mut *self.memory);
        fill(&mut *self.memory, 0, &now);
        let (before, rest) = now.split_at(self.offset as usize);
        let behind = &rest[self.room as usize..];
        hold!(
            is_secret(before) && is_secret(behind),
            "the receiver's memory around a payload that did not arrive has changed"
        );
        Ok(())
    }
}

impl Sink for Shelf {
    fn reserve(&mut self, len: u64, _align: u64) -> Result<Region, TransferError> {
        if len > self.room {
            let reason = format!("there are {} bytes", self.room);
            return Err(TransferError::NoRoom { len, reason });
        }
        let region = Region::new(self.offset, len);
        self.reserved.push(region);
        Ok(region)
    }

    fn memory(&mut self) -> &mut dyn LinearMemory {
        &mut *self.memory
    }

    fn release(&mut self, region: Region) {
        self.released.push(region);
    }
}

/// Runs both ends, each in a thread of its own, and calls them by these names.
pub(crate) fn both<A: Send, B: Send>(
    names: [&str; 2],
    one: impl FnOnce() -> Result<A, Wrong> + Send,
    other: impl FnOnce() -> Result<B, Wrong> + Send,
) -> Result<(A, B), Wrong> {
    thread::scope(|scope| {
        let other = scope.spawn(other);
        let one = one();
        let other = other
            .join()
            .map_err(|_| format!("the {} panicked", names[1]))?;
        Ok((
            one.map_err(|wrong| format!("the {}: {wrong}", names[0]))?,
            other.map_err(|wrong| format!("the {}: {wrong}", names[1]))?,
        ))
    })
}

/// Whether receipts say what really ran, as far as the calls that were made can tell.
pub(crate) fn check_receipts(saws: [&Saw; 2], plans: [&Plan; 2], len: u64) -> Result<(), Wrong> {
    use crate::call::Call;
    let spliced = plans[0].done(Call::Splice) > 0;
    if let Ok(sent) = &saws[0].first {
        hold!(
            sent.bytes() == len,
            "{} bytes are said to be sent",
            sent.bytes()
        );
        hold!(
            (sent.method() == Method::Splice) == spliced,
            "sent by {}, and spliced: {spliced}",
            sent.method()
        );
    }
    let (Ok(sent), Ok(received)) = (&saws[0].first, &saws[1].first) else {
        return Ok(());
    };
    if received.bytes() != len {
        return Ok(());
    }
    hold!(
        received.copies() >= sent.copies(),
        "{} copies when sent, {} when received",
        sent.copies(),
        received.copies()
    );
    let moves = [plans[0].done(Call::Remap), plans[1].done(Call::Remap)];
    let (method, copies) = (received.method(), received.copies());
    match method {
        // Out of the source; out of the target, and into it.
        Method::Exchange => hold!(
            copies == 0 && moves[0] >= 1 && moves[1] >= 2,
            "exchanged with {copies} copies and {moves:?} moves"
        ),
        Method::Slot => hold!(copies == 0, "a slot with {copies} copies"),
        _ => hold!(len == 0 || copies > 0, "{method} without a copy"),
    }
    Ok(())
}
