//! What a worker process is told, and its life: load, listen, connect, work.
//!
//! Whoever starts it talks with it over its standard input and output, in lines of JSON. In goes an [`Assignment`], then,
//! once every worker listens, a [`Start`] with the addresses of successors that are reached over TCP. Out come events. A
//! worker whose standard input ends has lost its coordinator, and goes.

use super::event::{Event, Failure};
use super::gate::{Gate, Ways};
use super::links::Inlets;
use super::worker::{Emit, Task, Worker};
use crate::module::Module;
use roadrunner_core::Deadline;
use roadrunner_mem::Audience;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a worker process is there for.
#[derive(Serialize, Deserialize)]
#[serde(tag = "assignment", rename_all = "snake_case")]
pub(crate) enum Assignment {
    /// To hold a module against the ABI and compile it into the cache: a module that brings the compiler down, or takes it
    /// too long, does so in a process of its own.
    Prepare {
        module: PathBuf,
        cache: Option<PathBuf>,
    },
    /// To run a function.
    Work(Box<Work>),
}

/// Everything a worker process needs to know before it listens.
#[derive(Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) task: Task,
    pub(crate) ways: Ways,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) milliseconds_left: u64,
}

impl Work {
    pub(crate) fn new(task: Task, ways: Ways, cache: Option<PathBuf>, deadline: Deadline) -> Self {
        Self {
            task,
            ways,
            cache,
            milliseconds_left: milliseconds(deadline),
        }
    }
}

/// What is left of a deadline, for a process whose clock is another one.
pub(crate) fn milliseconds(deadline: Deadline) -> u64 {
    let left = deadline.remaining().unwrap_or_default();
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

/// Where the successors are that are reached over TCP.
#[derive(Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) addresses: HashMap<String, String>,
}

/// The first argument of a worker process.
pub const WORKER_ARGUMENT: &str = "worker";

/// The life of a worker process: the program calls this when its first argument is [`WORKER_ARGUMENT`].
///
/// Standard input and output are the coordinator's; see the module's documentation. Returns whether all went well, which
/// the coordinator has been told already.
#[must_use]
pub fn serve_worker() -> bool {
    let emit: Emit = Arc::new(|event: Event| {
        if let Ok(mut line) = serde_json::to_string(&event) {
            line.push('\n');
            // A coordinator that is gone takes this process with it, see `watch`.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
        }
    });
    let ended = serve(&emit);
    let well = ended.is_ok();
    emit(match ended {
        Ok(()) => Event::Done,
        Err(failure) => Event::Failed(failure),
    });
    well
}

fn on_a_thread(work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let thread = std::thread::Builder::new().spawn(work);
    thread
        .map(drop)
        .map_err(|error| Failure::new(format!("no thread: {error}")))
}

fn serve(emit: &Emit) -> Result<(), Failure> {
    let mut lines = BufReader::new(std::io::stdin()).lines();
    let work = match next_line(&mut lines)? {
        Assignment::Work(work) => *work,
        Assignment::Prepare { module, cache } => {
            on_a_thread(move || watch(lines))?;
            return match Module::load(&module, cache.as_deref()) {
                Ok(_) => Ok(()),
                Err(error) => Err(Failure::new(error.to_string())),
            };
        }
    };
    let Work {
        task,
        ways,
        cache,
        milliseconds_left,
    } = work;
    let deadline = Deadline::after(Duration::from_millis(milliseconds_left));
    let module = Module::load(&task.module, cache.as_deref())
        .map_err(|error| Failure::new(error.to_string()))?;
    let audience = Audience::new();
    let function = task.instantiate(&module, audience, emit)?;
    let gate = Gate::open(ways, &task, audience, function.holds_slots())?;
    emit(Event::Listening {
        address: gate.address(),
    });
    let start: Start = next_line(&mut lines)?;
    on_a_thread(move || watch(lines))?;
    let mut outlets = Vec::new();
    for to in &task.successors {
        let link = gate.connect(to, &start.addresses, &task.name, deadline)?;
        outlets.push((to.clone(), link));
    }
    let inlets = gate.accept(deadline)?;
    let worker = Worker {
        task: &task,
        function,
        outlets,
        deadline,
        emit: emit.clone(),
    };
    worker.work(Inlets::new(inlets))
}

fn next_line<T: serde::de::DeserializeOwned>(
    lines: &mut impl Iterator<Item = std::io::Result<String>>,
) -> Result<T, Failure> {
    let line = lines
        .next()
        .ok_or_else(|| Failure::new("this is a worker of `roadrunner run`, which is not there"))?
        .map_err(|error| Failure::new(format!("cannot hear the coordinator: {error}")))?;
    serde_json::from_str(&line)
        .map_err(|error| Failure::new(format!("cannot understand the coordinator: {error}")))
}

/// Ends this process when the coordinator is gone, whatever the function is doing.
fn watch(mut lines: impl Iterator<Item = std::io::Result<String>>) {
    while let Some(Ok(_)) = lines.next() {}
    std::process::exit(1);
}
