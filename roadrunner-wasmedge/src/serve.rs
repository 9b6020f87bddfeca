//! Hosts functions for runs of other hosts: what `roadrunner serve` does.
//!
//! ```no_run
//! use roadrunner_wasmedge::run::Interrupt;
//! use roadrunner_wasmedge::serve::{Options, Secret, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let secret = Secret::from_file("/etc/roadrunner.secret")?;
//! let server = Server::bind("10.0.0.2:7000", Options::default().secret(Some(secret)))?;
//! let (_trigger, stop) = Interrupt::new();
//! let ended = server.run(&stop);
//! assert_eq!(ended.cut, 0);
//! # Ok(())
//! # }
//! ```
//!
//! A `roadrunner run` elsewhere connects, proves that it knows the secret, and says which functions it wants to run here,
//! with which modules. Each function gets a process of its own, which listens for and connects to its neighbours directly,
//! wherever they are. What happens is told over the first connection; when that ends, or falls silent, all of the run that
//! is here ends with it.

mod crew;
mod place;
mod session;
mod store;

pub use crate::run::Tls;
pub use roadrunner_splice::Secret;

use crate::module::MAX_MODULE;
use crate::run::control::{self, Control, LIMIT};
use crate::run::Interrupt;
use place::Place;
use roadrunner_core::{Deadline, TransferError};
use roadrunner_splice::Listener;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use store::Store;

/// How long the server waits for a connection before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(200);
/// How long what was cut may take to be gone.
const CLEANING: Duration = Duration::from_secs(10);
/// Connections beside those of runs that may be there at a time: of hosts that have proved themselves and say nothing.
const IDLE: usize = 64;
/// Bytes of messages that may be coming in at a time from one address.
const MESSAGES: u64 = 16 * LIMIT;
/// How often strangers are worth a line.
const STRANGERS: Duration = Duration::from_secs(1);

type Log = Box<dyn Fn(&str) + Send + Sync>;

/// What a server allows, and what it has.
pub struct Options {
    secret: Option<Secret>,
    tls: Option<Tls>,
    modules: Option<PathBuf>,
    sealed: bool,
    cache: Option<PathBuf>,
    directory: Option<PathBuf>,
    runs: usize,
    functions: usize,
    max_module: u64,
    max_input: u64,
    max_pages: Option<u32>,
    ports: Option<RangeInclusive<u16>>,
    memory: u64,
    memory_each: Option<u64>,
    longest: Duration,
    grace: Duration,
    log: Log,
}

impl Default for Options {
    /// No secret, 4 runs of 64 functions at a time, modules of up to 64 MiB, inputs of up to 4 GiB - 1, payloads of as many
    /// bytes at a time, any port, an hour for a run, 30 seconds to finish.
    fn default() -> Self {
        Self {
            secret: None,
            tls: None,
            modules: None,
            sealed: false,
            cache: None,
            directory: None,
            runs: 4,
            functions: 64,
            max_module: 64 << 20,
            max_input: u32::MAX.into(),
            max_pages: None,
            ports: None,
            memory: u32::MAX.into(),
            memory_each: None,
            longest: Duration::from_secs(3600),
            grace: Duration::from_secs(30),
            log: Box::new(|_| ()),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("modules", &self.modules)
            .field("runs", &self.runs)
            .field("functions", &self.functions)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// What whoever connects has to know, and is shown to be known here. Without one only loopback addresses are served.
    #[must_use]
    pub fn secret(mut self, secret: Option<Secret>) -> Self {
        self.secret = secret;
        self
    }

    /// Encrypts everything that comes from other hosts and goes to them. A run that does not is not let in.
    #[must_use]
    pub fn tls(mut self, tls: Option<Tls>) -> Self {
        self.tls = tls;
        self
    }

    /// Modules in this directory are found by their SHA-256 and need not be sent. With `sealed` no others are run.
    #[must_use]
    pub fn modules(mut self, directory: Option<PathBuf>, sealed: bool) -> Self {
        self.modules = directory;
        self.sealed = sealed;
        self
    }

    /// Keeps compiled modules in this directory instead of the user's cache directory.
    #[must_use]
    pub fn cache(mut self, directory: Option<PathBuf>) -> Self {
        self.cache = directory;
        self
    }

    /// Keeps what runs send, and what their functions reply, in a directory that is made in this one; in the system's for
    /// temporary files if left out.
    #[must_use]
    pub fn directory(mut self, directory: Option<PathBuf>) -> Self {
        self.directory = directory;
        self
    }

    /// Runs at a time; one more is refused.
    #[must_use]
    pub fn runs(mut self, count: usize) -> Self {
        self.runs = count;
        self
    }

    /// Functions of one run at most.
    #[must_use]
    pub fn functions(mut self, count: usize) -> Self {
        self.functions = count;
        self
    }

    /// Bytes of a module that is sent at most; never more than [`MAX_MODULE`].
    #[must_use]
    pub fn max_module(mut self, bytes: u64) -> Self {
        self.max_module = bytes.min(MAX_MODULE);
        self
    }

    /// Bytes of an input at most.
    #[must_use]
    pub fn max_input(mut self, bytes: u64) -> Self {
        self.max_input = bytes;
        self
    }

    /// Pages of 64 KiB that the memory of a function may have at most.
    #[must_use]
    pub fn max_pages(mut self, pages: Option<u32>) -> Self {
        self.max_pages = pages;
        self
    }

    /// The ports that functions listen at for payloads from other hosts, for a firewall that lets no others through: each
    /// function that has such a predecessor takes the first that is free, for as long as it runs. Without, the system
    /// chooses.
    #[must_use]
    pub fn ports(mut self, range: Option<RangeInclusive<u16>>) -> Self {
        self.ports = range;
        self
    }

    /// Bytes of payloads that may be coming in at a time from other hosts, at all functions of all runs together. What would
    /// be more is refused before there is a place for it, and fails the run that it belongs to.
    ///
    /// Of messages to the server itself 64 MiB may be coming in at a time from one address, each of up to 4 MiB.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// How many of these bytes may come from one address, or with IPv6 from one network of 64 bits. Without, all of them.
    #[must_use]
    pub fn memory_each(mut self, bytes: Option<u64>) -> Self {
        self.memory_each = bytes;
        self
    }

    /// The longest deadline that a run may have.
    #[must_use]
    pub fn longest(mut self, deadline: Duration) -> Self {
        self.longest = deadline;
        self
    }

    /// How long runs may go on once the server is to stop.
    #[must_use]
    pub fn grace(mut self, time: Duration) -> Self {
        self.grace = time;
        self
    }

    /// Gets a line about what happens: runs that come and end, strangers who are turned away.
    #[must_use]
    pub fn log(mut self, log: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.log = Box::new(log);
        self
    }
}

/// Why there is no server.
#[derive(Debug)]
pub struct ServeError(String);

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServeError {}

/// What a server did until it was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// Runs that ended by themselves, well or not.
    pub runs: usize,
    /// Runs that had not ended within the time of grace, and were cut.
    pub cut: usize,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    shared: Arc<Shared>,
}

/// What the sessions share.
pub(crate) struct Shared {
    options: Options,
    store: Option<Store>,
    place: Place,
    /// By SHA-256: modules that have been found good, and whose compiled form is in the cache.
    prepared: Mutex<HashSet<String>>,
    draining: AtomicBool,
    desk: Mutex<Desk>,
}

/// Who is here.
#[derive(Default)]
struct Desk {
    next: u64,
    connections: HashMap<u64, Arc<Control>>,
    /// Those of the connections that have a run.
    running: HashSet<u64>,
    ended: usize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line, whatever is in it that others said.
    fn log(&self, line: &str) {
        (self.options.log)(&line.replace(char::is_control, "\u{fffd}"));
    }

    /// Whether one more run may begin; it counts from now on.
    fn begin(&self, connection: u64) -> Result<(), String> {
        let mut desk = self.desk();
        self.room_at(&desk)?;
        desk.running.insert(connection);
        Ok(())
    }

    /// Whether one more run might begin now.
    fn room_for_a_run(&self) -> Result<(), String> {
        self.room_at(&self.desk())
    }

    fn room_at(&self, desk: &Desk) -> Result<(), String> {
        if self.draining.load(Ordering::SeqCst) {
            return Err("it is about to stop and takes no more runs; try another host".to_owned());
        }
        if desk.running.len() >= self.options.runs {
            return Err(format!(
                "{} runs are going on, as many as it takes at a time (--runs); try again later",
                desk.running.len()
            ));
        }
        Ok(())
    }
}

impl Server {
    /// Listens at `address`: `host:port` or `[::1]:port`; with port 0 the system chooses one.
    ///
    /// # Errors
    /// What is wrong with the address, the directories, or a modules directory that cannot be read.
    pub fn bind(address: &str, options: Options) -> Result<Self, ServeError> {
        let store = options
            .modules
            .as_deref()
            .map(Store::open)
            .transpose()
            .map_err(ServeError)?;
        if options.sealed && store.is_none() {
            return Err(ServeError(
                "there is no directory of modules, and no others are to be run".to_owned(),
            ));
        }
        let base = options.directory.clone().unwrap_or_else(std::env::temp_dir);
        let place = Place::make(&base)
            .map_err(|error| ServeError(format!("directory {}: {error}", base.display())))?;
        let link = control::options(options.secret.as_ref(), options.tls.as_ref())
            .map_err(|error| ServeError(error.to_string()))?
            .memory_each(MESSAGES);
        let listener = Listener::bind(address, link).map_err(|error| {
            let port = address.rsplit_once(':').map(|(_, port)| port);
            let hint = match error {
                TransferError::Refused(_) => {
                    "; the secret comes from --secret-file, or from the variable ROADRUNNER_SECRET"
                }
                _ if port.map_or(true, |port| port.parse::<u16>().is_err()) => {
                    "; give an address and a port, as in 10.0.0.2:7000"
                }
                _ => "",
            };
            ServeError(format!("cannot listen at {address}: {error}{hint}"))
        })?;
        Ok(Self {
            listener,
            shared: Arc::new(Shared {
                options,
                store,
                place,
                prepared: Mutex::default(),
                draining: AtomicBool::new(false),
                desk: Mutex::default(),
            }),
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves until `stop` is pulled; then takes no more runs, and returns when those that are there have ended, or have
    /// been cut after the time of grace. Pulled once more it cuts them at once.
    pub fn run(mut self, stop: &Interrupt) -> Ended {
        let mut strangers = Strangers::default();
        let mut until: Option<Instant> = None;
        loop {
            if stop.is_pulled() {
                let first = !self.shared.draining.swap(true, Ordering::SeqCst);
                let grace = if first {
                    self.shared.options.grace
                } else {
                    Duration::ZERO
                };
                until = Some(Instant::now() + grace);
                let running = self.shared.desk().running.len();
                if running > 0 {
                    self.shared.log(&format!(
                        "stopping: {running} runs may go on for {} s",
                        grace.as_secs()
                    ));
                }
            }
            if let Some(until) = until {
                if self.shared.desk().running.is_empty() || Instant::now() >= until {
                    break;
                }
            }
            match self.listener.accept(Deadline::after(LOOK)) {
                Ok(link) => session::begin(link, &self.shared),
                Err(TransferError::Timeout) => {}
                Err(error) => {
                    if let Some(line) = strangers.note(&error) {
                        self.shared.log(&line);
                    }
                    // Of the listener's own, not of one peer: too many files are open, for example. It may pass.
                    if matches!(
                        &error,
                        TransferError::Io {
                            doing: "accept",
                            ..
                        }
                    ) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            }
        }
        let cut = self.cut();
        let runs = self.shared.desk().ended - cut;
        Ended { runs, cut }
    }

    /// Ends what is still there, and waits until it is gone.
    fn cut(&self) -> usize {
        let cut = {
            let desk = self.shared.desk();
            desk.connections.values().for_each(|control| control.cut());
            desk.running.len()
        };
        let late = Instant::now() + CLEANING;
        while !self.shared.desk().connections.is_empty() && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(5));
        }
        cut
    }
}

/// Says now and then who was turned away: whoever floods the server with connections is not to flood its log.
#[derive(Default)]
struct Strangers {
    said: Option<Instant>,
    since: usize,
}

impl Strangers {
    fn note(&mut self, error: &TransferError) -> Option<String> {
        if self.said.is_some_and(|said| said.elapsed() < STRANGERS) {
            self.since += 1;
            return None;
        }
        self.said = Some(Instant::now());
        let others = match std::mem::take(&mut self.since) {
            0 => String::new(),
            count => format!(" ({count} more since the last line)"),
        };
        Some(format!("turned away: {error}{others}"))
    }
}

/// The part of a path that names it for people.
fn base_name(path: &str) -> &str {
    Path::new(path)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("module")
}
