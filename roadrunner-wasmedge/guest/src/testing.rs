//! Plays the host where there is none, on every target but wasm32, so that handlers can be tested by `cargo test`.
//!
//! Everything is kept per thread, as tests run in one thread each.
//!
//! ```
//! use roadrunner_guest::{send_copy, testing, Buffer};
//!
//! fn both_ways(payload: Buffer) -> Buffer {
//!     let _ = send_copy("archive", &payload);
//!     payload
//! }
//!
//! let reply = both_ways(Buffer::from(b"picture".to_vec()));
//! assert_eq!(&*reply, b"picture");
//! assert_eq!(testing::take_sent(), [("archive".to_string(), b"picture".to_vec())]);
//! ```

use crate::slots::KEPT;
use crate::{Error, Level};
use std::cell::RefCell;
use std::mem::MaybeUninit;

/// A day, in milliseconds: no test should see its deadline pass by accident.
const NO_HURRY: i64 = 24 * 60 * 60 * 1000;

struct Host {
    sent: Vec<(String, Vec<u8>)>,
    log: Vec<(Level, String)>,
    failure: Option<String>,
    refusal: Option<Error>,
    deadline_left: i64,
    slots: Vec<Slot>,
    slot_limit: usize,
}

struct Slot {
    address: usize,
    len: usize,
    loaned: bool,
}

/// The slots that the host has in the function's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// How many the function has at present.
    pub loaned: usize,
    /// How many wait to be loaned again.
    pub free: usize,
}

thread_local! {
    static HOST: RefCell<Host> = const {
        RefCell::new(Host {
            sent: Vec::new(),
            log: Vec::new(),
            failure: None,
            refusal: None,
            deadline_left: NO_HURRY,
            slots: Vec::new(),
            slot_limit: usize::MAX,
        })
    };
}

fn host<T>(act: impl FnOnce(&mut Host) -> T) -> T {
    HOST.with(|host| act(&mut host.borrow_mut()))
}

/// What was sent by either kind of send since the last call, as target and payload, in order.
pub fn take_sent() -> Vec<(String, Vec<u8>)> {
    host(|host| std::mem::take(&mut host.sent))
}

/// What was logged since the last call, in order.
pub fn take_log() -> Vec<(Level, String)> {
    host(|host| std::mem::take(&mut host.log))
}

/// The last reason of a failure that reached the host since the last call.
pub fn take_failure() -> Option<String> {
    host(|host| host.failure.take())
}

/// Makes every later send fail with `error`, or succeed again.
pub fn refuse_sends(error: Option<Error>) {
    host(|host| host.refusal = error);
}

/// Sets what the host says is left until the deadline, in milliseconds. At first that is a day.
pub fn set_deadline_left(milliseconds: i64) {
    host(|host| host.deadline_left = milliseconds);
}

/// Sets how many slots the host gives at most, without a limit at first. Of those that it has already, what is too many
/// goes back to the function as it is released.
pub fn limit_slots(count: usize) {
    host(|host| host.slot_limit = count);
}

/// How many slots the function has, and how many it has released or given away.
pub fn slots() -> Slots {
    host(|host| {
        let loaned = host.slots.iter().filter(|slot| slot.loaned).count();
        Slots {
            loaned,
            free: host.slots.len() - loaned,
        }
    })
}

pub(crate) fn send(target: &str, bytes: &mut [u8]) -> i32 {
    let result = send_copy(target, bytes);
    // What was given away is undefined afterwards, and a slot is the host's.
    bytes.fill(0xdd);
    let address = bytes.as_ptr() as usize;
    host(|host| {
        if let Some(slot) = host.slots.iter_mut().find(|slot| slot.address == address) {
            slot.loaned = false;
        }
    });
    result
}

pub(crate) fn send_copy(target: &str, bytes: &[u8]) -> i32 {
    host(|host| match host.refusal {
        Some(error) => error.code(),
        None => {
            host.sent.push((target.into(), bytes.into()));
            0
        }
    })
}

pub(crate) fn log(level: i32, text: &str) -> i32 {
    let levels = [
        Level::Error,
        Level::Warn,
        Level::Info,
        Level::Debug,
        Level::Trace,
    ];
    match levels.into_iter().find(|known| *known as i32 == level) {
        Some(level) => host(|host| host.log.push((level, text.into()))),
        None => return Error::Invalid.code(),
    }
    0
}

pub(crate) fn fail(reason: &str) -> i32 {
    host(|host| host.failure = Some(reason.into()));
    0
}

pub(crate) fn deadline_left() -> i64 {
    host(|host| host.deadline_left)
}

pub(crate) fn loan(len: usize) -> usize {
    host(|host| {
        let fits = |slot: &&mut Slot| !slot.loaned && slot.len >= len;
        host.slots.iter_mut().find(fits).map_or(0, |slot| {
            slot.loaned = true;
            slot.address
        })
    })
}

pub(crate) fn bind(block: &mut [MaybeUninit<u8>]) -> i32 {
    host(|host| {
        if host.slots.len() >= host.slot_limit {
            return Error::NotSupported.code();
        }
        // What the block held is gone.
        block.fill(MaybeUninit::new(0));
        host.slots.push(Slot {
            address: block.as_ptr() as usize,
            len: block.len(),
            loaned: true,
        });
        0
    })
}

pub(crate) fn release(address: usize) -> i32 {
    let released = HOST.try_with(|host| {
        let host = &mut *host.borrow_mut();
        let at = host.slots.iter().position(|slot| slot.address == address)?;
        if host.slots.len() > host.slot_limit {
            host.slots.swap_remove(at);
            return None;
        }
        host.slots[at].loaned = false;
        Some(KEPT)
    });
    // Of a thread that has ended already nothing is left to be kept.
    released.ok().flatten().unwrap_or(0)
}
