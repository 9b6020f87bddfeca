//! The host's services.

use crate::{Buffer, Error};
use std::time::Duration;

#[cfg(target_arch = "wasm32")]
pub(crate) use crate::sys as imports;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing as imports;

/// How urgent a line in the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Something failed.
    Error = 0,
    /// Something is odd, and the work goes on.
    Warn = 1,
    /// What an operator wants to see.
    Info = 2,
    /// What a developer wants to see.
    Debug = 3,
    /// Every step.
    Trace = 4,
}

/// Gives `payload` to the function named `target`, a successor of this one in the workflow. Large payloads change hands
/// without being copied where the link allows it.
///
/// # Errors
/// Any [`Error`]; the payload is gone in either case.
pub fn send(target: &str, mut payload: Buffer) -> Result<(), Error> {
    Error::check(imports::send(target, &mut payload))
}

/// Sends a copy of `payload` to the function named `target`, a successor of this one in the workflow.
///
/// # Errors
/// Any [`Error`].
pub fn send_copy(target: &str, payload: &[u8]) -> Result<(), Error> {
    Error::check(imports::send_copy(target, payload))
}

/// Writes one entry to the host's log, see also [`log!`](crate::log!). What the host does not take is lost.
pub fn log(level: Level, text: &str) {
    let _ = imports::log(level as i32, text);
}

/// Formats one entry and writes it to the host's log.
///
/// ```
/// use roadrunner_guest::{log, Level};
///
/// log!(Level::Info, "{} of {} pictures", 3, 4);
/// ```
#[macro_export]
macro_rules! log {
    ($level:expr, $($text:tt)+) => {
        $crate::log($level, &::std::format!($($text)+))
    };
}

/// How long this call of the handler may still take, in whole milliseconds; zero once the deadline has passed.
pub fn deadline_left() -> Duration {
    Duration::from_millis(imports::deadline_left().try_into().unwrap_or(0))
}

pub(crate) fn fail(reason: &str) {
    let _ = imports::fail(reason);
}

/// Lets a panic, which ends in a trap here, tell the host its message. Elsewhere the test harness shows panics.
pub(crate) fn report_panics() {
    #[cfg(target_arch = "wasm32")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            std::panic::set_hook(Box::new(|panic| {
                fail(crate::panic_text::panic_text(panic).as_str())
            }));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn sends_reach_the_host_and_its_errors_come_back() {
        send("next", Buffer::from(b"given".to_vec())).expect("the stand-in accepts it");
        send_copy("other", b"copied").expect("the stand-in accepts it");
        testing::refuse_sends(Some(Error::PeerClosed));
        assert_eq!(send_copy("next", b"lost"), Err(Error::PeerClosed));
        assert_eq!(send("next", Buffer::default()), Err(Error::PeerClosed));
        testing::refuse_sends(None);
        let sent = testing::take_sent();
        let sent: Vec<_> = sent
            .iter()
            .map(|(target, payload)| (target.as_str(), payload.as_slice()))
            .collect();
        assert_eq!(sent, [("next", &b"given"[..]), ("other", &b"copied"[..])]);
        assert!(testing::take_sent().is_empty());
    }

    #[test]
    fn the_log_keeps_levels_and_order() {
        log(Level::Error, "first");
        crate::log!(Level::Trace, "{}", "second");
        assert_eq!(
            testing::take_log(),
            [
                (Level::Error, "first".into()),
                (Level::Trace, "second".into())
            ]
        );
    }

    #[test]
    fn a_deadline_that_has_passed_leaves_nothing() {
        testing::set_deadline_left(1500);
        assert_eq!(deadline_left(), Duration::from_millis(1500));
        testing::set_deadline_left(0);
        assert_eq!(deadline_left(), Duration::ZERO);
        testing::set_deadline_left(-5);
        assert_eq!(deadline_left(), Duration::ZERO);
    }
}
