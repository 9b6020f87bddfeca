//! Kernel and network mode: a process per function, sockets between them.
//!
//! The coordinator talks with a worker process over the worker's standard input and output, in lines of JSON. In goes
//! an [`Assignment`], then, once every worker listens, a [`Start`] with the addresses of the successors. Out come events.
//! A worker whose standard input ends has lost its coordinator, and goes.

use super::coordinator::{Message, Plan, RunError, Workers};
use super::event::{Event, Failure};
use super::gate::Gate;
use super::links::Inlets;
use super::worker::{Emit, Task, Worker};
use super::{Mode, NetworkMethod};
use crate::module::Module;
use crossbeam_channel::Sender;
use roadrunner_core::Deadline;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Everything a worker process needs to know before it listens.
#[derive(Serialize, Deserialize)]
struct Assignment {
    task: Task,
    mode: Mode,
    network_method: NetworkMethod,
    /// Where to listen.
    address: String,
    /// What both ends of a link must know.
    secret: String,
    cache: Option<PathBuf>,
    milliseconds_left: u64,
}

/// Where the successors are.
#[derive(Serialize, Deserialize)]
struct Start {
    addresses: HashMap<String, String>,
}

/// The worker processes of a run. Dropped, they are gone, and their sockets with them.
pub(crate) struct Processes {
    workers: Vec<Running>,
    successors: Vec<Vec<String>>,
    names: Vec<String>,
}

struct Running {
    child: Arc<Mutex<Child>>,
    input: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
    /// The socket file that is the worker's, if it has one.
    socket: Option<PathBuf>,
}

impl Processes {
    pub(crate) fn spawn(plan: &Plan<'_>, events: Sender<Message>) -> Result<Self, RunError> {
        let program = std::env::current_exe()
            .map_err(|error| RunError::new(format!("this program cannot find itself: {error}")))?;
        let secret = secret()?;
        let functions = &plan.workflow.functions;
        let mut processes = Self {
            workers: Vec::new(),
            successors: functions.iter().map(|f| f.successors.clone()).collect(),
            names: functions.iter().map(|f| f.name.clone()).collect(),
        };
        for (number, spec) in functions.iter().enumerate() {
            let address = match plan.mode {
                Mode::Network => spec
                    .listen
                    .map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string()),
                // Without a file there is none to be left behind.
                _ => spec.socket.as_ref().map_or_else(
                    || format!("@roadrunner-{}-{}", &secret[..16], spec.name),
                    |path| absolute(path),
                ),
            };
            let left = plan.deadline.remaining().unwrap_or_default();
            let assignment = Assignment {
                task: Task::new(spec, plan),
                mode: plan.mode,
                network_method: plan.network_method,
                address,
                secret: secret.clone(),
                cache: plan.cache.clone(),
                milliseconds_left: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            };
            let failed =
                |error| RunError::new(format!("function `{}`: no process: {error}", spec.name));
            let mut child = Command::new(&program)
                .args([WORKER_ARGUMENT, &spec.name])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Ctrl-C is the coordinator's to handle.
                .process_group(0)
                .spawn()
                .map_err(failed)?;
            let (input, output) = (child.stdin.take(), child.stdout.take());
            let child = Arc::new(Mutex::new(child));
            let reader = output.map(|output| {
                let (child, events) = (child.clone(), events.clone());
                std::thread::spawn(move || follow(number, output, &child, &events))
            });
            processes.workers.push(Running {
                child,
                input,
                reader,
                socket: spec.socket.clone().filter(|_| plan.mode == Mode::Kernel),
            });
            processes.tell(number, &assignment)?;
        }
        Ok(processes)
    }

    fn tell(&mut self, number: usize, line: &impl Serialize) -> Result<(), RunError> {
        let Some(input) = &mut self.workers[number].input else {
            return Ok(());
        };
        let mut text = serde_json::to_string(line).map_err(|error| {
            RunError::new(format!("function `{}`: {error}", self.names[number]))
        })?;
        text.push('\n');
        // A worker that is gone has its say, or its exit status, on the other pipe.
        let _ = input.write_all(text.as_bytes());
        Ok(())
    }
}

impl Workers for Processes {
    fn start(&mut self, addresses: &[Option<String>]) -> Result<(), RunError> {
        let by_name: HashMap<_, _> = self.names.iter().cloned().zip(addresses).collect();
        for number in 0..self.workers.len() {
            let addresses = self.successors[number]
                .iter()
                .filter_map(|name| Some((name.clone(), by_name.get(name)?.as_ref()?.clone())))
                .collect();
            self.tell(number, &Start { addresses })?;
        }
        Ok(())
    }

    fn finish(&mut self) {
        for worker in &mut self.workers {
            if let Some(reader) = worker.reader.take() {
                // Ends with its process, which has said that it is done.
                let _ = reader.join();
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for worker in &self.workers {
            let mut child = worker.child.lock().unwrap_or_else(PoisonError::into_inner);
            // Already gone: nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
            if let Some(socket) = &worker.socket {
                remove_if_deserted(socket);
            }
        }
        for worker in &mut self.workers {
            if let Some(reader) = worker.reader.take() {
                let _ = reader.join();
            }
        }
    }
}

/// A worker that was killed leaves its socket file. One that somebody else listens at stays.
fn remove_if_deserted(socket: &Path) {
    let refused = UnixStream::connect(socket)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    if refused {
        // Gone already: all the better.
        let _ = std::fs::remove_file(socket);
    }
}

/// Passes on what a worker says, and says how it ended if it did not.
fn follow(
    number: usize,
    output: std::process::ChildStdout,
    child: &Mutex<Child>,
    events: &Sender<Message>,
) {
    let mut last_word = false;
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { break };
        let event = serde_json::from_str(&line).unwrap_or_else(|error| {
            Event::Failed(Failure::new(format!(
                "its process said {line:?}, which is no event: {error}"
            )))
        });
        last_word |= matches!(event, Event::Done | Event::Failed(_));
        // The coordinator may have given up and gone.
        let _ = events.send((number, event));
    }
    let status = child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    if !last_word {
        let failure = Failure::new(match status {
            Ok(status) => ending(status),
            Err(error) => format!("its process cannot be waited for: {error}"),
        });
        let _ = events.send((number, Event::Failed(failure)));
    }
}

fn ending(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => {
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| String::new(), |signal| format!(" ({signal})"));
            format!("its process was killed by signal {signal}{name}")
        }
        None => format!("its process ended before its work was done: {status}"),
    }
}

/// Addresses of socket files are absolute.
fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

/// 32 random bytes in hexadecimal, new for each run.
fn secret() -> Result<String, RunError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| RunError::new(format!("the system has no random bytes: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
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

fn serve(emit: &Emit) -> Result<(), Failure> {
    let mut lines = BufReader::new(std::io::stdin()).lines();
    let assignment: Assignment = next_line(&mut lines)?;
    let Assignment {
        task,
        mode,
        network_method,
        address,
        secret,
        cache,
        milliseconds_left,
    } = assignment;
    let deadline = Deadline::after(Duration::from_millis(milliseconds_left));
    let module = Module::load(&task.module, cache.as_deref())
        .map_err(|error| Failure::new(error.to_string()))?;
    let function = task.instantiate(&module, emit)?;
    let listens = !task.predecessors.is_empty();
    let gate = Gate::open(mode, network_method, &address, &secret, listens)?;
    emit(Event::Listening {
        address: gate.address(),
    });
    let start: Start = next_line(&mut lines)?;
    std::thread::spawn(move || watch(lines));
    let mut outlets = Vec::new();
    for to in &task.successors {
        let address = start
            .addresses
            .get(to)
            .ok_or_else(|| Failure::new(format!("nobody said where `{to}` is")))?;
        outlets.push((to.clone(), gate.connect(to, address, &task.name, deadline)?));
    }
    let inlets = gate.accept(&task.predecessors, deadline)?;
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
