//! Starts the workers, hears from them, and decides: all done, or one failure to tell and nothing left behind.

use super::event::{method_name, Event, Failure};
use super::output::Staging;
use super::{process, thread, Mode, NetworkMethod};
use crate::function::LogLevel;
use crate::module::Module;
use crate::workflow::Workflow;
use crossbeam_channel::{bounded, select, unbounded, Receiver, Sender};
use roadrunner_core::Deadline;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long, after a failure that has its cause elsewhere, the coordinator waits to hear that cause.
const EXPLANATION: Duration = Duration::from_secs(1);
/// How long after the deadline workers get to say what they were waiting for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Gets a function's name, the level, and the line.
type Log = Box<dyn Fn(&str, LogLevel, &str) + Send>;

/// What to run a workflow on, and how.
pub struct Options {
    input: PathBuf,
    output: PathBuf,
    mode: Mode,
    network_method: NetworkMethod,
    cache: Option<PathBuf>,
    deadline: Option<Duration>,
    interrupt: Interrupt,
    log: Log,
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
            cache: None,
            deadline: None,
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
pub struct Interrupt(Receiver<()>);

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
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            interrupted: false,
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
    pub(crate) input: PathBuf,
    pub(crate) staging: PathBuf,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) deadline: Deadline,
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
    let readable = std::fs::File::open(&options.input).and_then(|file| file.metadata());
    match readable {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(input_error(&options.input, "is not a file")),
        Err(error) => {
            return Err(input_error(
                &options.input,
                &format!("cannot be read: {error}"),
            ))
        }
    }
    let modules = load_modules(workflow, options.cache.as_deref())?;
    let outputs: Vec<_> = workflow
        .functions
        .iter()
        .filter_map(|function| function.output.as_deref())
        .collect();
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
        input: options.input.clone(),
        staging: staging.path().to_owned(),
        cache: options.cache.clone(),
        deadline: Deadline::after(options.deadline.unwrap_or(workflow.deadline)),
    };
    let started = std::time::Instant::now();
    let (events, inbox) = unbounded();
    let mut workers: Box<dyn Workers> = match options.mode {
        Mode::User => Box::new(thread::Threads::spawn(&plan, events)?),
        Mode::Kernel | Mode::Network => Box::new(process::Processes::spawn(&plan, events)?),
    };
    let mut ledger = Ledger::new(workflow);
    let followed = ledger.follow(&plan, workers.as_mut(), &inbox, options);
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
    load_modules(workflow, cache).map(drop)
}

/// Every module once, side by side: the first time they are compiled.
fn load_modules<'a>(
    workflow: &'a Workflow,
    cache: Option<&Path>,
) -> Result<HashMap<&'a Path, Module>, RunError> {
    let paths: std::collections::BTreeSet<_> = workflow
        .functions
        .iter()
        .map(|function| function.module.as_path())
        .collect();
    std::thread::scope(|scope| {
        let loading: Vec<_> = paths
            .into_iter()
            .map(|path| (path, scope.spawn(move || Module::load(path, cache))))
            .collect();
        loading
            .into_iter()
            .map(|(path, thread)| match thread.join() {
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

/// What the workers have said so far.
struct Ledger<'a> {
    workflow: &'a Workflow,
    addresses: Vec<Option<Option<String>>>,
    done: Vec<bool>,
    handled: Vec<Duration>,
    sending: HashMap<(String, String), VecDeque<u64>>,
    received: HashMap<(String, String), Vec<Event>>,
    outputs: Vec<Vec<(String, u64, String)>>,
}

impl<'a> Ledger<'a> {
    fn new(workflow: &'a Workflow) -> Self {
        let count = workflow.functions.len();
        Self {
            workflow,
            addresses: vec![None; count],
            done: vec![false; count],
            handled: vec![Duration::ZERO; count],
            sending: HashMap::new(),
            received: HashMap::new(),
            outputs: vec![Vec::new(); count],
        }
    }

    fn name(&self, worker: usize) -> &'a str {
        &self.workflow.functions[worker].name
    }

    /// Hears from the workers until all are done or one has failed.
    fn follow(
        &mut self,
        plan: &Plan<'_>,
        workers: &mut dyn Workers,
        inbox: &Receiver<Message>,
        options: &Options,
    ) -> Result<(), RunError> {
        let end = plan.deadline.instant() + LAST_WORDS;
        let mut lost: Option<(usize, Failure)> = None;
        let mut wait_until = end;
        while !self.done.iter().all(|done| *done) {
            select! {
                recv(inbox) -> message => match message {
                    Ok((worker, Event::Failed(failure))) if failure.secondary => {
                        wait_until = wait_until.min(std::time::Instant::now() + EXPLANATION);
                        lost.get_or_insert((worker, failure));
                    }
                    Ok((worker, Event::Failed(failure))) => return Err(self.failed(worker, &failure)),
                    Ok((worker, event)) => {
                        if self.note(worker, event, options) {
                            let addresses: Vec<_> = self.addresses.iter().cloned().map(Option::flatten).collect();
                            workers.start(&addresses)?;
                        }
                    }
                    Err(_) => return Err(RunError::new("the workers ended without a word")),
                },
                recv(options.interrupt.0) -> _ => {
                    return Err(RunError { message: "interrupted".to_owned(), interrupted: true });
                }
                default(wait_until.saturating_duration_since(std::time::Instant::now())) => {
                    return Err(match &lost {
                        Some((worker, failure)) => self.failed(*worker, failure),
                        None => self.overdue(),
                    });
                }
            }
        }
        Ok(())
    }

    fn failed(&self, worker: usize, failure: &Failure) -> RunError {
        RunError::new(failure.told_of(self.name(worker)))
    }

    fn overdue(&self) -> RunError {
        let waiting: Vec<_> = (0..self.done.len())
            .filter(|worker| !self.done[*worker])
            .map(|worker| self.name(worker))
            .collect();
        RunError::new(format!(
            "the deadline passed and these functions had not ended: {}",
            waiting.join(", ")
        ))
    }

    /// Writes an event down. True when this was the last worker to listen.
    fn note(&mut self, worker: usize, event: Event, options: &Options) -> bool {
        let name = self.name(worker).to_owned();
        match event {
            Event::Listening { address } => {
                self.addresses[worker] = Some(address);
                return self.addresses.iter().all(Option::is_some);
            }
            Event::Sending { to, at } => self.sending.entry((name, to)).or_default().push_back(at),
            Event::Received { ref from, .. } => {
                let edge = (from.clone(), name);
                self.received.entry(edge).or_default().push(event);
            }
            Event::Handled { nanoseconds } => {
                self.handled[worker] += Duration::from_nanos(nanoseconds);
            }
            Event::Output {
                file,
                bytes,
                sha256,
            } => self.outputs[worker].push((file, bytes, sha256)),
            Event::Log { level, text } => (options.log)(&name, level, &text),
            Event::Done => self.done[worker] = true,
            // The caller's own.
            Event::Failed(_) => {}
        }
        false
    }

    /// The outputs to their place, and the account of the run.
    fn settle(mut self, staging: Staging, duration: Duration) -> Result<Outcome, RunError> {
        let hops = self.hops();
        let functions = self
            .workflow
            .functions
            .iter()
            .zip(&self.handled)
            .map(|(function, handled)| (function.name.clone(), *handled))
            .collect();
        let outputs: Vec<_> = std::mem::take(&mut self.outputs)
            .into_iter()
            .enumerate()
            .flat_map(|(worker, files)| files.into_iter().map(move |file| (worker, file)))
            .collect();
        let files: Vec<_> = outputs.iter().map(|(_, (file, ..))| file.clone()).collect();
        let paths = staging.publish(&files).map_err(|error| {
            RunError::new(format!(
                "outputs could not be moved to their place: {error}"
            ))
        })?;
        let outputs = outputs
            .into_iter()
            .zip(paths)
            .map(|((worker, (_, bytes, sha256)), path)| OutputFile {
                function: self.name(worker).to_owned(),
                path,
                bytes,
                sha256,
            })
            .collect();
        Ok(Outcome {
            hops,
            outputs,
            functions,
            duration,
        })
    }

    fn hops(&mut self) -> Vec<Hop> {
        let mut hops = Vec::new();
        for function in &self.workflow.functions {
            for to in &function.successors {
                let edge = (function.name.clone(), to.clone());
                let mut started = self.sending.remove(&edge).unwrap_or_default();
                for event in self.received.remove(&edge).unwrap_or_default() {
                    if let Event::Received {
                        bytes,
                        method,
                        copies,
                        at,
                        ..
                    } = event
                    {
                        let began = started.pop_front().unwrap_or(at);
                        hops.push(Hop {
                            from: edge.0.clone(),
                            to: to.clone(),
                            bytes,
                            method: method_name(method),
                            copies,
                            duration: Duration::from_nanos(at.saturating_sub(began)),
                        });
                    }
                }
            }
        }
        hops
    }
}
