//! What a worker tells the coordinator: over a channel from a thread, as lines of JSON from a process.

use crate::function::{FunctionError, LogLevel};
use roadrunner_core::{Method, Receipt, TransferError};
use serde::{Deserialize, Serialize};

/// One thing that happened at a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// Its module is loaded and its predecessors may connect, at this address.
    Listening { address: Option<String> },
    /// A send to a successor began, at this monotonic time.
    Sending { to: String, at: u64 },
    /// A payload arrived, whole, at this monotonic time.
    Received {
        from: String,
        bytes: u64,
        method: u8,
        copies: u8,
        at: u64,
    },
    /// The function has handled one payload, in this many nanoseconds, sends of its own included.
    Handled { nanoseconds: u64 },
    /// An output lies in the staging directory under this name.
    Output {
        file: String,
        bytes: u64,
        sha256: String,
    },
    /// What the function did with slots that it must not, in words.
    Misused { what: String },
    /// The function, or its WASI output, said something.
    Log { level: LogLevel, text: String },
    /// The worker gave up.
    Failed(Failure),
    /// The worker has handled all there was, and has closed its links.
    Done,
}

impl Event {
    pub(crate) fn received(from: &str, receipt: Receipt, at: u64) -> Self {
        Self::Received {
            from: from.to_owned(),
            bytes: receipt.bytes(),
            method: receipt.method().code(),
            copies: receipt.copies(),
            at,
        }
    }
}

/// Why a worker gave up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// That another worker is gone, or is late: that one's own failure says more.
    pub(crate) secondary: bool,
    /// The message says which function it is about.
    names_function: bool,
    message: String,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            secondary: false,
            names_function: false,
            message: message.into(),
        }
    }

    /// What a function did, in words that name it.
    pub(crate) fn function(error: &FunctionError) -> Self {
        Self {
            names_function: true,
            ..Self::new(error.to_string())
        }
    }

    /// In words that say whom it is about.
    pub(crate) fn whole(message: impl Into<String>) -> Self {
        Self {
            names_function: true,
            ..Self::new(message)
        }
    }

    /// The same, of a function on another host.
    pub(crate) fn on_host(mut self, host: &str) -> Self {
        self.message = format!("{} (on host {host})", self.message);
        self
    }

    /// The same, with other words for something in it.
    pub(crate) fn calling(mut self, what: &str, name: &str) -> Self {
        self.message = self.message.replace(what, name);
        self
    }

    /// The whole of it, as the failure of that function's worker.
    pub(crate) fn told_of(&self, function: &str) -> String {
        if self.names_function {
            self.message.clone()
        } else {
            format!("function `{function}`: {}", self.message)
        }
    }

    /// A transfer over a link that had been opened. What is refused then is to go on: the other end is gone.
    pub(crate) fn on_link(doing: &str, error: &TransferError) -> Self {
        let mut failure = Self::transfer(doing, error);
        failure.secondary |= matches!(error, TransferError::Refused(_));
        failure
    }

    /// A transfer that failed while something was being done.
    pub(crate) fn transfer(doing: &str, error: &TransferError) -> Self {
        let secondary = matches!(
            error,
            TransferError::Timeout
                | TransferError::PeerClosed
                | TransferError::Truncated { .. }
                | TransferError::Broken
                | TransferError::Closed
        );
        Self {
            secondary,
            names_function: false,
            message: format!("{doing}: {error}"),
        }
    }
}

/// Nanoseconds on the clock that all processes of a machine share.
pub(crate) fn monotonic_now() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(std::time::Duration::from)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The name of a method that came in an event.
pub(crate) fn method_name(code: u8) -> &'static str {
    Method::from_code(code).map_or("unknown", Method::name)
}
