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

use crate::{Error, Level};
use std::cell::RefCell;

/// A day, in milliseconds: no test should see its deadline pass by accident.
const NO_HURRY: i64 = 24 * 60 * 60 * 1000;

struct Host {
    sent: Vec<(String, Vec<u8>)>,
    log: Vec<(Level, String)>,
    failure: Option<String>,
    refusal: Option<Error>,
    deadline_left: i64,
}

thread_local! {
    static HOST: RefCell<Host> = const {
        RefCell::new(Host { sent: Vec::new(), log: Vec::new(), failure: None, refusal: None, deadline_left: NO_HURRY })
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

pub(crate) fn send(target: &str, bytes: &mut [u8]) -> i32 {
    let result = send_copy(target, bytes);
    // What was given away is undefined afterwards.
    bytes.fill(0xdd);
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
