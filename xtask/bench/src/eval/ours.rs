//! Roadrunner: two functions on WasmEdge, in each of the three modes.

use super::clocked::Clocked;
use super::hop::{Arrival, Departure, Receiving};
use crate::functions::{soon, Consumer, Modules, Producer};
use crate::measure::{Candidate, Watch};
use crate::peer::{Control, Peer};
use crate::usage::Watched;
use anyhow::{bail, Context, Result};
use roadrunner_core::{
    Deadline, Delivery, Payload, Receipt, Region, Sink, Transfer, TransferError,
};
use roadrunner_mem::{link, Audience, Policy, SlotTransfer};
use roadrunner_wasmedge::function::Function;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Where the two functions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
    User,
    Kernel,
    Network,
}

/// How far the functions and the operator go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Grade {
    /// The function has its payload anywhere.
    Any,
    /// The function writes into a buffer on loan.
    Loaned,
    /// And both functions are of one owner, whose workflow file says so.
    Trusted,
}

impl Mode {
    /// Those grades that make a difference.
    pub(super) fn grades(self) -> &'static [Grade] {
        match self {
            Self::User | Self::Kernel => &[Grade::Any, Grade::Loaned, Grade::Trusted],
            Self::Network => &[Grade::Any, Grade::Loaned],
        }
    }

    pub(super) fn name(self, grade: Grade) -> &'static str {
        match (self, grade) {
            (Self::User, Grade::Any) => "user",
            (Self::User, Grade::Loaned) => "user-loaned",
            (Self::User, Grade::Trusted) => "user-trusted",
            (Self::Kernel, Grade::Any) => "kernel",
            (Self::Kernel, Grade::Loaned) => "kernel-loaned",
            (Self::Kernel, Grade::Trusted) => "kernel-trusted",
            (Self::Network, Grade::Any) => "network",
            (Self::Network, Grade::Loaned | Grade::Trusted) => "network-loaned",
        }
    }
}

pub(super) fn candidate(mode: Mode, grade: Grade, bytes: u64, modules: &Modules) -> Candidate<'_> {
    Candidate::new(mode.name(grade), "roadrunner", move || {
        let (mut from, mut outlets, mut answers) = start(mode, grade, 1, modules)?;
        let (mut outlet, mut answers) = (outlets.remove(0), answers.remove(0));
        let mut watched = Watched::new(answers.process());
        let mut base = 0;
        Ok(move |watch: &mut Watch| {
            base += 1;
            watched.begin()?;
            let mut departure = Departure::begin();
            let reply = from.produce(bytes, base, grade != Grade::Any)?;
            departure.produced();
            outlet.send(&mut from.function, reply)?;
            departure.sent();
            from.function.free(reply)?;
            let arrival = answers.next()?;
            departure.tell(&arrival, watch);
            watched.end(watch)?;
            watch.verified(arrival.sum == sequence::expected(bytes, base))
        })
    })
}

/// A function that produces, and the ways to `count` functions that consume.
pub(super) fn start(
    mode: Mode,
    grade: Grade,
    count: u32,
    modules: &Modules,
) -> Result<(Producer, Vec<Outlet>, Vec<Answers>)> {
    // One for all, so that a segment that has been with any of them can go to any of them.
    let audience = Audience::new();
    let from = match mode {
        Mode::Kernel => Producer::for_audience(modules, audience)?,
        _ => Producer::new(modules)?,
    };
    let ways = match mode {
        Mode::User => in_process(grade, count, modules)?,
        _ => (0..count)
            .map(|_| between_processes(mode, grade, modules, audience))
            .collect::<Result<_>>()?,
    };
    let (outlets, answers) = ways.into_iter().unzip();
    Ok((from, outlets, answers))
}

/// A receiver waits for as long as the measurement may take; it ends with the link.
fn patient() -> Deadline {
    Deadline::after(Duration::from_secs(3600))
}

/// The sender's end of a link.
pub(super) enum Outlet {
    Memory(roadrunner_mem::Link),
    Unix(Box<roadrunner_uds::Link>),
    Tcp(Box<roadrunner_splice::Link>),
}

impl Outlet {
    /// To one receiver.
    fn send(&mut self, function: &mut Function, reply: Region) -> Result<Receipt, TransferError> {
        let mut given = function.given(reply)?;
        match self {
            Self::Memory(link) => given.send(link, soon()),
            Self::Unix(link) => given.send(link.as_mut(), soon()),
            Self::Tcp(link) => link.send(given.payload()?, soon()),
        }
    }

    /// To many, all in this process, or all in others of this host, or all elsewhere.
    pub(super) fn send_to_all(
        outlets: &mut [Self],
        function: &mut Function,
        reply: Region,
    ) -> Result<()> {
        // In one process, and between processes of one host, all of them see the same pages.
        let shared = match outlets.first() {
            Some(Self::Tcp(_)) | None => None,
            Some(Self::Memory(_) | Self::Unix(_)) => Some(function.given(reply)?.share()?),
        };
        for outlet in outlets {
            match (outlet, &shared) {
                (Self::Memory(link), Some(shared)) => link.send_shared(shared, soon())?,
                (Self::Unix(link), Some(shared)) => link.send_shared(shared, soon())?,
                (Self::Tcp(link), _) => {
                    link.send(Payload::kept(function.memory(), reply)?, soon())?
                }
                (Self::Memory(_) | Self::Unix(_), None) => bail!("not all receivers are alike"),
            };
        }
        Ok(())
    }
}

/// What the receiver's side says.
pub(super) enum Answers {
    Thread(mpsc::Receiver<Arrival>),
    Process(Box<Peer>),
}

impl Answers {
    pub(super) fn next(&mut self) -> Result<Arrival> {
        match self {
            Self::Thread(answers) => answers.recv().context("the receiver is gone"),
            Self::Process(peer) => peer.control.hear(),
        }
    }

    pub(super) fn process(&self) -> Option<u32> {
        match self {
            Self::Thread(_) => None,
            Self::Process(peer) => Some(peer.id()),
        }
    }
}

/// A function of this process, its link, and where its answers go.
type Served = (Consumer, roadrunner_mem::Link, mpsc::Sender<Arrival>);

/// Functions on as many threads as there are cores, each of which serves its share of them: a thread for each of a hundred
/// would have them wait for one another, and for cores that the scheduler leaves idle meanwhile. They end with the links.
fn in_process(grade: Grade, count: u32, modules: &Modules) -> Result<Vec<(Outlet, Answers)>> {
    let mut policy = Policy::default();
    policy.trusted = grade == Grade::Trusted;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut shares: Vec<Vec<Served>> = (0..cores).map(|_| Vec::new()).collect();
    let mut ways = Vec::new();
    for number in 0..count as usize {
        let (here, there) = link(policy.clone());
        let (say, answers) = mpsc::channel();
        shares[number % cores].push((Consumer::new(modules)?, there, say));
        ways.push((Outlet::Memory(here), Answers::Thread(answers)));
    }
    for share in shares.into_iter().filter(|share| !share.is_empty()) {
        thread::spawn(move || serve(share));
    }
    Ok(ways)
}

/// Each of them gets every payload, in the order of their links.
fn serve(mut share: Vec<Served>) {
    loop {
        for (to, link, say) in &mut share {
            let Ok(arrival) = receive_slot(to, link) else {
                return;
            };
            if say.send(arrival).is_err() {
                return;
            }
        }
    }
}

fn between_processes(
    mode: Mode,
    grade: Grade,
    modules: &Modules,
    audience: Audience,
) -> Result<(Outlet, Answers)> {
    let mut peer = Peer::start("eval.consume")?;
    peer.control
        .say(&(mode, grade, &modules.produce, &modules.consume))?;
    let address: String = peer.control.hear()?;
    let outlet = match mode {
        Mode::Network => {
            let options = roadrunner_splice::Options::default();
            let link = roadrunner_splice::connect(&address, "measured", &options, soon())?;
            Outlet::Tcp(Box::new(link))
        }
        _ => {
            let options = local(grade).audience(audience);
            let link = roadrunner_uds::connect(&address.parse()?, "measured", &options, soon())?;
            Outlet::Unix(Box::new(link))
        }
    };
    Ok((outlet, Answers::Process(Box::new(peer))))
}

fn local(grade: Grade) -> roadrunner_uds::Options {
    roadrunner_uds::Options::default()
        .slots(true)
        .trusted(grade == Grade::Trusted)
}

/// The next payload, by a link that may map it.
fn receive_slot(to: &mut Consumer, link: &mut impl SlotTransfer) -> Result<Arrival, TransferError> {
    let mut link = Clocked::new(link);
    let mut receiving = Receiving::begin();
    let delivery = to.function.receive(&mut link, patient())?;
    receiving.arrived(link.allocated);
    consumed(to, receiving, delivery)
}

/// The next payload, by any link.
fn receive(to: &mut Consumer, link: &mut impl Transfer) -> Result<Arrival, TransferError> {
    let mut link = Clocked::new(link);
    let mut receiving = Receiving::begin();
    let delivery = link.recv(&mut to.function, patient())?;
    receiving.arrived(link.allocated);
    consumed(to, receiving, delivery)
}

/// Lets `consume` have a payload that has arrived in its memory.
fn consumed(
    to: &mut Consumer,
    receiving: Receiving,
    delivery: Delivery,
) -> Result<Arrival, TransferError> {
    let sum = to.sum(delivery.region());
    let sum = sum.map_err(|error| TransferError::Sink(error.into()))?;
    Ok(receiving.consumed(sum, delivery.receipt().method().name()))
}

/// The peer that receives.
pub(super) fn consumer(control: &mut Control) -> Result<()> {
    let (mode, grade, produce, consume): (Mode, Grade, PathBuf, PathBuf) = control.hear()?;
    let mut to = Consumer::new(&Modules { produce, consume })?;
    match mode {
        Mode::Network => {
            let options = roadrunner_splice::Options::default();
            let mut listener = roadrunner_splice::Listener::bind("127.0.0.1:0", options)?;
            control.say(&listener.address().to_string())?;
            let mut link = listener.accept(soon())?;
            answer(control, || receive(&mut to, &mut link))
        }
        _ => {
            let address = format!("@roadrunner-bench-{}", std::process::id());
            let mut listener = roadrunner_uds::Listener::bind(address.parse()?, local(grade))?;
            control.say(&address)?;
            let mut link = listener.accept(soon())?;
            answer(control, || receive_slot(&mut to, &mut link))
        }
    }
}

fn answer(
    control: &mut Control,
    mut next: impl FnMut() -> Result<Arrival, TransferError>,
) -> Result<()> {
    loop {
        match next() {
            // The measurement is over.
            Err(TransferError::PeerClosed | TransferError::Closed) => return Ok(()),
            arrival => control.say(&arrival?)?,
        }
    }
}
