//! What a fuzzer is given to run. Each [`Target`] takes any bytes, makes something of them, and panics if a rule is
//! broken.
//!
//! `cargo xtask fuzz` runs them under libFuzzer; an ordinary test runs each on the inputs in `corpus/`, to which every input
//! that was found to break a rule is added.

mod challenge;
mod frames;
mod handshake;
mod hostile;
mod link;
mod script;
mod shelf;
mod strangers;
mod tls;
#[cfg(not(test))]
mod workflow;

/// The adapter's own source of workflow files: the adapter itself could only be built with WasmEdge, which has no part in
/// them. Its tests are its own, and not compiled here.
#[cfg(not(test))]
#[path = "../../../roadrunner-wasmedge/src"]
#[allow(dead_code, missing_docs, unreachable_pub)]
#[rustfmt::skip]
mod adapter {
    pub(crate) mod workflow;
}

/// Something to be run on any bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its directory in `corpus/`.
    pub name: &'static str,
    /// Runs it on an input; panics if a rule is broken.
    pub run: fn(&[u8]),
}

impl Target {
    /// Every target.
    pub const ALL: &'static [Self] = &[
        Self {
            name: "frames",
            run: frames::run,
        },
        Self {
            name: "handshake",
            run: handshake::run,
        },
        Self {
            name: "challenge",
            run: challenge::run,
        },
        Self {
            name: "tls",
            run: tls::run,
        },
        #[cfg(not(test))]
        Self {
            name: "workflow",
            run: workflow::run,
        },
        Self {
            name: "link",
            run: link::run,
        },
        Self {
            name: "hostile",
            run: hostile::run,
        },
    ];

    /// The one of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|target| target.name == name).copied()
    }
}
