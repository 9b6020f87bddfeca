//! Why a function could not be made or called.

use super::host::Said;
use crate::sys::instance::Ended;
use roadrunner_core::Region;
use std::time::Duration;

/// Why a function could not be made or called. Every message names the function.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields: `function` is its name, the rest is in the message
pub enum FunctionError {
    /// WasmEdge refused to instantiate the module.
    #[error("function `{function}`: module {module} cannot be instantiated: {reason}")]
    Instantiate {
        function: String,
        module: String,
        reason: String,
    },
    /// The module's memory begins with more pages than the function may have.
    #[error("function `{function}`: its memory begins with {pages} pages of 64 KiB, and it may have {limit}")]
    TooMuchMemory {
        function: String,
        pages: u64,
        limit: u32,
    },
    /// A variable cannot be in an environment: its name is empty or has `=` in it, or it has a NUL.
    #[error("function `{function}`: {variable:?} cannot be a variable of its environment: a name is not empty and has no `=`, and neither name nor value has a NUL")]
    BadEnvironment { function: String, variable: String },
    /// The handler returned that it failed.
    #[error("function `{function}` failed: {reason}")]
    Failed {
        function: String,
        /// What it told `fail`.
        reason: String,
    },
    /// It trapped.
    #[error("function `{function}` trapped: {reason}{}", said.as_ref().map(|said| format!("; it said: {said}")).unwrap_or_default())]
    Trap {
        function: String,
        /// WasmEdge's words.
        reason: String,
        /// What it told `fail` before.
        said: Option<String>,
    },
    /// It did not return in time and was stopped.
    #[error("function `{function}` had not returned by its deadline, after {after:.3?}, and was stopped")]
    Deadline {
        function: String,
        /// How long it ran.
        after: Duration,
    },
    /// An earlier trap or deadline ended it.
    #[error("function `{function}` was ended by an earlier trap or deadline; instantiate it anew")]
    Unusable { function: String },
    /// It replied with bytes that it does not have.
    #[error(
        "function `{function}` replied with {region}, which is not in its memory of {memory} bytes"
    )]
    BadReply {
        function: String,
        region: Region,
        memory: u64,
    },
    /// Its allocator gave bytes that it does not have.
    #[error("the allocator of function `{function}` gave {region}, which is not in its memory of {memory} bytes")]
    BadAllocation {
        function: String,
        region: Region,
        memory: u64,
    },
    /// Its allocator gave bytes that the host keeps as the place of a slot.
    #[error("the allocator of function `{function}` gave {region}, in which the host has a slot")]
    KeptAllocation { function: String, region: Region },
    /// The caller passed a region that is not in the function's memory.
    #[error(
        "function `{function}` was passed {region}, which is not in its memory of {memory} bytes"
    )]
    BadRegion {
        function: String,
        region: Region,
        memory: u64,
    },
}

impl FunctionError {
    pub(super) fn ended(function: &str, ended: Ended, said: Said, after: Duration) -> Self {
        let function = function.to_owned();
        match ended {
            Ended::Deadline => Self::Deadline { function, after },
            Ended::Trap(refusal) => Self::Trap {
                function,
                reason: said.stop.unwrap_or_else(|| refusal.to_string()),
                said: said.reason,
            },
        }
    }
}
