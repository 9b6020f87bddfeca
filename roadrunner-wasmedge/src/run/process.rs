//! Kernel and network mode: a process per function, sockets between them.

use super::assignment::{Assignment, Start, Work, WORKER_ARGUMENT};
use super::control::SILENCE;
use super::coordinator::{Message, Plan, RunError, Workers};
use super::event::{Event, Failure};
use super::gate::{socket_of, Allowed, Far, Ways};
use super::remote::{random, Remotes};
use super::worker::Task;
use super::{Mode, Tls};
use crate::workflow::FunctionSpec;
use crossbeam_channel::Sender;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use roadrunner_core::Deadline;
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The environment variable that the shared secret of the hosts may come from. No worker needs it.
pub const SECRET_VARIABLE: &str = "ROADRUNNER_SECRET";

/// A worker process. Dropped, it is gone.
pub(crate) struct WorkerProcess {
    child: Arc<Mutex<Child>>,
    input: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
}

impl WorkerProcess {
    /// Starts one. What it says, and how it ended if it did not say so itself, goes to `report`, on a thread of its own.
    pub(crate) fn spawn(name: &str, report: impl Fn(Event) + Send + 'static) -> io::Result<Self> {
        let mut program = Command::new(std::env::current_exe()?);
        program.args([WORKER_ARGUMENT, name]);
        Self::of(program, report)
    }

    fn of(mut program: Command, report: impl Fn(Event) + Send + 'static) -> io::Result<Self> {
        let mut child = program
            .env_remove(SECRET_VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is the coordinator's to handle.
            .process_group(0)
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let child = Arc::new(Mutex::new(child));
        let mut process = Self {
            child: child.clone(),
            input,
            reader: None,
        };
        if let Some(output) = output {
            let reader = move || follow(output, &child, &report);
            // Without it the process is of no use, and ends here.
            process.reader = Some(std::thread::Builder::new().spawn(reader)?);
        }
        Ok(process)
    }

    /// Passes it a line. One that does not read what it is told is of no use: the caller drops it.
    pub(crate) fn tell(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let Some(input) = &mut self.input else {
            return Ok(());
        };
        match write_by(input, &text, Deadline::after(SILENCE)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "its process read nothing of what it was told for {} s",
                    SILENCE.as_secs()
                ),
            )),
            // A worker that is gone has its say, or its exit status, on the other pipe.
            _ => Ok(()),
        }
    }

    /// Waits until it has ended.
    pub(crate) fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            // Ends with its process.
            let _ = reader.join();
        }
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Already gone: nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        self.kill();
        self.join();
    }
}

/// The worker processes of a run on this host, and its other hosts. Dropped, they are gone, and their sockets with them.
pub(crate) struct Processes {
    /// By the number of the function; none for what runs elsewhere.
    workers: Vec<Option<Running>>,
    remotes: Remotes,
    functions: Vec<(String, Vec<String>)>,
    /// What the UNIX sockets of the run are named after. Every user of this host can read it where they are listed, so
    /// that it tells nothing of the links' secret.
    tag: String,
}

struct Running {
    process: WorkerProcess,
    /// The socket file that is the worker's, if it has one.
    socket: Option<PathBuf>,
}

impl Processes {
    pub(crate) fn spawn(plan: &Plan<'_>, events: Sender<Message>) -> Result<Self, RunError> {
        let mut processes = Self::open(plan, &events)?;
        for (number, spec) in plan.workflow.functions.iter().enumerate() {
            if spec.host.is_some() {
                processes.workers.push(None);
                continue;
            }
            let ways = processes.ways(plan, spec);
            let mut task = Task::new(spec, plan);
            let is_near_somebody = !ways.near.is_empty();
            task.slots = plan.mode == Mode::Kernel || is_near_somebody;
            let work = Work::new(task, ways, plan.cache.clone(), plan.deadline);
            let assignment = Assignment::Work(Box::new(work));
            let events = events.clone();
            // The coordinator may have given up and gone.
            let report = move |event| drop(events.send((number, event)));
            let process = WorkerProcess::spawn(&spec.name, report).map_err(|error| {
                RunError::new(format!("function `{}`: no process: {error}", spec.name))
            })?;
            processes.workers.push(Some(Running {
                process,
                socket: spec.socket.clone().filter(|_| is_near_somebody),
            }));
            processes.tell(number, &assignment)?;
        }
        Ok(processes)
    }

    /// None on this host yet.
    fn open(plan: &Plan<'_>, events: &Sender<Message>) -> Result<Self, RunError> {
        let functions = plan.workflow.functions.iter();
        Ok(Self {
            workers: Vec::new(),
            remotes: Remotes::open(plan, events)?,
            functions: functions
                .map(|f| (f.name.clone(), f.successors.clone()))
                .collect(),
            tag: random()?[..16].to_owned(),
        })
    }

    /// How a function of this host reaches its neighbours.
    fn ways(&self, plan: &Plan<'_>, spec: &FunctionSpec) -> Ways {
        let socket = |spec: &FunctionSpec| {
            let named = spec.socket.as_ref().map(|path| absolute(path));
            named.unwrap_or_else(|| socket_of(&self.tag, &spec.name))
        };
        // A workflow without other hosts is in this mode for the sake of TCP.
        let has_hosts = !plan.workflow.hosts().is_empty();
        let is_near =
            |spec: &&FunctionSpec| spec.host.is_none() && (plan.mode == Mode::Kernel || has_hosts);
        let neighbours = spec.predecessors.iter().chain(&spec.successors);
        let near = neighbours
            .clone()
            .filter_map(|name| plan.workflow.function(name))
            .filter(is_near)
            .map(|spec| (spec.name.clone(), socket(spec)))
            .collect();
        Ways::new(socket(spec), near, neighbours, || Far {
            address: spec.listen.map_or_else(
                || self.remotes.listening_address(plan.workflow, spec),
                |address| address.to_string(),
            ),
            method: plan.network_method,
            sessions: plan.sessions,
            secret: self.remotes.secret().to_owned(),
            tls: plan.tls.as_ref().map(Tls::told),
            // What a workflow lets listen here it says itself.
            allowed: Allowed::default(),
        })
    }

    fn tell(&mut self, number: usize, line: &impl Serialize) -> Result<(), RunError> {
        let Some(running) = &mut self.workers[number] else {
            return Ok(());
        };
        let told = running.process.tell(line);
        told.map_err(|error| {
            RunError::new(format!("function `{}`: {error}", self.functions[number].0))
        })
    }
}

impl Workers for Processes {
    fn start(&mut self, addresses: &[Option<String>]) -> Result<(), RunError> {
        let numbers: HashMap<_, _> = self
            .functions
            .iter()
            .enumerate()
            .map(|(number, (name, _))| (name.clone(), number))
            .collect();
        let starts: Vec<Start> = self
            .functions
            .iter()
            .enumerate()
            .map(|(from, (_, successors))| {
                let address = |to: &String| {
                    let number = *numbers.get(to)?;
                    let listens = addresses.get(number)?.as_deref()?;
                    Some((to.clone(), self.remotes.route(from, number, listens)))
                };
                Start {
                    addresses: successors.iter().filter_map(address).collect(),
                }
            })
            .collect();
        self.remotes.start(&starts);
        for (number, start) in starts.iter().enumerate() {
            self.tell(number, start)?;
        }
        Ok(())
    }

    fn finish(&mut self) {
        for running in self.workers.iter_mut().flatten() {
            running.process.join();
        }
        self.remotes.finish();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for mut running in self.workers.drain(..).flatten() {
            running.process.kill();
            if let Some(socket) = &running.socket {
                remove_if_deserted(socket);
            }
        }
    }
}

/// Writes all of it, as the reader makes room, or fails at the deadline.
fn write_by(pipe: &mut ChildStdin, mut text: &[u8], deadline: Deadline) -> io::Result<()> {
    // Of this end alone.
    fcntl(
        &*pipe,
        FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_WRONLY),
    )?;
    while !text.is_empty() {
        match pipe.write(text) {
            Ok(count) => text = &text[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.remaining().ok_or(io::ErrorKind::TimedOut)?;
                let left = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
                let mut pipe = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut pipe, left) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
fn follow(output: std::process::ChildStdout, child: &Mutex<Child>, report: &impl Fn(Event)) {
    let mut last_word = false;
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { break };
        let event = serde_json::from_str(&line).unwrap_or_else(|error| {
            Event::Failed(Failure::new(format!(
                "its process said {line:?}, which is no event: {error}"
            )))
        });
        last_word |= matches!(event, Event::Done | Event::Failed(_));
        report(event);
    }
    let status = child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    if !last_word {
        let failure = Failure::new(match status {
            Ok(status) => ending(status),
            Err(error) => format!("its process cannot be waited for: {error}"),
        });
        report(Event::Failed(failure));
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

#[cfg(test)]
mod tests {
    use super::super::NetworkMethod;
    use super::{
        io, write_by, Command, Deadline, Event, HashMap, Mode, Path, Plan, Processes, WorkerProcess,
    };
    use crate::workflow::Workflow;
    use roadrunner_mem::Policy;
    use std::time::Duration;

    /// More than a pipe has room for.
    static MUCH: [u8; 1 << 20] = [b'x'; 1 << 20];

    #[test]
    fn a_worker_that_reads_nothing_keeps_nobody() {
        let mut idle = Command::new("sleep");
        idle.arg("20");
        let mut worker = WorkerProcess::of(idle, |_| ()).expect("it starts");
        let input = worker.input.as_mut().expect("piped");
        let soon = Deadline::after(Duration::from_millis(50));
        let error = write_by(input, &MUCH, soon).expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_worker_that_is_slow_to_read_gets_all_of_it() {
        let mut slow = Command::new("sh");
        slow.args(["-c", "sleep 0.1; wc -c"]);
        let (say, said) = crossbeam_channel::unbounded();
        let report = move |event| drop(say.send(event));
        let mut worker = WorkerProcess::of(slow, report).expect("it starts");
        let mut input = worker.input.take().expect("piped");
        write_by(&mut input, &MUCH, Deadline::after(Duration::from_secs(60))).expect("it reads");
        drop(input);
        worker.join();
        let Ok(Event::Failed(failure)) = said.recv() else {
            panic!("it counts, which is no event");
        };
        let count = failure.told_of("f");
        assert!(
            count.contains(&format!("{:?}", MUCH.len().to_string())),
            "{count}"
        );
    }

    #[test]
    fn the_names_of_sockets_tell_nothing_of_the_secret() {
        let text = "[[function]]\nname = \"a\"\nmodule = \"m.wasm\"\n\
                    [[function]]\nname = \"b\"\nmodule = \"m.wasm\"\n\
                    [edges]\na = [\"b\"]\n";
        let workflow = Workflow::parse(Path::new("workflow.toml"), text).expect("a workflow");
        let plan = Plan {
            workflow: &workflow,
            modules: HashMap::new(),
            mode: Mode::Kernel,
            network_method: NetworkMethod::Auto,
            sessions: false,
            policy: Policy::default(),
            input: "input".into(),
            staging: "staging".into(),
            cache: None,
            deadline: Deadline::now(),
            secret: None,
            tls: None,
        };
        let (events, _inbox) = crossbeam_channel::bounded(1);
        let processes = Processes::open(&plan, &events).expect("random bytes");
        let secret = processes.remotes.secret();
        assert_eq!(secret.len(), 64);
        for spec in &workflow.functions {
            let ways = processes.ways(&plan, spec);
            for name in ways.near.values().chain([&ways.socket]) {
                // Up to seven digits in a row may be the same by chance.
                let told = (0..=56).find(|at| name.contains(&secret[*at..at + 8]));
                assert_eq!(told, None, "{name} tells a part of {secret}");
            }
        }
    }
}
