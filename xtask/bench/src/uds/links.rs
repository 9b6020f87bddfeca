//! Messages over many links of one listener, and over one.

use super::part::Task;
use super::places::Places;
use super::ways::ours::deadline;
use crate::bench::{Bench, Experiment};
use crate::clock;
use crate::measure::{Candidate, Watch};
use crate::payload::Pattern;
use crate::peer::{Control, Peer};
use crate::results::{time, Ratio};
use crate::usage::{self, Cpu};
use anyhow::{bail, ensure, Context, Result};
use roadrunner_core::{Payload, Region, Sink, Transfer, TransferError};
use roadrunner_uds::{connect, Link, Listener, Options, Server, Service};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

const MESSAGE: u64 = 64 << 10;
const MANY: usize = 1000;
/// Messages that are on their way or not answered yet, over all links together.
const WINDOW: usize = 8;
/// What the other side answers: the number of the message.
const ANSWER: u64 = 8;
/// Places for messages on either side, however many links there are: the same memory is read and written.
const PLACES: usize = 1000;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let many = if bench.is_smoke() { 20 } else { MANY };
    bench.expect(1);
    let candidates = vec![candidate("1 link", 1), candidate("1000 links", many)];
    let measured = bench.measure(Experiment::new("uds.links", MESSAGE), candidates)?;
    let ratio = measured.ratio("1 link", "1000 links")?;
    let (one, all) = (measured.p50("1 link")?, measured.p50("1000 links")?);
    bench.ratio(
        Ratio::at_least("uds.links.1000", ratio, 0.8)
            .because(|| format!("a message takes {} instead of {}", time(all), time(one))),
    );
    Ok(())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Took {
    time: Duration,
    cpu: Cpu,
    peak: u64,
    method: String,
}

fn candidate(name: &'static str, links: usize) -> Candidate<'static> {
    Candidate::new(name, "uds", move || {
        let directory = tempfile::tempdir()?;
        let mut task = Task {
            way: String::new(),
            bytes: links as u64,
            directory: directory.path().to_owned(),
            address: String::new(),
        };
        let mut server = Peer::start("uds.links.server")?;
        server.control.say(&task)?;
        task.address = server.control.hear()?;
        let mut client = Peer::start("uds.links.client")?;
        client.control.say(&task)?;
        Ok(move |watch: &mut Watch| {
            // It lives as long as the links do.
            let _directory = &directory;
            let messages = 2 * PLACES as u64;
            client.control.say(&messages)?;
            let took: Took = client.control.hear().context("the client")?;
            server.control.say(&messages)?;
            let theirs: Took = server.control.hear().context("the server")?;
            watch.add_time(took.time);
            watch.add_cpu(took.cpu);
            watch.add_cpu(theirs.cpu);
            watch.add_peak(took.peak + theirs.peak);
            watch.delivered_by(&theirs.method, messages);
            // The server ends a link that brings other bytes, and does not answer.
            watch.verified_all(true, messages)
        })
    })
}

/// The peer `uds.links.server`: two threads for all links.
pub(super) fn server(control: &mut Control) -> Result<()> {
    let task: Task = control.hear()?;
    let address = task.directory.join("links").display().to_string();
    let listener = Listener::bind(address.parse()?, Options::default())?;
    let written = Arc::new(AtomicU64::new(0));
    let service = Answers {
        places: PLACES / task.bytes as usize,
        pattern: Pattern::new(),
        written: written.clone(),
    };
    let _server = Server::start(listener, 2, service)?;
    control.say(&address)?;
    let mut before = Cpu::of_process();
    let mut expected = 0;
    while let Some(messages) = control.hear_or_end::<u64>()? {
        expected += messages;
        ensure!(
            written.load(Ordering::Relaxed) == expected,
            "messages came that were not written"
        );
        let now = Cpu::of_process();
        control.say(&Took {
            time: Duration::ZERO,
            cpu: now - before,
            peak: usage::peak_rss()?,
            method: "write".to_owned(),
        })?;
        before = now;
    }
    Ok(())
}

/// Answers each message with its number.
struct Answers {
    /// For each link.
    places: usize,
    pattern: Pattern,
    /// Messages whose receipts say so.
    written: Arc<AtomicU64>,
}

struct Session {
    memory: Places,
    answer: Places,
    /// An answer that is not out yet.
    due: Option<Region>,
}

impl Service<Link> for Answers {
    type Session = Session;

    fn opened(&self, _link: &Link) -> Option<Session> {
        Some(Session {
            memory: Places::new(MESSAGE, self.places).ok()?,
            answer: Places::new(ANSWER, 1).ok()?,
            due: None,
        })
    }

    fn ready(&self, session: &mut Session, link: &mut Link) -> Result<(), TransferError> {
        for _ in 0..WINDOW {
            if let Some(due) = session.due {
                let payload = Payload::kept(session.answer.memory(), due)?;
                if link.try_send(payload)?.is_none() {
                    return Ok(());
                }
                session.answer.release(due);
                session.due = None;
            }
            let Some(delivery) = link.try_recv(&mut session.memory)? else {
                return Ok(());
            };
            let region = delivery.region();
            let mut number = [0; ANSWER as usize];
            let (start, rest) = region
                .span(session.memory.memory())?
                .split_at(ANSWER as usize);
            start.copy_to_slice(&mut number);
            if !self.pattern.check(rest, u64::from_le_bytes(number)) {
                return Err(TransferError::Refused("other bytes were sent".to_owned()));
            }
            session.memory.release(region);
            if delivery.receipt().method() == roadrunner_core::Method::Write {
                self.written.fetch_add(1, Ordering::Relaxed);
            }
            let due = session.answer.reserve(ANSWER, 8)?;
            due.span(session.answer.memory())?.copy_from_slice(&number);
            session.due = Some(due);
        }
        Ok(())
    }

    fn ended(&self, _session: Session, _link: Link, why: TransferError) {
        if !matches!(why, TransferError::Closed | TransferError::PeerClosed) {
            eprintln!("a link ended: {why}");
        }
    }
}

/// The peer `uds.links.client`: sends over all links in turn, from one thread.
pub(super) fn client(control: &mut Control) -> Result<()> {
    let task: Task = control.hear()?;
    let address = task.address.parse()?;
    let mut links = Vec::new();
    for _ in 0..task.bytes {
        links.push(connect(&address, "bench", &Options::default(), deadline())?);
    }
    let pattern = Pattern::new();
    let mut memory = Places::new(MESSAGE, PLACES)?;
    let mut answers = Places::new(ANSWER, 1)?;
    let mut next = 0;
    while let Some(messages) = control.hear_or_end::<u64>()? {
        let (began, cpu) = (clock::now(), Cpu::of_process());
        let mut method = None;
        let end = next + messages;
        let mut answered = next;
        while answered < end {
            if next < end && next < answered + WINDOW as u64 {
                let link = turn(&mut links, next);
                method = Some(send(link, &mut memory, &pattern, next)?);
                next += 1;
                continue;
            }
            hear(turn(&mut links, answered), &mut answers, answered)?;
            answered += 1;
        }
        let Some(method) = method else {
            bail!("no message was sent")
        };
        control.say(&Took {
            time: clock::now() - began,
            cpu: Cpu::of_process() - cpu,
            peak: usage::peak_rss()?,
            method,
        })?;
    }
    Ok(())
}

fn turn(links: &mut [Link], number: u64) -> &mut Link {
    let at = number as usize % links.len();
    &mut links[at]
}

fn send(link: &mut Link, memory: &mut Places, pattern: &Pattern, number: u64) -> Result<String> {
    let region = memory.reserve(MESSAGE, 8)?;
    let (start, rest) = memory.span(region)?.split_at(ANSWER as usize);
    start.copy_from_slice(&number.to_le_bytes());
    pattern.fill(rest, number);
    let receipt = link.send(Payload::kept(memory.memory(), region)?, deadline())?;
    memory.release(region);
    Ok(receipt.method().name().to_owned())
}

fn hear(link: &mut Link, answers: &mut Places, number: u64) -> Result<()> {
    let delivery = link.recv(answers, deadline())?;
    let mut answer = [0; ANSWER as usize];
    answers.span(delivery.region())?.copy_to_slice(&mut answer);
    answers.release(delivery.region());
    ensure!(
        u64::from_le_bytes(answer) == number,
        "message {number} was answered as another"
    );
    Ok(())
}
