//! The other hosts of a run, as the host of the run sees them: a link to the `roadrunner serve` of each, over which its
//! workers get their tasks and say what happened.

mod errand;
mod heard;
mod order;

pub use errand::check_hosts;

use super::assignment::Start;
use super::control::{self, Control, Order};
use super::coordinator::{self, Plan, RunError};
use crate::workflow::{FunctionSpec, Workflow};
use crossbeam_channel::Sender;
use errand::Errand;
use order::order;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The other hosts of a run. Dropped, nothing of the run goes on there.
pub(crate) struct Remotes {
    /// What both ends of a link between two functions must know.
    secret: String,
    hosts: Vec<Remote>,
    /// By the number of the function: the place of its host in `hosts`.
    placed: Vec<Option<usize>>,
}

impl Remotes {
    /// Begins to talk with all of them, each on a thread of its own: what goes wrong there comes as an event.
    pub(crate) fn open(
        plan: &Plan<'_>,
        events: &Sender<coordinator::Message>,
    ) -> Result<Self, RunError> {
        let functions = &plan.workflow.functions;
        let addresses = plan.workflow.hosts();
        let run = random()?;
        let (secret, told) = match &plan.secret {
            Some(secret) => {
                let derived = secret
                    .derive(run.as_bytes())
                    .map_err(|error| RunError::new(error.to_string()))?;
                (hexadecimal(&derived), None)
            }
            None => {
                let secret = random()?;
                (secret.clone(), Some(secret))
            }
        };
        let place = |spec: &FunctionSpec| {
            let host = spec.host.as_deref()?;
            addresses.iter().position(|address| *address == host)
        };
        let placed: Vec<_> = functions.iter().map(place).collect();
        let mut remotes = Self {
            secret,
            hosts: Vec::new(),
            placed,
        };
        let options = control::options(plan.secret.as_ref(), plan.tls.as_ref())
            .map_err(|error| RunError::new(error.to_string()))?;
        for (host, address) in addresses.iter().enumerate() {
            let numbers: Vec<_> = (0..functions.len())
                .filter(|number| remotes.placed[*number] == Some(host))
                .collect();
            let (order, modules) = order(plan, &run, told.clone(), &numbers)?;
            let outputs = numbers
                .iter()
                .map(|number| functions[*number].output.clone())
                .collect();
            let errand = Errand {
                address: (*address).to_owned(),
                options: options.clone(),
                is_encrypted: plan.tls.is_some(),
                order,
                modules,
                input: plan.input.clone(),
                staging: plan.staging.clone(),
                deadline: plan.deadline,
                names: numbers
                    .iter()
                    .map(|number| functions[*number].name.clone())
                    .collect(),
                outputs,
                numbers: numbers.clone(),
                events: events.clone(),
                state: Arc::default(),
            };
            let state = errand.state.clone();
            let thread = std::thread::Builder::new()
                .name(format!("host {address}"))
                .spawn(move || errand.run())
                .map_err(|error| RunError::new(format!("host {address}: no thread: {error}")))?;
            remotes.hosts.push(Remote {
                state,
                numbers,
                thread: Some(thread),
            });
        }
        Ok(remotes)
    }

    /// What both ends of a link between two functions must know.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// Where a function of this host has to listen so that its predecessors reach it.
    pub(crate) fn listening_address(&self, workflow: &Workflow, spec: &FunctionSpec) -> String {
        let from: Vec<_> = spec
            .predecessors
            .iter()
            .filter_map(|name| workflow.function(name)?.host.as_deref())
            .map(|host| host.parse::<SocketAddr>().map(|address| address.ip()))
            .collect();
        match from.as_slice() {
            [] => "127.0.0.1:0".to_owned(),
            [Ok(first), rest @ ..]
                if first.is_loopback() && rest.iter().all(|ip| ip.as_ref() == Ok(first)) =>
            {
                // Of all its addresses a host connects from the first one within itself.
                let own: IpAddr = match first {
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                SocketAddr::new(own, 0).to_string()
            }
            // Which of the own addresses a host reaches is known once it has been reached.
            _ if TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() => "[::]:0".to_owned(),
            _ => "0.0.0.0:0".to_owned(),
        }
    }

    /// The address at which function `from` reaches function `to`, which said that it listens at `listens`.
    pub(crate) fn route(&self, from: usize, to: usize, listens: &str) -> String {
        let Ok(said) = listens.parse::<SocketAddr>() else {
            return listens.to_owned();
        };
        let (from, to) = (self.placed[from], self.placed[to]);
        let ip = match (from, to) {
            _ if from == to => None,
            (_, Some(host)) => self.hosts[host].ends().map(|(there, _)| there.ip()),
            (Some(host), None) => self.hosts[host].ends().map(|(_, here)| here.ip()),
            (None, None) => None,
        };
        let ip = ip.unwrap_or(match said.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        });
        SocketAddr::new(ip.to_canonical(), said.port()).to_string()
    }

    /// All workers of the run listen: here is where the successors of each function are.
    pub(crate) fn start(&self, starts: &[Start]) {
        for host in &self.hosts {
            if let Some(control) = host.control() {
                let addresses = host
                    .numbers
                    .iter()
                    .map(|number| starts[*number].addresses.clone())
                    .collect();
                // Its thread finds out that the link is gone, and says so.
                let _ = control.say(&Order::Start { addresses });
            }
        }
    }

    /// All workers are done.
    pub(crate) fn finish(&mut self) {
        for host in &self.hosts {
            if let Some(control) = host.control() {
                control.close();
            }
        }
        self.hosts.clear();
    }
}

struct Remote {
    state: Arc<State>,
    /// Its functions' numbers, in the order of the workflow.
    numbers: Vec<usize>,
    thread: Option<JoinHandle<()>>,
}

impl Remote {
    fn control(&self) -> Option<Arc<Control>> {
        self.state.lock().control.clone()
    }

    /// The addresses of the link to it: there and here.
    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let control = self.control()?;
        Some((control.peer(), control.local().ok()?))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let mut progress = self.state.lock();
        progress.stopped = true;
        let Some(control) = progress.control.take() else {
            // It is still connecting, which nothing interrupts: the thread will see that it need not go on.
            return;
        };
        drop(progress);
        control.cut();
        if let Some(thread) = self.thread.take() {
            // Whatever it said, it said it as an event.
            let _ = thread.join();
        }
    }
}

/// How far a thread has come.
#[derive(Default)]
struct State(Mutex<Progress>);

#[derive(Default)]
struct Progress {
    control: Option<Arc<Control>>,
    stopped: bool,
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 32 random bytes in hexadecimal.
pub(super) fn random() -> Result<String, RunError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| RunError::new(format!("the system has no random bytes: {error}")))?;
    Ok(hexadecimal(&bytes))
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
