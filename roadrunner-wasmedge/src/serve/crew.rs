//! The workers of one run on this host.

use super::{base_name, Shared};
use crate::run::assignment::{Assignment, Start, Work};
use crate::run::control::{Control, FunctionOrder, ModuleOrder, Word};
use crate::run::event::{Event, Failure};
use crate::run::gate::{socket_of, Allowed, Far, Ways};
use crate::run::process::WorkerProcess;
use crate::run::ration::Ration;
use crate::run::worker::Task;
use crate::run::{NetworkMethod, Tls};
use roadrunner_core::Deadline;
use std::collections::HashMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex, MutexGuard, PoisonError};

/// What the workers are started from.
pub(super) struct Plan {
    pub(super) functions: Vec<FunctionOrder>,
    pub(super) modules: Vec<(ModuleOrder, PathBuf)>,
    pub(super) input: PathBuf,
    pub(super) staging: PathBuf,
    pub(super) secret: String,
    /// What the UNIX sockets of the run are named after: nobody else can know it before they are there.
    pub(super) tag: String,
    pub(super) network_method: NetworkMethod,
    pub(super) sessions: bool,
    pub(super) deadline: Deadline,
    /// The address of this host that the run reached it at.
    pub(super) ip: IpAddr,
}

impl Plan {
    /// The neighbours of a function that run here, too, and the addresses of their sockets.
    fn near(&self, order: &FunctionOrder) -> HashMap<String, String> {
        let neighbours = order.neighbours();
        neighbours
            .filter(|name| self.functions.iter().any(|one| one.name == **name))
            .map(|name| (name.clone(), socket_of(&self.tag, name)))
            .collect()
    }
}

/// The worker processes. Dropped or stopped, they are gone.
pub(super) struct Crew {
    control: Arc<Control>,
    state: Mutex<State>,
    /// Workers that have not said that they are done.
    left: AtomicUsize,
}

#[derive(Default)]
struct State {
    stopped: bool,
    /// By the place of their function.
    workers: Vec<WorkerProcess>,
    preparing: Vec<WorkerProcess>,
}

impl Crew {
    pub(super) fn new(control: Arc<Control>, functions: usize) -> Arc<Self> {
        Arc::new(Self {
            control,
            state: Mutex::default(),
            left: AtomicUsize::new(functions),
        })
    }

    /// Compiles the modules, then starts the workers. What goes wrong is told as an event.
    pub(super) fn assemble(self: &Arc<Self>, plan: &Plan, shared: &Shared) {
        let assembled = self
            .prepare(plan, shared)
            .and_then(|()| self.start_workers(plan, shared));
        if let Err((function, failure)) = assembled {
            self.tell(function, Event::Failed(failure));
        }
    }

    /// All workers of the run listen.
    pub(super) fn start(&self, addresses: Vec<HashMap<String, String>>) {
        let mut state = self.state();
        let workers = state.workers.iter_mut().zip(addresses).enumerate();
        for (number, (worker, addresses)) in workers {
            if let Err(error) = worker.tell(&Start { addresses }) {
                return self.tell(number, Event::Failed(Failure::new(error.to_string())));
            }
        }
    }

    /// Whether every worker has said that it is done.
    pub(super) fn is_done(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// Ends all processes, and lets none start.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        let mut all: Vec<_> = state.preparing.drain(..).collect();
        all.append(&mut state.workers);
        drop(state);
        // All at once, then one after the other: what they still have to say has nowhere to go.
        for process in &mut all {
            process.kill();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, function: usize, event: Event) {
        // The session finds out that the link is gone.
        let _ = self.control.say(&Word::Event { function, event });
    }

    /// Passes on what a worker says: an output first, as a stream.
    fn relay(&self, function: usize, event: Event, staging: &Path) {
        if let Event::Output { file, bytes, .. } = &event {
            // A plain name, whatever the worker says.
            let path = staging.join(Path::new(file).file_name().unwrap_or_default());
            let sent = File::open(&path)
                .map_err(|error| error.to_string())
                .and_then(|source| {
                    self.control
                        .stream(function, source, *bytes)
                        .map_err(|error| error.to_string())
                });
            // Sent or not, nobody else wants it.
            let _ = std::fs::remove_file(&path);
            if let Err(error) = sent {
                let failure = Failure::new(format!("sending the output {file}: {error}"));
                return self.tell(function, Event::Failed(failure));
            }
        }
        let done = matches!(event, Event::Done);
        self.tell(function, event);
        if done {
            self.left.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Compiles what has not been compiled yet, each module in a process of its own, a few at a time.
    fn prepare(&self, plan: &Plan, shared: &Shared) -> Result<(), (usize, Failure)> {
        let known = |sha256: &str| {
            let prepared = shared.prepared.lock();
            prepared
                .unwrap_or_else(PoisonError::into_inner)
                .contains(sha256)
        };
        let missing: Vec<_> = (0..plan.modules.len())
            .filter(|module| !known(&plan.modules[*module].0.sha256))
            .collect();
        let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
        for few in missing.chunks(at_a_time) {
            let (report, reports) = mpsc::channel();
            for &module in few {
                let report = report.clone();
                let path = plan.modules[module].1.clone();
                let assignment = Assignment::Prepare {
                    module: path.clone(),
                    cache: shared.options.cache.clone(),
                };
                // Nobody waits any more if the run has been stopped.
                let told = move |event| drop(report.send((module, event)));
                self.spawn("compile", &assignment, told, |state| &mut state.preparing)
                    .map_err(|failure| (function_of(plan, module), failure))?;
            }
            drop(report);
            let mut good = 0;
            for (module, event) in reports {
                let (order, path) = &plan.modules[module];
                match event {
                    Event::Failed(failure) => {
                        let failure = failure.calling(&path.display().to_string(), &order.name);
                        return Err((function_of(plan, module), failure));
                    }
                    Event::Done => {
                        good += 1;
                        shared
                            .prepared
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(order.sha256.clone());
                    }
                    _ => {}
                }
            }
            if good < few.len() {
                // Stopped: there is nobody left to tell.
                return Err((0, Failure::new("the run was stopped")));
            }
            self.state().preparing.clear();
        }
        Ok(())
    }

    fn start_workers(
        self: &Arc<Self>,
        plan: &Plan,
        shared: &Shared,
    ) -> Result<(), (usize, Failure)> {
        for (number, order) in plan.functions.iter().enumerate() {
            let limit = shared.options.max_pages;
            let near = plan.near(order);
            let task = Task {
                name: order.name.clone(),
                module: plan.modules[order.module].1.clone(),
                env: order.env.clone(),
                max_pages: order.max_pages.map_or(limit, |pages| {
                    Some(limit.map_or(pages, |limit| limit.min(pages)))
                }),
                predecessors: order.predecessors.clone(),
                successors: order.successors.clone(),
                input: order.predecessors.is_empty().then(|| plan.input.clone()),
                output: order.output.clone(),
                slots: !near.is_empty(),
                huge_pages: true,
                trusted: Vec::new(),
                staging: plan.staging.clone(),
            };
            let socket = socket_of(&plan.tag, &order.name);
            let ways = Ways::new(socket, near, order.neighbours(), || Far {
                address: SocketAddr::new(plan.ip, 0).to_string(),
                method: plan.network_method,
                sessions: plan.sessions,
                secret: plan.secret.clone(),
                tls: shared.options.tls.as_ref().map(Tls::told),
                allowed: Allowed {
                    ports: shared.options.ports.clone(),
                    memory: Some(Ration {
                        directory: shared.place.ledger(),
                        all: shared.options.memory,
                        each: shared.options.memory_each.unwrap_or(shared.options.memory),
                    }),
                },
            });
            let work = Work::new(task, ways, shared.options.cache.clone(), plan.deadline);
            let assignment = Assignment::Work(Box::new(work));
            let (crew, staging) = (Arc::downgrade(self), plan.staging.clone());
            let relay = move |event| {
                if let Some(crew) = crew.upgrade() {
                    crew.relay(number, event, &staging);
                }
            };
            self.spawn(&order.name, &assignment, relay, |state| &mut state.workers)
                .map_err(|failure| (number, failure))?;
        }
        Ok(())
    }

    /// Starts a process, unless the run has been stopped.
    fn spawn(
        &self,
        name: &str,
        assignment: &Assignment,
        report: impl Fn(Event) + Send + 'static,
        into: impl FnOnce(&mut State) -> &mut Vec<WorkerProcess>,
    ) -> Result<(), Failure> {
        let stopped = || Failure::new("the run was stopped");
        if self.state().stopped {
            return Err(stopped());
        }
        let mut process = WorkerProcess::spawn(name, report)
            .map_err(|error| Failure::new(format!("no process: {error}")))?;
        // It may take its time to read that. Whoever stops the run has not to wait for it.
        let told = process.tell(assignment);
        let mut state = self.state();
        if state.stopped {
            return Err(stopped());
        }
        // Also one that was told nothing: its end is no news before the reason is.
        into(&mut state).push(process);
        told.map_err(|error| Failure::new(error.to_string()))
    }
}

/// The first function that has this module.
fn function_of(plan: &Plan, module: usize) -> usize {
    plan.functions
        .iter()
        .position(|function| function.module == module)
        .unwrap_or_default()
}

/// Where a module that is sent is put: under the name that it had, so that messages can be read.
pub(super) fn module_path(room: &Path, number: usize, order: &ModuleOrder) -> PathBuf {
    let stem = Path::new(base_name(&order.name))
        .file_stem()
        .and_then(|stem| stem.to_str())
        .filter(|stem| !stem.starts_with('.'))
        .unwrap_or("module");
    let extension = if order.text { "wat" } else { "wasm" };
    room.join(format!("{number}-{stem}.{extension}"))
}
