//! One connection, and the run that it brings.

use super::crew::{module_path, Crew, Plan};
use super::Shared;
use crate::run::control::{
    Control, Message, ModuleOrder, Order, RunOrder, Word, INPUT, NAME, SILENCE,
};
use crate::run::event::monotonic_now;
use crate::run::hexadecimal;
use crate::workflow::{is_function_name, is_output_name};
use roadrunner_core::{Deadline, TransferError};
use roadrunner_splice::Link;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a host that has proved itself may take to say what it wants.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// How long after its deadline a run may take to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Serves a link on a thread of its own.
pub(super) fn begin(link: Link, shared: &Arc<Shared>) {
    if link.name() != NAME {
        let peer = link.wire().peer();
        let line = format!(
            "turned away: {peer} opened a link named {:?}, and this server speaks {NAME:?}: is it of the same version?",
            link.name()
        );
        return shared.log(&line);
    }
    let control = match Control::new(link) {
        Ok(control) => Arc::new(control),
        Err(error) => return shared.log(&format!("a connection failed at once: {error}")),
    };
    let peer = control.peer();
    let number = {
        let mut desk = shared.desk();
        if desk.connections.len() >= desk.running.len() + super::IDLE {
            // Dropped, and so cut. Its host has proved itself: it may try again.
            return;
        }
        desk.next += 1;
        let number = desk.next;
        desk.connections.insert(number, control.clone());
        number
    };
    let visit = Visit {
        number,
        shared: shared.clone(),
        control,
    };
    let started = std::thread::Builder::new()
        .name(format!("run {number}"))
        .spawn(move || visit.serve());
    if let Err(error) = started {
        // The visit has ended with what should have served it.
        shared.log(&format!(
            "turned away: {peer}: there is no thread for it: {error}"
        ));
    }
}

/// A connection that is at the desk; dropped, it is not any more.
struct Visit {
    number: u64,
    shared: Arc<Shared>,
    control: Arc<Control>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.control.cut();
        let mut desk = self.shared.desk();
        desk.connections.remove(&self.number);
        if desk.running.remove(&self.number) {
            desk.ended += 1;
        }
    }
}

impl Visit {
    fn serve(self) {
        let peer = self.control.peer();
        let order = match self.control.next(Instant::now() + FIRST_WORD) {
            Ok(Some(Message::Said(Order::Run(order)))) => order,
            Ok(Some(Message::Said(Order::Ask))) => return self.tell_whether_there_is_room(),
            Ok(Some(_)) => return self.refuse("its first message was no order to run functions"),
            Ok(None) => {
                return self.shared.log(&format!(
                    "{peer} connected and did not say what it wants within {} s",
                    FIRST_WORD.as_secs()
                ))
            }
            // It only looked whether somebody is here.
            Err(TransferError::Closed | TransferError::PeerClosed) => return,
            Err(error) => return self.shared.log(&format!("{peer}: {error}")),
        };
        let accepted = check(&order, &self.shared).and_then(|()| self.shared.begin(self.number));
        if let Err(reason) = accepted {
            return self.refuse(&reason);
        }
        let name = order.run[..8].to_owned();
        let functions: Vec<_> = order.functions.iter().map(|f| f.name.as_str()).collect();
        self.shared
            .log(&format!("run {name} from {peer}: {}", functions.join(", ")));
        let began = Instant::now();
        let ended = self.host(*order);
        let after = began.elapsed().as_secs_f64();
        self.shared.log(&match ended {
            Ok(()) => format!("run {name}: done after {after:.2} s"),
            Err(reason) => format!("run {name}: ended after {after:.2} s: {reason}"),
        });
    }

    fn tell_whether_there_is_room(&self) {
        let word = match self.shared.room_for_a_run() {
            Ok(()) => Word::Welcome { send: Vec::new() },
            Err(reason) => Word::Refused { reason },
        };
        if self.control.say(&word).is_ok() {
            self.hang_up();
        }
    }

    fn refuse(&self, reason: &str) {
        let peer = self.control.peer();
        self.shared.log(&format!("refused {peer}: {reason}"));
        let word = Word::Refused {
            reason: reason.to_owned(),
        };
        if self.control.say(&word).is_ok() {
            self.hang_up();
        }
    }

    /// Ends the link in order, once the other side has read what was said to it.
    fn hang_up(&self) {
        self.control.close();
        let until = Instant::now() + Duration::from_secs(2);
        // Whatever it still says, and however much of it.
        while Instant::now() < until && matches!(self.control.next::<Order>(until), Ok(Some(_))) {}
    }

    /// Hosts the run until it ends, and removes all of it.
    fn host(&self, order: RunOrder) -> Result<(), String> {
        let room = self
            .shared
            .place
            .room()
            .map_err(|error| format!("no directory: {error}"))
            .inspect_err(|reason| self.refuse(reason))?;
        let deadline = Deadline::after(Duration::from_millis(order.milliseconds_left));
        let plan = self
            .equip(order, room.path(), deadline)
            .inspect_err(|reason| self.refuse(reason))?;
        let crew = Crew::new(self.control.clone(), plan.functions.len());
        let builder = {
            let (crew, shared) = (crew.clone(), self.shared.clone());
            let assemble = move || crew.assemble(&plan, &shared);
            std::thread::Builder::new()
                .spawn(assemble)
                .map_err(|error| format!("no thread: {error}"))
                .inspect_err(|reason| self.refuse(reason))?
        };
        let ended = self.follow(&crew, deadline);
        self.control.cut();
        crew.stop();
        // It can start nothing any more.
        let _ = builder.join();
        let done = crew.is_done();
        // Last: nobody writes there any more.
        drop(room);
        match ended {
            _ if done => Ok(()),
            Ok(()) => Err("its `roadrunner run` ended it".to_owned()),
            Err(reason) => Err(reason),
        }
    }

    /// Says what is wanted, and takes it in.
    fn equip(&self, order: RunOrder, room: &Path, deadline: Deadline) -> Result<Plan, String> {
        let failed = |error: std::io::Error| format!("its directory failed: {error}");
        let staging = room.join("out");
        std::fs::create_dir(&staging).map_err(failed)?;
        let mut modules = Vec::new();
        let mut coming = BTreeMap::new();
        for (number, module) in order.modules.iter().enumerate() {
            let store = self.shared.store.as_ref();
            let path = match store.and_then(|store| store.find(&module.sha256)) {
                Some(path) => path,
                None => {
                    self.may_send(module)?;
                    let path = module_path(room, number, module);
                    coming.insert(number, Coming::new(&path, module.bytes).map_err(failed)?);
                    path
                }
            };
            modules.push((module.clone(), path));
        }
        let send: Vec<_> = coming.keys().copied().collect();
        let input = room.join("input");
        if let Some(bytes) = order.input {
            coming.insert(INPUT, Coming::new(&input, bytes).map_err(failed)?);
        }
        self.control
            .say(&Word::Welcome { send })
            .map_err(|error| error.to_string())?;
        self.take_in(&mut coming, deadline)?;
        for (number, came) in coming {
            let sha256 = hexadecimal(&came.hash.finalize());
            if let Some(module) = order.modules.get(number) {
                if module.sha256 != sha256 {
                    return Err(format!(
                        "the module {} came with the SHA-256 {sha256}, and not {}",
                        module.name, module.sha256
                    ));
                }
            }
        }
        let secret = match (&self.shared.options.secret, order.secret) {
            (Some(secret), None) => hexadecimal(
                &secret
                    .derive(order.run.as_bytes())
                    .map_err(|error| error.to_string())?,
            ),
            (_, secret) => secret.unwrap_or_default(),
        };
        let mut tag = [0_u8; 8];
        getrandom::fill(&mut tag)
            .map_err(|error| format!("the system has no random bytes: {error}"))?;
        Ok(Plan {
            functions: order.functions,
            modules,
            input,
            staging,
            secret,
            tag: hexadecimal(&tag),
            network_method: order.network_method,
            sessions: order.sessions,
            deadline,
            ip: self
                .control
                .local()
                .map_err(|error| error.to_string())?
                .ip(),
        })
    }

    fn may_send(&self, module: &ModuleOrder) -> Result<(), String> {
        let options = &self.shared.options;
        if options.sealed {
            return Err(format!(
                "the module {} (SHA-256 {}) is not among the {} that it has, and it runs no others; put it into its \
                 --modules directory",
                module.name,
                module.sha256,
                self.shared.store.as_ref().map_or(0, |store| store.len())
            ));
        }
        if module.bytes > options.max_module {
            return Err(format!(
                "the module {} is {} bytes long, and it takes {} (--max-module)",
                module.name, module.bytes, options.max_module
            ));
        }
        Ok(())
    }

    /// Takes in streams until all are whole.
    fn take_in(
        &self,
        coming: &mut BTreeMap<usize, Coming>,
        deadline: Deadline,
    ) -> Result<(), String> {
        let mut last = Instant::now();
        while coming.values().any(|coming| coming.left > 0) {
            if last.elapsed() > SILENCE {
                return Err("it stopped sending what it announced".to_owned());
            }
            if deadline.has_passed() {
                return Err("the deadline passed before all of it had come".to_owned());
            }
            match self.control.next(last + SILENCE) {
                Ok(Some(Message::Piece(number, piece))) => {
                    last = Instant::now();
                    let stream = coming
                        .get_mut(&number)
                        .ok_or_else(|| format!("it sent a stream {number} that nobody wants"))?;
                    stream.take(&piece)?;
                }
                Ok(Some(Message::Said(Order::Beat { at }))) => {
                    last = Instant::now();
                    self.answer(at);
                }
                Ok(Some(_)) => return Err("it spoke out of turn".to_owned()),
                Ok(None) => {}
                Err(error) => return Err(gone(&error)),
            }
        }
        Ok(())
    }

    /// Does as it is told, until the run is over, the link ends, or nothing is heard any more.
    fn follow(&self, crew: &Crew, deadline: Deadline) -> Result<(), String> {
        let end = deadline.instant() + LAST_WORDS;
        let mut last = Instant::now();
        let mut started = false;
        loop {
            let said = self.control.next(end.min(last + SILENCE));
            // Also for one that never stops talking.
            if Instant::now() >= end {
                return Err("its deadline passed".to_owned());
            }
            match said {
                Ok(Some(Message::Said(order))) => {
                    last = Instant::now();
                    match order {
                        Order::Beat { at } => self.answer(at),
                        // Once: a worker reads no more of what it is told, and would keep who tells it.
                        Order::Start { .. } if started => {
                            return Err("it ordered a second start".to_owned())
                        }
                        Order::Start { addresses } => {
                            started = true;
                            crew.start(addresses);
                        }
                        Order::Run(_) | Order::Ask => {
                            return Err("it ordered a second run".to_owned())
                        }
                    }
                }
                Ok(Some(Message::Piece(..))) => return Err("it sent what nobody wants".to_owned()),
                Ok(None) => {
                    return Err(format!(
                        "nothing was heard from its `roadrunner run` for {} s",
                        SILENCE.as_secs()
                    ))
                }
                Err(TransferError::Closed) => return Ok(()),
                Err(error) => return Err(gone(&error)),
            }
        }
    }

    fn answer(&self, echo: u64) {
        let at = monotonic_now();
        // If it is gone, so is what comes from it: that is found out by the next look.
        let _ = self.control.say(&Word::Beat { echo, at });
    }
}

fn gone(error: &TransferError) -> String {
    match error {
        TransferError::Closed | TransferError::PeerClosed | TransferError::Truncated { .. } => {
            "its `roadrunner run` went away, or its connection was cut".to_owned()
        }
        TransferError::Broken => "it was cut".to_owned(),
        other => format!("the link to its `roadrunner run` failed: {other}"),
    }
}

/// A stream that goes into a file.
struct Coming {
    file: File,
    left: u64,
    hash: Sha256,
}

impl Coming {
    fn new(path: &Path, bytes: u64) -> std::io::Result<Self> {
        Ok(Self {
            file: File::create_new(path)?,
            left: bytes,
            hash: Sha256::new(),
        })
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), String> {
        self.left = self
            .left
            .checked_sub(piece.len() as u64)
            .ok_or("it sent more than it had announced")?;
        self.hash.update(piece);
        self.file
            .write_all(piece)
            .map_err(|error| format!("keeping what it sent failed: {error}"))
    }
}

/// Whether an order is one that can and may be carried out here. It comes from another host.
fn check(order: &RunOrder, shared: &Shared) -> Result<(), String> {
    let options = &shared.options;
    let hexadecimal = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if options.secret.is_some() == order.secret.is_some() {
        return Err("it brings a secret of its own, or none where there is none here".to_owned());
    }
    if !hexadecimal(&order.run, 64) {
        return Err("the run has no proper name".to_owned());
    }
    if order.functions.is_empty() || order.functions.len() > options.functions {
        return Err(format!(
            "{} functions are too many, or none: it takes up to {} of one run (--functions)",
            order.functions.len(),
            options.functions
        ));
    }
    let longest = u64::try_from(options.longest.as_millis()).unwrap_or(u64::MAX);
    if order.milliseconds_left > longest {
        return Err(format!(
            "the run has {} s, and it allows {} (--longest); give the workflow a shorter deadline",
            order.milliseconds_left.div_ceil(1000),
            options.longest.as_secs()
        ));
    }
    if let Some(bytes) = order.input.filter(|bytes| *bytes > options.max_input) {
        return Err(format!(
            "the input is {bytes} bytes long, and it takes {} (--max-input)",
            options.max_input
        ));
    }
    let mut names = HashSet::new();
    let mut used = HashSet::new();
    for function in &order.functions {
        let name = &function.name;
        let mut named = function.neighbours().chain([name]);
        if !named.all(|name| is_function_name(name)) || !names.insert(name) {
            return Err(format!("{name:?} or a neighbour of it is no proper name"));
        }
        if function
            .output
            .as_deref()
            .is_some_and(|output| !is_output_name(output))
        {
            return Err(format!("the output of `{name}` has no proper name"));
        }
        if function.predecessors.is_empty() && order.input.is_none() {
            return Err(format!("`{name}` has nothing to receive"));
        }
        used.insert(function.module);
    }
    if order.modules.len() != used.len() || used.iter().any(|place| *place >= order.modules.len()) {
        return Err("its functions have other modules than it brings".to_owned());
    }
    if !order
        .modules
        .iter()
        .all(|module| hexadecimal(&module.sha256, 64))
    {
        return Err("a module has no proper SHA-256".to_owned());
    }
    Ok(())
}
