//! The other hosts of a run, as the host of the run sees them: a link to the `roadrunner serve` of each, over which its
//! workers get their tasks and say what happened.

use super::assignment::Start;
use super::control::{
    Clock, Control, FunctionOrder, Message, ModuleOrder, Order, RunOrder, Word, BEAT, INPUT, LIMIT,
    NAME, SILENCE,
};
use super::coordinator::{self, Plan, RunError};
use super::event::{monotonic_now, Event, Failure};
use super::worker::numbered;
use crate::module::MAX_MODULE;
use crate::workflow::{FunctionSpec, Workflow};
use crossbeam_channel::Sender;
use roadrunner_core::{Deadline, TransferError};
use roadrunner_splice as tcp;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a host may take to be there.
const CONNECT: Duration = Duration::from_secs(10);
/// Beats that set the clock, before there is anything else to do there.
const FIRST_BEATS: u32 = 5;
/// Bytes of an output at most: what a function can reply.
const MAX_OUTPUT: u64 = u32::MAX as u64;

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
        for (host, address) in addresses.iter().enumerate() {
            let numbers: Vec<_> = (0..functions.len())
                .filter(|number| remotes.placed[*number] == Some(host))
                .collect();
            let (order, modules) = order(plan, &run, told.clone(), &numbers)?;
            let outputs = numbers
                .iter()
                .map(|number| functions[*number].output.clone())
                .collect();
            let mut options = tcp::Options::default().limit(LIMIT);
            if let Some(secret) = &plan.secret {
                options = options.secret(secret.clone());
            }
            let errand = Errand {
                address: (*address).to_owned(),
                options,
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

/// What one host is to do, and where to its words go.
struct Errand {
    address: String,
    options: tcp::Options,
    order: RunOrder,
    /// The files of the order's modules.
    modules: Vec<PathBuf>,
    input: PathBuf,
    staging: PathBuf,
    deadline: Deadline,
    numbers: Vec<usize>,
    names: Vec<String>,
    outputs: Vec<Option<String>>,
    events: Sender<coordinator::Message>,
    state: Arc<State>,
}

impl Errand {
    fn run(self) {
        let mut heard = Heard::new(&self);
        let ended = self.converse(&mut heard);
        let stopped = self.state.lock().stopped;
        let missing = heard.done.iter().position(|done| !done);
        if let (Err(reason), Some(first), false) = (ended, missing, stopped) {
            let others = match heard.done.iter().filter(|done| !**done).count() - 1 {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            let failure = Failure::whole(format!(
                "host {}, where `{}`{others} should run: {reason}",
                self.address, self.names[first]
            ));
            // The coordinator may have given up and gone.
            let _ = self
                .events
                .send((self.numbers[first], Event::Failed(failure)));
        }
    }

    fn converse(&self, heard: &mut Heard<'_>) -> Result<(), String> {
        let by = self.deadline.min(Deadline::after(CONNECT));
        let link = tcp::connect(&self.address, NAME, &self.options, by)
            .map_err(|error| unreachable(&error))?;
        let control = Arc::new(Control::new(link).map_err(|error| error.to_string())?);
        {
            let mut progress = self.state.lock();
            if progress.stopped {
                return Ok(());
            }
            progress.control = Some(control.clone());
        }
        let wanted = self.introduce(&control)?;
        heard.set_clock(&control)?;
        self.supply(&control, &wanted)
            .map_err(|error| last_word(&control).unwrap_or_else(|| error.to_string()))?;
        self.follow(&control, heard)
    }

    /// Gives the order, and hears which modules are wanted.
    fn introduce(&self, control: &Control) -> Result<Vec<usize>, String> {
        control
            .say(&Order::Run(Box::new(self.order.clone())))
            .map_err(|error| error.to_string())?;
        match control.next(Instant::now() + SILENCE) {
            Ok(Some(Message::Said(Word::Welcome { send }))) => Ok(send),
            Ok(Some(Message::Said(Word::Refused { reason }))) => Err(reason),
            Ok(Some(other)) => Err(format!("it spoke out of turn: {other:?}")),
            Ok(None) => Err(silent()),
            Err(error) => Err(broken(&error)),
        }
    }

    /// Sends the modules that are wanted, and the input.
    fn supply(&self, control: &Control, wanted: &[usize]) -> Result<(), TransferError> {
        let file = |path: &Path| {
            File::open(path).map_err(|error| TransferError::Io {
                doing: "read what is to be sent",
                source: std::io::Error::new(error.kind(), format!("{}: {error}", path.display())),
            })
        };
        for &module in wanted {
            // The place comes from the other host.
            if let (Some(path), Some(order)) =
                (self.modules.get(module), self.order.modules.get(module))
            {
                control.stream(module, file(path)?, order.bytes)?;
            }
        }
        match self.order.input {
            Some(bytes) => control.stream(INPUT, file(&self.input)?, bytes),
            None => Ok(()),
        }
    }

    /// Hears what happens there, until the link ends.
    fn follow(&self, control: &Control, heard: &mut Heard<'_>) -> Result<(), String> {
        let mut last = Instant::now();
        let mut beat = last;
        loop {
            if Instant::now() >= beat {
                let at = monotonic_now();
                // If it is gone, so is what it said before: that is read first.
                let _ = control.say(&Order::Beat { at });
                beat = Instant::now() + BEAT;
            }
            match control.next(beat) {
                Ok(Some(Message::Said(word))) => {
                    last = Instant::now();
                    heard.word(word)?;
                }
                Ok(Some(Message::Piece(function, piece))) => {
                    last = Instant::now();
                    heard.piece(function, &piece)?;
                }
                Ok(None) if last.elapsed() > SILENCE => return Err(silent()),
                Ok(None) => {}
                Err(error) => return Err(broken(&error)),
            }
        }
    }
}

/// What one host has said.
struct Heard<'a> {
    errand: &'a Errand,
    clock: Clock,
    done: Vec<bool>,
    /// Outputs that are coming, by the place of their function.
    coming: HashMap<usize, Coming>,
    /// Outputs that have come, of each function.
    came: Vec<u32>,
}

struct Coming {
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: Sha256,
}

impl<'a> Heard<'a> {
    fn new(errand: &'a Errand) -> Self {
        let count = errand.numbers.len();
        Self {
            errand,
            clock: Clock::default(),
            done: vec![false; count],
            coming: HashMap::new(),
            came: vec![0; count],
        }
    }

    fn set_clock(&mut self, control: &Control) -> Result<(), String> {
        for _ in 0..FIRST_BEATS {
            let at = monotonic_now();
            control
                .say(&Order::Beat { at })
                .map_err(|error| broken(&error))?;
            match control.next(Instant::now() + SILENCE) {
                Ok(Some(Message::Said(word))) => self.word(word)?,
                Ok(Some(Message::Piece(..))) => return Err("it spoke out of turn".to_owned()),
                Ok(None) => return Err(silent()),
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(())
    }

    fn word(&mut self, word: Word) -> Result<(), String> {
        match word {
            Word::Beat { echo, at } => self.clock.note(echo, at, monotonic_now()),
            Word::Refused { reason } => return Err(reason),
            Word::Welcome { .. } => return Err("it welcomed the run twice".to_owned()),
            Word::Event { function, event } => {
                let Some(number) = self.errand.numbers.get(function) else {
                    return Err(format!(
                        "it spoke of function {function}, which it does not have"
                    ));
                };
                let event = self.here(function, event)?;
                // Nobody listens any more if the coordinator has given up.
                let _ = self.errand.events.send((*number, event));
            }
        }
        Ok(())
    }

    /// An event with times of this clock, and its output in the staging directory.
    fn here(&mut self, function: usize, event: Event) -> Result<Event, String> {
        Ok(match event {
            Event::Sending { to, at } => Event::Sending {
                to,
                at: self.clock.here(at),
            },
            Event::Received {
                from,
                bytes,
                method,
                copies,
                at,
            } => Event::Received {
                from,
                bytes,
                method,
                copies,
                at: self.clock.here(at),
            },
            Event::Output { bytes, sha256, .. } => self.output(function, bytes, &sha256)?,
            Event::Failed(failure) => {
                // Nothing follows from this one.
                self.done[function] = true;
                Event::Failed(failure.on_host(&self.errand.address))
            }
            Event::Done => {
                self.done[function] = true;
                Event::Done
            }
            event => event,
        })
    }

    fn piece(&mut self, function: usize, piece: &[u8]) -> Result<(), String> {
        let Some(Some(_)) = self.errand.outputs.get(function) else {
            return Err("it sent an output that there is not".to_owned());
        };
        let coming = self.coming(function)?;
        coming.bytes += piece.len() as u64;
        if coming.bytes > MAX_OUTPUT {
            return Err(format!(
                "an output of `{}` is longer than a reply can be",
                self.errand.names[function]
            ));
        }
        coming.hash.update(piece);
        let written = coming.file.write_all(piece);
        written.map_err(|error| format!("writing an output: {error}"))
    }

    /// The output of a function that is coming, from its beginning.
    fn coming(&mut self, function: usize) -> Result<&mut Coming, String> {
        use std::collections::hash_map::Entry;
        match self.coming.entry(function) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                // No name of an output begins with a dot.
                let name = format!(".coming-{}", self.errand.numbers[function]);
                let path = self.errand.staging.join(name);
                let file = File::create(&path)
                    .map_err(|error| format!("making {}: {error}", path.display()))?;
                Ok(entry.insert(Coming {
                    path,
                    file,
                    bytes: 0,
                    hash: Sha256::new(),
                }))
            }
        }
    }

    /// All of an output has come: under the name that it has here, whatever the other host calls it.
    fn output(&mut self, function: usize, bytes: u64, sha256: &str) -> Result<Event, String> {
        let Some(Some(output)) = self.errand.outputs.get(function) else {
            return Err("it sent an output that there is not".to_owned());
        };
        self.coming(function)?;
        let Some(coming) = self.coming.remove(&function) else {
            return Err("it sent no output".to_owned());
        };
        self.came[function] += 1;
        let file = numbered(output, self.came[function]);
        let came = hexadecimal(&coming.hash.finalize());
        if (coming.bytes, came.as_str()) != (bytes, sha256) {
            return Err(format!(
                "the output {file} came with {} bytes of SHA-256 {came} and should have {bytes} of {sha256}",
                coming.bytes
            ));
        }
        std::fs::rename(&coming.path, self.errand.staging.join(&file))
            .map_err(|error| format!("writing the output {file}: {error}"))?;
        Ok(Event::Output {
            file,
            bytes,
            sha256: came,
        })
    }
}

fn unreachable(error: &TransferError) -> String {
    match error {
        TransferError::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => {
            format!("{source}; is `roadrunner serve` running there, and does a firewall let it through?")
        }
        TransferError::Refused(_) => format!(
            "{error} (its secret comes from --secret-file, or from the variable ROADRUNNER_SECRET)"
        ),
        _ => error.to_string(),
    }
}

fn silent() -> String {
    format!(
        "nothing was heard from it for {} s: the host or the network between is down, or far too busy",
        SILENCE.as_secs()
    )
}

fn broken(error: &TransferError) -> String {
    match error {
        TransferError::Closed | TransferError::PeerClosed | TransferError::Truncated { .. } => {
            "its `roadrunner serve` ended the run, or was ended; see what it printed".to_owned()
        }
        other => format!("the link to it failed: {other}"),
    }
}

/// Why the other side does not listen any more, if it said so.
fn last_word(control: &Control) -> Option<String> {
    match control.next(Instant::now() + Duration::from_secs(1)) {
        Ok(Some(Message::Said(Word::Refused { reason }))) => Some(reason),
        _ => None,
    }
}

/// Asks every other host of a workflow whether it would take a run now.
///
/// # Errors
/// What is wrong with those where something is.
pub fn check_hosts(workflow: &Workflow, secret: Option<&tcp::Secret>) -> Result<(), RunError> {
    let mut options = tcp::Options::default().limit(LIMIT);
    if let Some(secret) = secret {
        options = options.secret(secret.clone());
    }
    let ask = |address: &str| -> Result<(), String> {
        let link = tcp::connect(address, NAME, &options, Deadline::after(CONNECT))
            .map_err(|error| unreachable(&error))?;
        let control = Control::new(link).map_err(|error| error.to_string())?;
        control.say(&Order::Ask).map_err(|error| broken(&error))?;
        let answer = control.next(Instant::now() + SILENCE);
        control.close();
        match answer {
            Ok(Some(Message::Said(Word::Welcome { .. }))) => Ok(()),
            Ok(Some(Message::Said(Word::Refused { reason }))) => Err(reason),
            Ok(Some(other)) => Err(format!("it spoke out of turn: {other:?}")),
            Ok(None) => Err(silent()),
            Err(error) => Err(broken(&error)),
        }
    };
    let hosts = workflow.hosts();
    let problems: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = hosts
            .iter()
            .map(|host| {
                let thread = std::thread::Builder::new().spawn_scoped(scope, || ask(host));
                (host, thread)
            })
            .collect();
        asking
            .into_iter()
            // Where there is no thread for it, one after the other.
            .map(|(host, thread)| (host, thread.map_or_else(|_| Ok(ask(host)), |it| it.join())))
            .filter_map(|(host, asked)| match asked {
                Ok(Ok(())) => None,
                Ok(Err(reason)) => Some(format!("host {host}: {reason}")),
                Err(_) => Some(format!("host {host}: asking it panicked")),
            })
            .collect()
    });
    if problems.is_empty() {
        Ok(())
    } else {
        Err(RunError::new(problems.join("\n")))
    }
}

/// What a host is asked to do, and the files of the modules in it.
fn order(
    plan: &Plan<'_>,
    run: &str,
    secret: Option<String>,
    numbers: &[usize],
) -> Result<(RunOrder, Vec<PathBuf>), RunError> {
    let specs = numbers.iter().map(|n| &plan.workflow.functions[*n]);
    let mut places: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut modules = Vec::new();
    let mut files = Vec::new();
    let mut functions = Vec::new();
    let mut input = false;
    for spec in specs {
        let module = match places.get(spec.module.as_path()) {
            Some(place) => *place,
            None => {
                modules.push(module(&spec.module)?);
                files.push(spec.module.clone());
                places.insert(&spec.module, modules.len() - 1);
                modules.len() - 1
            }
        };
        input |= spec.predecessors.is_empty();
        functions.push(FunctionOrder {
            name: spec.name.clone(),
            module,
            env: spec.env.clone(),
            max_pages: spec.max_pages,
            predecessors: spec.predecessors.clone(),
            successors: spec.successors.clone(),
            output: spec.output.clone(),
        });
    }
    let input = input
        .then(|| std::fs::metadata(&plan.input).map(|metadata| metadata.len()))
        .transpose()
        .map_err(|error| RunError::new(format!("input {}: {error}", plan.input.display())))?;
    let left = plan.deadline.remaining().unwrap_or_default();
    let order = RunOrder {
        run: run.to_owned(),
        secret,
        functions,
        modules,
        input,
        network_method: plan.network_method,
        sessions: plan.sessions,
        milliseconds_left: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
    };
    Ok((order, files))
}

fn module(path: &Path) -> Result<ModuleOrder, RunError> {
    let failed = |reason: String| RunError::new(format!("module {}: {reason}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > MAX_MODULE {
        return Err(failed(format!(
            "is {} bytes long; a module has at most {MAX_MODULE}",
            bytes.len()
        )));
    }
    Ok(ModuleOrder {
        name: path.display().to_string(),
        text: path.extension().is_some_and(|extension| extension == "wat"),
        bytes: bytes.len() as u64,
        sha256: hexadecimal(&Sha256::digest(&bytes)),
    })
}

/// 32 random bytes in hexadecimal.
fn random() -> Result<String, RunError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| RunError::new(format!("the system has no random bytes: {error}")))?;
    Ok(hexadecimal(&bytes))
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
