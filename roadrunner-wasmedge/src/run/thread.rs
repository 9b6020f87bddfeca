//! User mode: a thread per function, links in memory.

use super::coordinator::{Message, Plan, RunError, Workers};
use super::event::{Event, Failure};
use super::links::{Inlet, Inlets, Link};
use super::worker::{Emit, Task, Worker};
use crossbeam_channel::Sender;
use roadrunner_core::Deadline;
use roadrunner_mem::Audience;
use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The threads of a run. They end by themselves: when their work is done, when a neighbour is gone, or at the deadline.
pub(crate) struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    pub(crate) fn spawn(plan: &Plan<'_>, events: Sender<Message>) -> Result<Self, RunError> {
        let mut outlets: HashMap<String, Vec<(String, Link)>> = HashMap::new();
        let mut inlets: HashMap<String, Vec<Inlet>> = HashMap::new();
        for function in &plan.workflow.functions {
            for to in &function.successors {
                let (here, there) = Link::in_memory(function.trusted.contains(to), &plan.policy);
                let from = function.name.clone();
                outlets
                    .entry(from.clone())
                    .or_default()
                    .push((to.clone(), here));
                let inlet = Inlet::new(from, there);
                inlets.entry(to.clone()).or_default().push(inlet);
            }
        }
        let mut threads = Vec::new();
        for (number, spec) in plan.workflow.functions.iter().enumerate() {
            let task = Task::new(spec, plan);
            let module = plan.modules[spec.module.as_path()].clone();
            let inlets = inlets.remove(&spec.name).unwrap_or_default();
            let outlets = outlets.remove(&spec.name).unwrap_or_default();
            let events = events.clone();
            let deadline = plan.deadline;
            let thread = std::thread::Builder::new()
                .name(spec.name.clone())
                .spawn(move || {
                    // The coordinator may have given up and gone.
                    let emit: Emit = Arc::new(move |event| drop(events.send((number, event))));
                    let work = || work(&task, &module, inlets, outlets, deadline, &emit);
                    let ended = catch_unwind(AssertUnwindSafe(work))
                        .unwrap_or_else(|_| Err(Failure::new("its worker panicked")));
                    emit(match ended {
                        Ok(()) => Event::Done,
                        Err(failure) => Event::Failed(failure),
                    });
                })
                .map_err(|error| {
                    RunError::new(format!("function `{}`: no thread: {error}", spec.name))
                })?;
            threads.push(thread);
        }
        Ok(Self(threads))
    }
}

impl Workers for Threads {
    fn start(&mut self, _addresses: &[Option<String>]) -> Result<(), RunError> {
        Ok(())
    }

    fn finish(&mut self) {
        for thread in self.0.drain(..) {
            // Whatever it said, it said it as an event.
            let _ = thread.join();
        }
    }
}

fn work(
    task: &Task,
    module: &crate::module::Module,
    inlets: Vec<Inlet>,
    outlets: Vec<(String, Link)>,
    deadline: Deadline,
    emit: &Emit,
) -> Result<(), Failure> {
    // Nothing leaves the process.
    let function = task.instantiate(module, Audience::new(), emit)?;
    emit(Event::Listening { address: None });
    let worker = Worker {
        task,
        function,
        outlets,
        deadline,
        emit: emit.clone(),
    };
    worker.work(Inlets::new(inlets))
}
