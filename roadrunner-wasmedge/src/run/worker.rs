//! One function at work: payloads in, replies out, until every predecessor has finished.

use super::coordinator::Plan;
use super::event::{monotonic_now, Event, Failure};
use super::links::{Inlets, Link};
use super::Mode;
use crate::function::{Function, FunctionError, FunctionOptions, Given, Outbox, Reply, SendError};
use crate::module::Module;
use crate::workflow::FunctionSpec;
use roadrunner_core::memory::preferred_alignment;
use roadrunner_core::{Deadline, Payload, Region, Sink, TransferError};
use roadrunner_mem::Audience;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Bytes that move at a time between a file and a linear memory.
const CHUNK: usize = 64 << 10;

/// From so many successors and so many bytes on a reply that is no slot is copied into one for all of them, rather than
/// once for each but the last. 16 MiB, warm: 1.4 ms for three instead of 3.2, 1.3 for two instead of 1.9; of two,
/// however, one that works in place is better off with pages of its own.
const SHARED_BY: usize = 3;
const SHARED_FROM: u64 = 1 << 20;

/// What one worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) module: PathBuf,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) max_pages: Option<u32>,
    pub(crate) predecessors: Vec<String>,
    pub(crate) successors: Vec<String>,
    /// The file to begin with, if it has no predecessor.
    pub(crate) input: Option<PathBuf>,
    /// The name of its output, if it has no successor.
    pub(crate) output: Option<String>,
    /// Whether the function may have slots: they go from memory to memory within a host, and no other way.
    pub(crate) slots: bool,
    /// Whether huge pages are asked for in its memory.
    pub(crate) huge_pages: bool,
    /// Neighbours at edges that the workflow file trusts.
    pub(crate) trusted: Vec<String>,
    /// Where outputs go.
    pub(crate) staging: PathBuf,
}

impl Task {
    pub(crate) fn new(spec: &FunctionSpec, plan: &Plan<'_>) -> Self {
        Self {
            name: spec.name.clone(),
            module: spec.module.clone(),
            env: spec.env.clone(),
            max_pages: spec.max_pages,
            predecessors: spec.predecessors.clone(),
            successors: spec.successors.clone(),
            input: spec.predecessors.is_empty().then(|| plan.input.clone()),
            output: spec.output.clone(),
            slots: plan.mode != Mode::Network,
            huge_pages: plan.policy.huge_pages,
            trusted: plan.workflow.trusted_neighbours(&spec.name),
            staging: plan.staging.clone(),
        }
    }

    /// The function, ready to be called. If everything that it sends goes to all of its successors, they are the
    /// `audience`.
    pub(crate) fn instantiate(
        &self,
        module: &Module,
        audience: Audience,
        emit: &Emit,
    ) -> Result<Function, Failure> {
        let log = emit.clone();
        let all_get_all = self.successors.len() < 2 || !module.sends();
        let mut options = FunctionOptions::new(&self.name)
            .audience(all_get_all.then_some(audience))
            .huge_pages(self.huge_pages);
        if !self.slots {
            options = options.slots(None);
        }
        let options =
            options
                .env(self.env.clone())
                .max_pages(self.max_pages)
                .log(move |level, text| {
                    let text = text.to_owned();
                    log(Event::Log { level, text });
                });
        Function::new(module, options).map_err(|error| Failure::function(&error))
    }
}

/// Tells the coordinator.
pub(crate) type Emit = Arc<dyn Fn(Event) + Send + Sync>;

/// A function and its links.
pub(crate) struct Worker<'a> {
    pub(crate) task: &'a Task,
    pub(crate) function: Function,
    pub(crate) outlets: Vec<(String, Link)>,
    pub(crate) deadline: Deadline,
    pub(crate) emit: Emit,
}

impl Worker<'_> {
    /// Handles the input and whatever comes through `inlets`, then closes the links to the successors.
    pub(crate) fn work(mut self, inlets: Inlets) -> Result<(), Failure> {
        let ended = self.work_through(inlets);
        let misuse = self.function.misuse().filter(|misuse| !misuse.is_none());
        if let Some(misuse) = misuse {
            (self.emit)(Event::Misused {
                what: misuse.to_string(),
            });
        }
        ended
    }

    fn work_through(&mut self, mut inlets: Inlets) -> Result<(), Failure> {
        let mut outputs = 0;
        if let Some(input) = &self.task.input {
            let region = read_input(input, &mut self.function)?;
            self.handle(region, &mut outputs)?;
        }
        while let Some((from, delivery)) = inlets.next(&mut self.function, self.deadline)? {
            (self.emit)(Event::received(&from, delivery.receipt(), monotonic_now()));
            self.handle(delivery.region(), &mut outputs)?;
        }
        for (to, link) in &mut self.outlets {
            link.transfer()
                .close(self.deadline)
                .map_err(|error| Failure::on_link(&format!("finishing with `{to}`"), &error))?;
        }
        Ok(())
    }

    fn handle(&mut self, region: Region, outputs: &mut u32) -> Result<(), Failure> {
        let began = Instant::now();
        let mut outlets = Outlets {
            links: &mut self.outlets,
            deadline: self.deadline,
            emit: &self.emit,
            failed: None,
        };
        let handled = self.function.handle(region, &mut outlets, self.deadline);
        let failed_send = outlets.failed.take();
        let reply = match (handled, failed_send) {
            (Ok(reply), _) => reply,
            // The function failed because a send did: that one says more.
            (Err(FunctionError::Failed { .. }), Some(failure)) => return Err(failure),
            (Err(error), _) => return Err(Failure::function(&error)),
        };
        let nanoseconds = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        (self.emit)(Event::Handled { nanoseconds });
        let Reply::Region(region) = reply else {
            return Ok(());
        };
        if let Some(output) = &self.task.output {
            *outputs += 1;
            let file = numbered(output, *outputs);
            let event = write_output(&mut self.function, region, &self.task.staging, file)?;
            (self.emit)(event);
        }
        self.send_to_all(region)?;
        self.function
            .free(region)
            .map_err(|error| Failure::function(&error))
    }

    /// Sends a reply to every successor.
    fn send_to_all(&mut self, region: Region) -> Result<(), Failure> {
        if self.share_with_all(region)? {
            return Ok(());
        }
        let count = self.outlets.len();
        for at in 0..count {
            let mut outlets = Outlets {
                links: &mut self.outlets,
                deadline: self.deadline,
                emit: &self.emit,
                failed: None,
            };
            // The last one gets the pages themselves.
            let sent = if at + 1 == count {
                let given = self.function.given(region);
                given.and_then(|given| outlets.give_to(at, given))
            } else {
                let payload = Payload::kept(self.function.memory(), region);
                payload.and_then(|payload| outlets.send_to(at, payload))
            };
            sent.map_err(|error| failed_sending(&self.outlets[at].0, &error))?;
        }
        Ok(())
    }

    /// Shows a reply to all of several successors at once, where their links can and it is worth it; false if not.
    fn share_with_all(&mut self, region: Region) -> Result<bool, Failure> {
        let count = self.outlets.len();
        let by_slots = |(_, link): &mut (String, Link)| link.by_slots().is_some();
        if count < 2 || !self.outlets.iter_mut().all(by_slots) {
            return Ok(false);
        }
        let began = monotonic_now();
        let mut given = self
            .function
            .given(region)
            .map_err(|error| failed_sending(&self.outlets[0].0, &error))?;
        let worth_a_copy = count >= SHARED_BY && region.len() >= SHARED_FROM;
        if !given.is_slot() && !worth_a_copy {
            return Ok(false);
        }
        // Without room for it there are still the other ways.
        let Ok(payload) = given.share() else {
            return Ok(false);
        };
        for (at, (to, link)) in self.outlets.iter_mut().enumerate() {
            // Making it ready is the first one's time.
            let began = if at == 0 { began } else { monotonic_now() };
            if let Some(link) = link.by_slots() {
                link.send_shared(&payload, self.deadline)
                    .map_err(|error| failed_sending(to, &error))?;
            }
            (self.emit)(Event::Sending {
                to: to.clone(),
                at: began,
            });
        }
        Ok(true)
    }
}

fn failed_sending(to: &str, error: &TransferError) -> Failure {
    Failure::on_link(&format!("sending to `{to}`"), error)
}

/// The links to the successors, as the function sees them.
struct Outlets<'a> {
    links: &'a mut [(String, Link)],
    deadline: Deadline,
    emit: &'a Emit,
    /// The first send that failed, in case the function fails because of it.
    failed: Option<Failure>,
}

impl Outlets<'_> {
    fn send_to(&mut self, at: usize, payload: Payload<'_>) -> Result<(), TransferError> {
        let (to, link) = &mut self.links[at];
        let began = monotonic_now();
        link.transfer().send(payload, self.deadline)?;
        (self.emit)(Event::Sending {
            to: to.clone(),
            at: began,
        });
        Ok(())
    }

    fn give_to(&mut self, at: usize, mut given: Given<'_>) -> Result<(), TransferError> {
        let (to, link) = &mut self.links[at];
        let began = monotonic_now();
        match link.by_slots() {
            Some(link) => given.send(link, self.deadline)?,
            None => link.transfer().send(given.payload()?, self.deadline)?,
        };
        (self.emit)(Event::Sending {
            to: to.clone(),
            at: began,
        });
        Ok(())
    }

    fn find(&self, target: &str) -> Result<usize, SendError> {
        self.links
            .iter()
            .position(|(to, _)| to == target)
            .ok_or(SendError::UnknownTarget)
    }

    fn judge(&mut self, target: &str, sent: Result<(), TransferError>) -> Result<(), SendError> {
        sent.map_err(|error| {
            self.failed.get_or_insert(failed_sending(target, &error));
            error.into()
        })
    }
}

impl Outbox for Outlets<'_> {
    fn send(&mut self, target: &str, payload: Payload<'_>) -> Result<(), SendError> {
        let at = self.find(target)?;
        let sent = self.send_to(at, payload);
        self.judge(target, sent)
    }

    fn give(&mut self, target: &str, given: Given<'_>) -> Result<(), SendError> {
        let at = self.find(target)?;
        let sent = self.give_to(at, given);
        self.judge(target, sent)
    }
}

/// Reads a file into a buffer that the function allocates.
fn read_input(path: &Path, function: &mut Function) -> Result<Region, Failure> {
    let failed = |error: io::Error| Failure::new(format!("reading {}: {error}", path.display()));
    let refused =
        |error: TransferError| Failure::new(format!("taking in {}: {error}", path.display()));
    let changed = || {
        let path = path.display();
        Failure::new(format!(
            "reading {path}: it is not as long as it was said to be"
        ))
    };
    let mut file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let region = function
        .reserve(len, preferred_alignment(len))
        .map_err(refused)?;
    let mut span = region.span(function.memory()).map_err(refused)?;
    let mut chunk = vec![0; CHUNK];
    while !span.is_empty() {
        let wanted = span.len().min(CHUNK);
        file.read_exact(&mut chunk[..wanted])
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => changed(),
                _ => failed(error),
            })?;
        let copied = span.copy_from_slice(&chunk[..wanted]);
        span = span.split_at(copied).1;
    }
    // Also what has no length beforehand, such as a file of /proc.
    if file.read(&mut chunk).map_err(failed)? > 0 {
        return Err(changed());
    }
    Ok(region)
}

/// `picture.png`, `picture-2.png`, …
pub(crate) fn numbered(output: &str, number: u32) -> String {
    if number == 1 {
        return output.to_owned();
    }
    match output.rsplit_once('.') {
        Some((stem, extension)) => format!("{stem}-{number}.{extension}"),
        None => format!("{output}-{number}"),
    }
}

/// Writes a reply to the staging directory.
fn write_output(
    function: &mut Function,
    region: Region,
    staging: &Path,
    file: String,
) -> Result<Event, Failure> {
    let failed = |error: io::Error| Failure::new(format!("writing the output {file}: {error}"));
    let mut span = region
        .span(function.memory())
        .map_err(|error| Failure::transfer("writing the output", &error))?;
    let bytes = span.len() as u64;
    let mut out = File::create_new(staging.join(&file)).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    while !span.is_empty() {
        let copied = span.copy_to_slice(&mut chunk);
        out.write_all(&chunk[..copied]).map_err(failed)?;
        hash.update(&chunk[..copied]);
        span = span.split_at(copied).1;
    }
    let mut sha256 = String::new();
    for byte in hash.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(sha256, "{byte:02x}");
    }
    Ok(Event::Output {
        file,
        bytes,
        sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::numbered;

    #[test]
    fn a_second_output_does_not_replace_the_first() {
        assert_eq!(numbered("a.png", 1), "a.png");
        assert_eq!(numbered("a.png", 2), "a-2.png");
        assert_eq!(numbered("a", 3), "a-3");
    }
}
