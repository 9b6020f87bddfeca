//! What workers have said, and what follows from it.

use super::coordinator::{Hop, Message, Options, Outcome, OutputFile, Plan, RunError, Workers};
use super::event::{method_name, Event, Failure};
use super::output::Staging;
use crate::function::text::tame;
use crate::function::LogLevel;
use crate::workflow::Workflow;
use crossbeam_channel::{select, Receiver};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long, after a failure that has its cause elsewhere, the coordinator waits to hear that cause.
const EXPLANATION: Duration = Duration::from_secs(1);
/// How long after the deadline workers get to say what they were waiting for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the workers have said so far.
pub(super) struct Ledger<'a> {
    workflow: &'a Workflow,
    addresses: Vec<Option<Option<String>>>,
    done: Vec<bool>,
    handled: Vec<Duration>,
    sending: HashMap<(String, String), VecDeque<u64>>,
    received: HashMap<(String, String), Vec<Event>>,
    outputs: Vec<Vec<(String, u64, String)>>,
    misuses: Vec<(String, String)>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(workflow: &'a Workflow) -> Self {
        let count = workflow.functions.len();
        Self {
            workflow,
            addresses: vec![None; count],
            done: vec![false; count],
            handled: vec![Duration::ZERO; count],
            sending: HashMap::new(),
            received: HashMap::new(),
            outputs: vec![Vec::new(); count],
            misuses: Vec::new(),
        }
    }

    fn name(&self, worker: usize) -> &'a str {
        &self.workflow.functions[worker].name
    }

    /// Hears from the workers until all are done or one has failed.
    pub(super) fn follow(
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
                        wait_until = wait_until.min(Instant::now() + EXPLANATION);
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
                    return Err(RunError::interrupted());
                }
                default(wait_until.saturating_duration_since(Instant::now())) => {
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

    /// Writes an event down, as far as one can be about this worker: it may come from a host that lies. True when this was
    /// the last worker to listen.
    fn note(&mut self, worker: usize, event: Event, options: &Options) -> bool {
        let name = self.name(worker).to_owned();
        match event {
            // Once: all others are told where to connect when the last one has said it.
            Event::Listening { address } if self.addresses[worker].is_none() => {
                self.addresses[worker] = Some(address);
                return self.addresses.iter().all(Option::is_some);
            }
            Event::Listening { .. } => {}
            Event::Sending { to, at } => {
                if self.workflow.functions[worker].successors.contains(&to) {
                    self.sending.entry((name, to)).or_default().push_back(at);
                }
            }
            Event::Received { ref from, .. } => {
                if self.workflow.functions[worker].predecessors.contains(from) {
                    let edge = (from.clone(), name);
                    self.received.entry(edge).or_default().push(event);
                }
            }
            Event::Handled { nanoseconds } => {
                self.handled[worker] += Duration::from_nanos(nanoseconds);
            }
            Event::Output {
                file,
                bytes,
                sha256,
            } => self.outputs[worker].push((file, bytes, sha256)),
            // A worker says so once.
            Event::Misused { what } => {
                if self.misuses.iter().all(|(other, _)| *other != name) {
                    let what = tame(&what);
                    (options.log)(&name, LogLevel::Warn, &format!("it {what}"));
                    self.misuses.push((name, what));
                }
            }
            Event::Log { level, text } => (options.log)(&name, level, &tame(&text)),
            Event::Done => self.done[worker] = true,
            // The caller's own.
            Event::Failed(_) => {}
        }
        false
    }

    /// The outputs to their place, and the account of the run.
    pub(super) fn settle(
        mut self,
        staging: Staging,
        duration: Duration,
    ) -> Result<Outcome, RunError> {
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
            misuses: self.misuses,
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
                            from_host: function.host.clone(),
                            to_host: self.workflow.function(to).and_then(|f| f.host.clone()),
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

#[cfg(test)]
mod tests {
    use super::{Event, Ledger, Options, Workflow};
    use crate::run::Mode;
    use std::path::Path;

    #[test]
    fn what_cannot_be_is_not_written_down() {
        let text = "[[function]]\nname = \"a\"\nmodule = \"m.wasm\"\n\
                    [[function]]\nname = \"b\"\nmodule = \"m.wasm\"\n\
                    [edges]\na = [\"b\"]\n";
        let workflow = Workflow::parse(Path::new("flow.toml"), text).expect("a workflow");
        let options = Options::new(Path::new("input"), Path::new("out"), Mode::Network);
        let mut ledger = Ledger::new(&workflow);
        let listening = |address: &str| Event::Listening {
            address: Some(address.to_owned()),
        };
        assert!(!ledger.note(0, listening("one"), &options));
        assert!(ledger.note(1, listening("other"), &options));
        assert!(!ledger.note(1, listening("another"), &options), "again");
        assert_eq!(ledger.addresses[1], Some(Some("other".to_owned())));
        for name in ["a", "b", "nobody"] {
            let to = name.to_owned();
            ledger.note(0, Event::Sending { to, at: 1 }, &options);
            let received = Event::Received {
                from: name.to_owned(),
                bytes: 1,
                method: 0,
                copies: 0,
                at: 2,
            };
            ledger.note(1, received, &options);
        }
        let edges = (ledger.sending.len(), ledger.received.len());
        assert_eq!(edges, (1, 1));
    }
}
