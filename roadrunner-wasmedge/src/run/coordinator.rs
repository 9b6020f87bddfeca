//! Starts the workers, hears from them, and decides: all done, or one failure to tell and nothing left behind.

use super::event::Event;
use super::ledger::Ledger;
use super::output::Staging;
use super::{process, thread, Mode, NetworkMethod, Tls};
use crate::function::text::tame;
use crate::function::LogLevel;
use crate::module::Module;
use crate::sys::signals::keeping_ignored;
use crate::workflow::{FunctionSpec, Workflow};
use crossbeam_channel::{bounded, Receiver, Sender};
use nix::sys::signal::Signal;
use roadrunner_core::Deadline;
use roadrunner_mem::Policy;
use roadrunner_splice::Secret;
use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Events that wait to be heard at most: a function that logs faster than its log is read waits.
const EVENTS: usize = 1024;

/// Gets a function's name, the level, and the line.
type Log = Box<dyn Fn(&str, LogLevel, &str) + Send>;

/// What to run a workflow on, and how.
pub struct Options {
    input: PathBuf,
    output: PathBuf,
    mode: Mode,
    network_method: NetworkMethod,
    reconnect: bool,
    policy: Policy,
    cache: Option<PathBuf>,
    deadline: Option<Duration>,
    secret: Option<Secret>,
    tls: Option<Tls>,
    pub(super) interrupt: Interrupt,
    pub(super) log: Log,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("input", &self.input)
            .field("output", &self.output)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Feeds the file `input`, puts the outputs into the directory `output`.
    #[must_use]
    pub fn new(input: &Path, output: &Path, mode: Mode) -> Self {
        Self {
            input: input.to_owned(),
            output: output.to_owned(),
            mode,
            network_method: NetworkMethod::Auto,
            reconnect: true,
            policy: Policy::default(),
            cache: None,
            deadline: None,
            secret: None,
            tls: None,
            interrupt: Interrupt::never(),
            log: Box::new(|_, _, _| ()),
        }
    }

    /// Lets large payloads cross TCP by this method.
    #[must_use]
    pub fn network_method(mut self, method: NetworkMethod) -> Self {
        self.network_method = method;
        self
    }

    /// Whether links between hosts go on over a new connection when theirs is cut, and send again what the other end has
    /// not received, which gets each payload once. They do, unless payloads are to be spliced: pages that are given away
    /// cannot be sent again. A payload is sent from its place then, and its sender waits until it has been received.
    #[must_use]
    pub fn reconnect(mut self, wanted: bool) -> Self {
        self.reconnect = wanted;
        self
    }

    /// Lets payloads cross like this in user mode, edges that the workflow trusts excepted: these are
    /// [trusted](Policy::trusted), whatever it says. [`Policy::huge_pages`] is about the functions' memories too.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Keeps compiled modules in this directory instead of the user's cache directory.
    #[must_use]
    pub fn cache(mut self, directory: Option<PathBuf>) -> Self {
        self.cache = directory;
        self
    }

    /// Allows the run this much time instead of what the workflow says.
    #[must_use]
    pub fn deadline(mut self, deadline: Option<Duration>) -> Self {
        self.deadline = deadline;
        self
    }

    /// What proves to the other hosts of the workflow, and they to this one, that they belong together. Without one only
    /// hosts at loopback addresses are reached.
    #[must_use]
    pub fn secret(mut self, secret: Option<Secret>) -> Self {
        self.secret = secret;
        self
    }

    /// Encrypts what goes over TCP. The other hosts of the workflow have to do so, too.
    #[must_use]
    pub fn tls(mut self, tls: Option<Tls>) -> Self {
        self.tls = tls;
        self
    }

    /// Stops the run, cleanly, when the other half of `interrupt` is pulled.
    #[must_use]
    pub fn interrupt(mut self, interrupt: Interrupt) -> Self {
        self.interrupt = interrupt;
        self
    }

    /// Gets what functions log: the function's name, the level, the line.
    #[must_use]
    pub fn log(mut self, log: impl Fn(&str, LogLevel, &str) + Send + 'static) -> Self {
        self.log = Box::new(log);
        self
    }
}

/// Tells a run that it is to stop.
#[derive(Debug, Clone)]
pub struct Interrupt(pub(super) Receiver<()>);

/// Pulls an [`Interrupt`].
#[derive(Debug, Clone)]
pub struct Trigger(Sender<()>);

impl Interrupt {
    /// One that is never pulled.
    #[must_use]
    pub fn never() -> Self {
        Self(crossbeam_channel::never())
    }

    /// Both halves.
    #[must_use]
    pub fn new() -> (Trigger, Self) {
        let (trigger, interrupt) = bounded(1);
        (Trigger(trigger), Self(interrupt))
    }
}

impl Interrupt {
    /// One that SIGINT, SIGTERM and SIGHUP pull, each time they come; but for those that this process was started to ignore,
    /// as by nohup(1).
    ///
    /// # Errors
    /// That somebody else handles these signals already, or what the system says.
    pub fn by_signals() -> std::io::Result<Self> {
        let (trigger, interrupt) = Self::new();
        let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        keeping_ignored(&signals, || ctrlc::set_handler(move || trigger.pull()))
            .map_err(std::io::Error::other)?;
        Ok(interrupt)
    }

    /// Whether it has been pulled since the last look.
    pub(crate) fn is_pulled(&self) -> bool {
        self.0.try_recv().is_ok()
    }
}

impl Trigger {
    /// Stops the run. Pulling again changes nothing.
    pub fn pull(&self) {
        // Full: it has been pulled and not been seen yet.
        let _ = self.0.try_send(());
    }
}

/// One payload that crossed one edge.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Hop {
    /// The function that sent it.
    pub from: String,
    /// The function that received it.
    pub to: String,
    /// The host of the function that sent it, if that is another one than the run's.
    pub from_host: Option<String>,
    /// The host of the function that received it, if that is another one than the run's.
    pub to_host: Option<String>,
    /// Bytes of the payload.
    pub bytes: u64,
    /// The method that ran.
    pub method: &'static str,
    /// How many times the CPU copied it, at both ends and between.
    pub copies: u8,
    /// From the start of the send to the moment the payload lay in the receiver's memory, waiting included.
    pub duration: Duration,
}

/// One output.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OutputFile {
    /// The function that replied it.
    pub function: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Of its content, in hexadecimal.
    pub sha256: String,
}

/// A run that went well.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// Every payload of every edge, in the order of the workflow's functions.
    pub hops: Vec<Hop>,
    /// Every output, in the order of the workflow's functions.
    pub outputs: Vec<OutputFile>,
    /// How long each function spent in its handler, its own sends included, in the order of the workflow.
    pub functions: Vec<(String, Duration)>,
    /// What functions did with slots that they must not, in words: each harmed nobody but itself. As they ended.
    pub misuses: Vec<(String, String)>,
    /// From the first worker's start to the last one's end.
    pub duration: Duration,
}

/// Why a run failed. Nothing of it is left: no output, no process, no socket.
#[derive(Debug)]
pub struct RunError {
    message: String,
    interrupted: bool,
}

impl RunError {
    /// What others said may be in the message: other hosts, and workers, in which functions run.
    pub(crate) fn new(message: impl AsRef<str>) -> Self {
        Self {
            message: tame(message.as_ref()),
            interrupted: false,
        }
    }

    pub(super) fn interrupted() -> Self {
        Self {
            message: "interrupted".to_owned(),
            interrupted: true,
        }
    }

    /// Whether it was stopped from outside.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        self.interrupted
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RunError {}

/// What workers are started from.
pub(crate) struct Plan<'a> {
    pub(crate) workflow: &'a Workflow,
    pub(crate) modules: HashMap<&'a Path, Module>,
    pub(crate) mode: Mode,
    pub(crate) network_method: NetworkMethod,
    /// Whether links between hosts outlive their connections.
    pub(crate) sessions: bool,
    pub(crate) policy: Policy,
    pub(crate) input: PathBuf,
    pub(crate) staging: PathBuf,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) deadline: Deadline,
    pub(crate) secret: Option<Secret>,
    pub(crate) tls: Option<Tls>,
}

/// A message from a worker: which one, and what.
pub(crate) type Message = (usize, Event);

/// Workers that run; dropped, they are gone.
pub(crate) trait Workers {
    /// All of them listen, at these addresses: they may connect to each other.
    fn start(&mut self, addresses: &[Option<String>]) -> Result<(), RunError>;

    /// All of them are done: waits until they have ended.
    fn finish(&mut self);
}

/// Runs a workflow once.
///
/// # Errors
/// The first failure that explains the others, naming the file, function or hop. Outputs of an earlier run stay as they
/// were.
pub fn run(workflow: &Workflow, options: &Options) -> Result<Outcome, RunError> {
    let hosted = workflow.functions.iter().find(|f| f.host.is_some());
    let readable = std::fs::File::open(&options.input).and_then(|file| file.metadata());
    let input = match readable {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Err(input_error(&options.input, "is not a file")),
        Err(error) => {
            return Err(input_error(
                &options.input,
                &format!("cannot be read: {error}"),
            ))
        }
    };
    if let (Some(function), false) = (hosted, options.mode == Mode::Network) {
        return Err(RunError::new(format!(
            "function `{}` has a host, and {} mode stays on this one; use the mode network",
            function.name, options.mode
        )));
    }
    if options.tls.is_some() && options.network_method == NetworkMethod::Splice {
        return Err(RunError::new(
            "what is encrypted by TLS cannot be spliced: leave out the one or the other",
        ));
    }
    // What runs elsewhere is looked at there.
    let modules = load_modules(workflow, options.cache.as_deref(), |f| f.host.is_none())?;
    let outputs: Vec<_> = workflow
        .functions
        .iter()
        .filter_map(|function| function.output.as_deref())
        .collect();
    for output in &outputs {
        let path = options.output.join(output);
        let same = std::fs::metadata(&path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (input.dev(), input.ino()));
        if same {
            return Err(input_error(
                &options.input,
                "would be replaced by an output; choose another directory",
            ));
        }
    }
    let staging = Staging::create(&options.output, &outputs).map_err(|error| {
        RunError::new(format!(
            "output directory {}: {error}",
            options.output.display()
        ))
    })?;
    let plan = Plan {
        workflow,
        modules,
        mode: options.mode,
        network_method: options.network_method,
        sessions: hosted.is_some()
            && options.reconnect
            && options.network_method != NetworkMethod::Splice,
        policy: options.policy.clone(),
        input: options.input.clone(),
        staging: staging.path().to_owned(),
        cache: options.cache.clone(),
        deadline: Deadline::after(options.deadline.unwrap_or(workflow.deadline)),
        secret: options.secret.clone(),
        tls: options.tls.clone(),
    };
    let started = std::time::Instant::now();
    let (events, inbox) = bounded(EVENTS);
    let mut workers: Box<dyn Workers> = match options.mode {
        Mode::User => Box::new(thread::Threads::spawn(&plan, events)?),
        Mode::Kernel | Mode::Network => Box::new(process::Processes::spawn(&plan, events)?),
    };
    let mut ledger = Ledger::new(workflow);
    let followed = ledger.follow(&plan, workers.as_mut(), &inbox, options);
    // Nobody listens any more: whoever still has something to say need not wait.
    drop(inbox);
    if followed.is_ok() {
        workers.finish();
    }
    // Before the outputs go: nobody writes to them any more.
    drop(workers);
    followed?;
    let duration = started.elapsed();
    ledger.settle(staging, duration)
}

fn input_error(input: &Path, reason: &str) -> RunError {
    RunError::new(format!("input {}: {reason}", input.display()))
}

/// Validates the modules that a workflow names, without running anything.
///
/// # Errors
/// The first that cannot be loaded or lacks an export.
pub fn check_modules(workflow: &Workflow, cache: Option<&Path>) -> Result<(), RunError> {
    load_modules(workflow, cache, |_| true).map(drop)
}

/// Every module once, side by side: the first time they are compiled.
fn load_modules<'a>(
    workflow: &'a Workflow,
    cache: Option<&Path>,
    wanted: impl Fn(&FunctionSpec) -> bool,
) -> Result<HashMap<&'a Path, Module>, RunError> {
    let paths: std::collections::BTreeSet<_> = workflow
        .functions
        .iter()
        .filter(|function| wanted(function))
        .map(|function| function.module.as_path())
        .collect();
    std::thread::scope(|scope| {
        let loading: Vec<_> = paths
            .into_iter()
            .map(|path| {
                let load = move || Module::load(path, cache);
                (path, std::thread::Builder::new().spawn_scoped(scope, load))
            })
            .collect();
        loading
            .into_iter()
            // Where there is no thread for it, one after the other.
            .map(|(path, thread)| {
                let load = |_| Ok(Module::load(path, cache));
                (path, thread.map_or_else(load, |thread| thread.join()))
            })
            .map(|(path, loaded)| match loaded {
                Ok(Ok(module)) => Ok((path, module)),
                Ok(Err(error)) => Err(RunError::new(error.to_string())),
                Err(_) => Err(RunError::new(format!(
                    "loading {} panicked",
                    path.display()
                ))),
            })
            .collect()
    })
}
