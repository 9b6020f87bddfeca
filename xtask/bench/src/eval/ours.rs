//! Roadrunner: two functions on WasmEdge, in each of the three modes.

use super::hop::{Arrival, Departure};
use crate::functions::{soon, Consumer, Modules, Producer};
use crate::measure::{Candidate, Watch};
use crate::peer::{Control, Peer};
use crate::uds::clock;
use crate::usage::Watched;
use anyhow::{Context, Result};
use roadrunner_core::{Deadline, Delivery, Method, Receipt, Region, Transfer, TransferError};
use roadrunner_mem::{link, Audience, Policy};
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

impl Mode {
    pub(super) const ALL: [Self; 3] = [Self::User, Self::Kernel, Self::Network];

    /// The candidate of functions that produce into buffers on loan, or into buffers of their own.
    pub(super) fn name(self, loan: bool) -> &'static str {
        match (self, loan) {
            (Self::User, true) => "user-loaned",
            (Self::User, false) => "user",
            (Self::Kernel, true) => "kernel-loaned",
            (Self::Kernel, false) => "kernel",
            (Self::Network, true) => "network-loaned",
            (Self::Network, false) => "network",
        }
    }
}

pub(super) fn candidate(mode: Mode, loan: bool, bytes: u64, modules: &Modules) -> Candidate<'_> {
    Candidate::new(mode.name(loan), "roadrunner", move || {
        let audience = Audience::new();
        let mut from = match mode {
            Mode::Kernel => Producer::for_audience(modules, audience)?,
            _ => Producer::new(modules)?,
        };
        let (mut outlet, mut answers) = match mode {
            Mode::User => in_process(modules)?,
            _ => between_processes(mode, modules, audience)?,
        };
        let mut watched = Watched::new(answers.process());
        let mut base = 0;
        Ok(move |watch: &mut Watch| {
            base += 1;
            watched.begin()?;
            let mut departure = Departure::now();
            let reply = from.produce(bytes, base, loan)?;
            departure.produced();
            outlet.send(&mut from.function, reply)?;
            from.function.free(reply)?;
            let arrival = answers.next()?;
            departure.tell(arrival, watch);
            watched.end(watch)?;
            let method = Method::from_code(arrival.method).context("no such method")?;
            watch.delivered(Receipt::new(bytes, method, arrival.copies));
            watch.verified(arrival.sum == sequence::expected(bytes, base))
        })
    })
}

/// Lets `consume` have a payload that has arrived in its memory.
fn consume(to: &mut Consumer, delivery: Delivery) -> Result<Arrival> {
    let arrived = clock::now();
    let sum = to.sum(delivery.region())?;
    Ok(Arrival {
        arrived,
        consumed: clock::now(),
        sum,
        method: delivery.receipt().method().code(),
        copies: delivery.receipt().copies(),
    })
}

/// A receiver waits for as long as the measurement may take; it ends with the link.
fn patient() -> Deadline {
    Deadline::after(Duration::from_secs(3600))
}

/// The sender's end of a link.
enum Outlet {
    Memory(roadrunner_mem::Link),
    Unix(Box<roadrunner_uds::Link>),
    Tcp(Box<roadrunner_splice::Link>),
}

impl Outlet {
    fn send(&mut self, function: &mut Function, reply: Region) -> Result<Receipt, TransferError> {
        let mut given = function.given(reply)?;
        match self {
            Self::Memory(link) => given.send(link, soon()),
            Self::Unix(link) => given.send(link.as_mut(), soon()),
            Self::Tcp(link) => link.send(given.payload()?, soon()),
        }
    }
}

/// What the receiver's side says.
enum Answers {
    Thread(mpsc::Receiver<Arrival>),
    Process(Box<Peer>),
}

impl Answers {
    fn next(&mut self) -> Result<Arrival> {
        match self {
            Self::Thread(answers) => answers.recv().context("the receiver is gone"),
            Self::Process(peer) => peer.control.hear(),
        }
    }

    fn process(&self) -> Option<u32> {
        match self {
            Self::Thread(_) => None,
            Self::Process(peer) => Some(peer.id()),
        }
    }
}

/// A function on a thread of its own, which ends with the link.
pub(super) fn consume_on_thread(
    modules: &Modules,
    mut link: roadrunner_mem::Link,
    say: mpsc::Sender<Arrival>,
) -> Result<()> {
    let mut to = Consumer::new(modules)?;
    thread::spawn(move || {
        while let Ok(delivery) = to.function.receive(&mut link, patient()) {
            match consume(&mut to, delivery) {
                Ok(arrival) if say.send(arrival).is_ok() => {}
                _ => return,
            }
        }
    });
    Ok(())
}

fn in_process(modules: &Modules) -> Result<(Outlet, Answers)> {
    let (here, there) = link(Policy::default());
    let (say, answers) = mpsc::channel();
    consume_on_thread(modules, there, say)?;
    Ok((Outlet::Memory(here), Answers::Thread(answers)))
}

fn between_processes(
    mode: Mode,
    modules: &Modules,
    audience: Audience,
) -> Result<(Outlet, Answers)> {
    let mut peer = Peer::start("eval.consume")?;
    peer.control
        .say(&(mode, &modules.produce, &modules.consume))?;
    let address: String = peer.control.hear()?;
    let outlet = match mode {
        Mode::Network => {
            let options = roadrunner_splice::Options::default();
            let link = roadrunner_splice::connect(&address, "measured", &options, soon())?;
            Outlet::Tcp(Box::new(link))
        }
        _ => {
            let options = roadrunner_uds::Options::default().audience(audience);
            let link = roadrunner_uds::connect(&address.parse()?, "measured", &options, soon())?;
            Outlet::Unix(Box::new(link))
        }
    };
    Ok((outlet, Answers::Process(Box::new(peer))))
}

/// The peer that receives.
pub(super) fn consumer(control: &mut Control) -> Result<()> {
    let (mode, produce, consume_module): (Mode, PathBuf, PathBuf) = control.hear()?;
    let mut to = Consumer::new(&Modules {
        produce,
        consume: consume_module,
    })?;
    match mode {
        Mode::Network => {
            let options = roadrunner_splice::Options::default();
            let mut listener = roadrunner_splice::Listener::bind("127.0.0.1:0", options)?;
            control.say(&listener.address().to_string())?;
            let mut link = listener.accept(soon())?;
            receive(control, &mut to, |to| {
                link.recv(&mut to.function, patient())
            })
        }
        _ => {
            let address = format!("@roadrunner-bench-{}", std::process::id());
            let options = roadrunner_uds::Options::default().slots(true);
            let mut listener = roadrunner_uds::Listener::bind(address.parse()?, options)?;
            control.say(&address)?;
            let mut link = listener.accept(soon())?;
            receive(control, &mut to, |to| {
                to.function.receive(&mut link, patient())
            })
        }
    }
}

fn receive(
    control: &mut Control,
    to: &mut Consumer,
    mut next: impl FnMut(&mut Consumer) -> Result<Delivery, TransferError>,
) -> Result<()> {
    loop {
        let delivery = match next(to) {
            // The measurement is over.
            Err(TransferError::PeerClosed | TransferError::Closed) => return Ok(()),
            received => received?,
        };
        let arrival = consume(to, delivery)?;
        control.say(&arrival)?;
    }
}
