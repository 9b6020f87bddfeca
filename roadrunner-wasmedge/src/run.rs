//! Runs a workflow: one worker per function, a link per edge, and a coordinator that hears from all of them.
//!
//! A worker is the same code in every mode (`worker`); the mode decides where it runs and what its links are made of. In
//! user mode it is a thread and its links are in memory (`thread`); in kernel and network mode it is a process and its
//! links are sockets (`process`).

pub(crate) mod assignment;
pub(crate) mod control;
mod coordinator;
pub(crate) mod event;
pub(crate) mod gate;
mod ledger;
mod links;
mod output;
pub(crate) mod process;
pub(crate) mod ration;
mod remote;
mod thread;
mod tls;
pub(crate) mod worker;

pub use coordinator::{
    check_modules, run, Hop, Interrupt, Options, Outcome, OutputFile, RunError, Trigger,
};
pub use process::SECRET_VARIABLE;
pub use remote::check_hosts;
pub(crate) use remote::hexadecimal;
pub use tls::{Tls, TlsError};

pub use assignment::{serve_worker, WORKER_ARGUMENT};

use serde::{Deserialize, Serialize};
use std::fmt;

/// How the payloads of a run cross from function to function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// All functions in one process.
    User,
    /// A process per function, UNIX sockets between them.
    Kernel,
    /// A process per function, TCP between them; UNIX sockets where two of a workflow with other hosts are on one of them.
    Network,
}

impl Mode {
    /// Its name, as files and tables show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Kernel => "kernel",
            Self::Network => "network",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How large payloads cross TCP in network mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NetworkMethod {
    /// Written on loopback. Elsewhere what each link measures to be best: of all methods if it does not reconnect, of those
    /// that leave a payload in its place if it does ([`Options::reconnect`]).
    #[default]
    Auto,
    /// Written.
    Write,
    /// Spliced, where the sender gives whole pages away.
    Splice,
}

impl From<NetworkMethod> for roadrunner_splice::Preference {
    fn from(method: NetworkMethod) -> Self {
        match method {
            NetworkMethod::Auto => Self::Auto,
            NetworkMethod::Write => Self::Write,
            NetworkMethod::Splice => Self::Splice,
        }
    }
}

/// Ends the program, without the destructors that WasmEdge's library would run: a function that did not end in time, and
/// the threads that watch over functions, still use what they destroy. What was printed is flushed.
pub fn leave(code: u8) -> ! {
    use std::io::Write as _;
    // A reader that has gone away has had what it wanted.
    let _ = std::io::stdout().flush();
    crate::sys::leave(code.into())
}
