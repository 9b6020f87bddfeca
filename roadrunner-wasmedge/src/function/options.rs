//! How a function is set up.

use roadrunner_mem::{Audience, SlotOptions};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How much a line of a function's log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "cli",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[allow(missing_docs)] // the names say it
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The level with that number in the guest ABI.
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            0 => Self::Error,
            1 => Self::Warn,
            2 => Self::Info,
            3 => Self::Debug,
            4 => Self::Trace,
            _ => return None,
        })
    }

    /// Its name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a function's log goes.
pub(super) type Log = Box<dyn FnMut(LogLevel, &str) + Send>;

/// Slots of a function at most, unless its options say otherwise: each takes a file descriptor.
const MOST_SLOTS: usize = 16;

/// How a function is set up.
pub struct FunctionOptions {
    pub(super) name: Arc<str>,
    pub(super) env: Vec<(String, String)>,
    pub(super) max_pages: Option<u32>,
    pub(super) log: Log,
    pub(super) call_limit: Duration,
    pub(super) slots: Option<SlotOptions>,
    pub(super) audience: Option<Audience>,
    pub(super) huge_pages: bool,
}

impl FunctionOptions {
    /// A function of this name, which all messages carry: no environment, all the memory that 32 bits can name, log
    /// lines to stderr, 10 seconds for calls that have no deadline of their own, and 16 slots of 1 GiB in all.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let name: Arc<str> = name.into();
        let label = name.clone();
        let mut slots = SlotOptions::default();
        slots.slots = MOST_SLOTS;
        Self {
            name,
            env: Vec::new(),
            max_pages: None,
            log: Box::new(move |level, text| eprintln!("{label}: {level}: {text}")),
            call_limit: Duration::from_secs(10),
            slots: Some(slots),
            audience: None,
            huge_pages: true,
        }
    }

    /// The variables of its WASI environment, all of them: nothing of this process's own environment is seen.
    #[must_use]
    pub fn env(mut self, env: Vec<(String, String)>) -> Self {
        self.env = env;
        self
    }

    /// Pages of 64 KiB that its memory may have at most; 65,536 (4 GiB) without a limit.
    #[must_use]
    pub fn max_pages(mut self, pages: Option<u32>) -> Self {
        self.max_pages = pages;
        self
    }

    /// Who hears what it logs, and what it writes to its standard output (as [`LogLevel::Info`]) and standard error
    /// (as [`LogLevel::Warn`]), a line at a time. A line has no control characters other than tabs, and at most 8 KiB;
    /// what is longer is cut. Called on the thread that called the function.
    #[must_use]
    pub fn log(mut self, log: impl FnMut(LogLevel, &str) + Send + 'static) -> Self {
        self.log = Box::new(log);
        self
    }

    /// How long a call that has no deadline of its own may take: instantiating, `_initialize`, allocating and freeing.
    #[must_use]
    pub fn call_limit(mut self, limit: Duration) -> Self {
        self.call_limit = limit;
        self
    }

    /// How much its slots may take, beside its memory; without any it can have none on loan, and receives none. Slots
    /// pay where both ends of a link are on one host: other transports copy them, where they could splice or exchange what
    /// lies in ordinary memory.
    #[must_use]
    pub fn slots(mut self, options: Option<SlotOptions>) -> Self {
        self.slots = options;
        self
    }

    /// Who outside the process gets everything that it ever sends: what has been passed to them is used again for them.
    /// Without, a slot that leaves the process is not used again.
    #[must_use]
    pub fn audience(mut self, audience: Option<Audience>) -> Self {
        self.audience = audience;
        self
    }

    /// Whether huge pages are asked for where its memory is new ([`roadrunner_mem::prefer_huge_pages`]): what it receives there,
    /// or writes, takes fewer page faults, and its memory is taken up by 2 MiB at a time. On.
    #[must_use]
    pub fn huge_pages(mut self, wanted: bool) -> Self {
        self.huge_pages = wanted;
        self
    }
}

impl fmt::Debug for FunctionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the values: they may be secrets.
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("FunctionOptions")
            .field("name", &self.name)
            .field("env", &names)
            .field("max_pages", &self.max_pages)
            .field("call_limit", &self.call_limit)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}
