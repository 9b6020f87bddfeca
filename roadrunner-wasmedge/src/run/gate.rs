//! Where a worker process listens for its predecessors, and how it reaches its successors: those on the same host over UNIX
//! sockets, all others over TCP.

use super::event::Failure;
use super::links::{Inlet, Link};
use super::ration::Ration;
use super::tls::Told;
use super::worker::Task;
use super::NetworkMethod;
use roadrunner_core::{Deadline, TransferError};
use roadrunner_mem::Audience;
use roadrunner_splice as tcp;
use roadrunner_uds as unix;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::sync::mpsc;

/// What a worker process needs to know to reach its neighbours. Not to be printed, as there is a secret in it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Ways {
    /// The address of its own UNIX socket.
    pub(crate) socket: String,
    /// Those of the functions on the same host that it has edges with.
    pub(crate) near: HashMap<String, String>,
    /// The way to all other functions, if it has edges with any.
    pub(crate) far: Option<Far>,
}

impl Ways {
    /// Of a function with these neighbours. Who has none that is far is not told what it takes to be believed by them: it
    /// runs code that nobody need trust.
    pub(crate) fn new<'a>(
        socket: String,
        near: HashMap<String, String>,
        mut neighbours: impl Iterator<Item = &'a String>,
        far: impl FnOnce() -> Far,
    ) -> Self {
        let has_far = neighbours.any(|name| !near.contains_key(name));
        Self {
            socket,
            near,
            far: has_far.then(far),
        }
    }
}

/// The way to functions on other hosts. Not to be printed, either.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Far {
    /// Where to listen.
    pub(crate) address: String,
    pub(crate) method: NetworkMethod,
    /// Whether links go on over another connection when one is cut.
    pub(crate) sessions: bool,
    /// What both ends of a link must know.
    pub(crate) secret: String,
    /// What encrypts them, if anything does.
    pub(crate) tls: Option<Told>,
    pub(crate) allowed: Allowed,
}

/// What a host allows links from elsewhere.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Allowed {
    /// The ports to listen at.
    pub(crate) ports: Option<RangeInclusive<u16>>,
    /// How many bytes of payloads may be coming in at a time.
    pub(crate) memory: Option<Ration>,
}

/// The address of the UNIX socket of a function, in a run that no other one on this host shares the `tag` with.
pub(crate) fn socket_of(tag: &str, function: &str) -> String {
    // Without a file there is none to be left behind.
    format!("@roadrunner-{tag}-{function}")
}

/// The worker's own addresses, if it has predecessors, and what it connects with.
pub(crate) struct Gate {
    unix: unix::Options,
    tcp: Option<tcp::Options>,
    is_encrypted: bool,
    sessions: bool,
    near: HashMap<String, String>,
    /// Neighbours at trusted edges.
    trusted: Vec<String>,
    /// What payloads from other hosts count with.
    memory: Option<Ration>,
    /// One for each way that predecessors come by, and which of them do.
    listeners: Vec<(Listener, Vec<String>)>,
}

enum Listener {
    Unix(unix::Listener),
    Tcp(tcp::Listener),
    Sessions(tcp::SessionListener),
}

impl Gate {
    /// Listens wherever a predecessor of the task comes. Everybody who is reached over UNIX sockets is of this audience;
    /// edges to and from the task's trusted neighbours are trusted, if the other end says so too. With `slots`, what comes
    /// in segments is mapped here.
    pub(crate) fn open(
        ways: Ways,
        task: &Task,
        audience: Audience,
        slots: bool,
    ) -> Result<Self, Failure> {
        let failed = |address: &str, error: TransferError| {
            Failure::new(format!("cannot listen at {address}: {error}"))
        };
        let Ways { socket, near, far } = ways;
        let unix = unix::Options::default().audience(audience).slots(slots);
        let tcp = far.as_ref().map(tcp_options).transpose()?;
        let (neighbours, strangers): (Vec<_>, Vec<_>) = task
            .predecessors
            .iter()
            .cloned()
            .partition(|name| near.contains_key(name));
        let mut listeners = Vec::new();
        if !neighbours.is_empty() {
            // A link is called like the function that it comes from.
            let options = unix.clone().trust_links(task.trusted.iter().cloned());
            let listener = unix::Listener::bind(unix_address(&socket)?, options)
                .map_err(|error| failed(&socket, error))?;
            listeners.push((Listener::Unix(listener), neighbours));
        }
        if let (false, Some(far), Some(options)) = (strangers.is_empty(), &far, &tcp) {
            let (address, options) = (&far.address, options.clone());
            let listener = if far.sessions {
                tcp::SessionListener::bind(address, options).map(Listener::Sessions)
            } else {
                tcp::Listener::bind(address, options).map(Listener::Tcp)
            };
            let listener = listener.map_err(|error| failed(address, error))?;
            listeners.push((listener, strangers));
        }
        Ok(Self {
            unix,
            tcp,
            is_encrypted: far.as_ref().is_some_and(|far| far.tls.is_some()),
            sessions: far.as_ref().is_some_and(|far| far.sessions),
            memory: far.and_then(|far| far.allowed.memory),
            near,
            trusted: task.trusted.clone(),
            listeners,
        })
    }

    /// Where functions on other hosts reach it.
    pub(crate) fn address(&self) -> Option<String> {
        self.listeners
            .iter()
            .find_map(|(listener, _)| match listener {
                Listener::Unix(_) => None,
                Listener::Tcp(listener) => Some(listener.address().to_string()),
                Listener::Sessions(listener) => Some(listener.address().to_string()),
            })
    }

    /// A link to the successor `to`, which hears it called `from`; over TCP if it is one of those whose addresses these are.
    pub(crate) fn connect(
        &self,
        to: &str,
        addresses: &HashMap<String, String>,
        from: &str,
        deadline: Deadline,
    ) -> Result<Link, Failure> {
        let linked = match (self.near.get(to), addresses.get(to), &self.tcp) {
            (Some(address), _, _) => {
                let trusted = self.trusted.iter().any(|name| name == to);
                let options = self.unix.clone().trusted(trusted);
                unix::connect(&unix_address(address)?, from, &options, deadline).map(unix_link)
            }
            (None, Some(address), Some(options)) if self.sessions => {
                tcp::Session::connect(address, from, options, deadline).map(session)
            }
            (None, Some(address), Some(options)) => {
                tcp::connect(address, from, options, deadline).map(tcp_link)
            }
            _ => return Err(Failure::new(format!("nobody said where `{to}` is"))),
        };
        let is_encrypted = self.is_encrypted && !self.near.contains_key(to);
        linked.map_err(|error| {
            let doing = format!("connecting to `{to}`");
            match error {
                TransferError::Refused(why) if is_encrypted => Failure::new(format!(
                    "{doing}: {why} (the certificates of both hosts have to be of each other's --tls-authority, and that of \
                     `{to}`'s host for this IP address, or for --tls-name)"
                )),
                error => Failure::transfer(&doing, &error),
            }
        })
    }

    /// A link from each of the predecessors. Then nobody listens here any more, but for sessions that are cut.
    pub(crate) fn accept(self, deadline: Deadline) -> Result<Vec<Inlet>, Failure> {
        let memory = self.memory.clone();
        let links = self.accept_links(deadline)?.into_iter();
        links
            .map(|(from, link)| Inlet::new(from, link).rationed(memory.as_ref()))
            .collect()
    }

    fn accept_links(self, deadline: Deadline) -> Result<Vec<(String, Link)>, Failure> {
        let mut listeners = self.listeners;
        if listeners.len() < 2 {
            return match listeners.pop() {
                Some((listener, predecessors)) => listener.accept_all(&predecessors, deadline),
                None => Ok(Vec::new()),
            };
        }
        // At the same time: whoever is let in late may be whom another one waits for.
        let (say, heard) = mpsc::channel();
        for (listener, predecessors) in listeners {
            let say = say.clone();
            // Nobody listens any more if another one has failed.
            let accept = move || drop(say.send(listener.accept_all(&predecessors, deadline)));
            let thread = std::thread::Builder::new().spawn(accept);
            thread.map_err(|error| Failure::new(format!("no thread: {error}")))?;
        }
        drop(say);
        let mut links = Vec::new();
        for accepted in heard {
            links.append(&mut accepted?);
        }
        Ok(links)
    }
}

impl Listener {
    fn accept(&mut self, deadline: Deadline) -> Result<Link, TransferError> {
        match self {
            Self::Unix(listener) => listener.accept(deadline).map(unix_link),
            Self::Tcp(listener) => listener.accept(deadline).map(tcp_link),
            Self::Sessions(listener) => listener.accept(deadline).map(session),
        }
    }

    /// A link from each of these.
    fn accept_all(
        mut self,
        predecessors: &[String],
        deadline: Deadline,
    ) -> Result<Vec<(String, Link)>, Failure> {
        let mut links: Vec<(String, Link)> = Vec::new();
        while links.len() < predecessors.len() {
            // Not one of ours, or why nobody can come any more.
            let error = match self.accept(deadline) {
                Ok(link) => {
                    let from = link.name().to_owned();
                    let known = predecessors.contains(&from);
                    if known && links.iter().all(|(other, _)| *other != from) {
                        links.push((from, link));
                        continue;
                    }
                    None
                }
                Err(error) if ends_listening(&error) => Some(error),
                Err(_) => None,
            };
            // Strangers who come one after the other put no deadline off.
            let late = deadline.has_passed().then_some(TransferError::Timeout);
            if let Some(error) = error.or(late) {
                let missing: Vec<_> = predecessors
                    .iter()
                    .filter(|name| links.iter().all(|(from, _)| from != *name))
                    .map(String::as_str)
                    .collect();
                let doing = format!("waiting for `{}` to connect", missing.join("`, `"));
                return Err(Failure::transfer(&doing, &error));
            }
        }
        Ok(links)
    }
}

fn tcp_options(far: &Far) -> Result<tcp::Options, Failure> {
    let secret =
        tcp::Secret::from_bytes(&far.secret).map_err(|error| Failure::new(error.to_string()))?;
    let mut options = tcp::Options::default()
        .secret(secret)
        .prefer(far.method.into())
        // Nothing is left for later: whoever has sent is not there to send it again, but waits for its predecessors.
        .keep(0);
    if let Some(ports) = &far.allowed.ports {
        options = options.ports(ports.clone());
    }
    match &far.tls {
        Some(tls) => tls
            .encrypt(options)
            .map_err(|error| Failure::new(error.to_string())),
        None => Ok(options),
    }
}

/// Whether nobody can come any more; all other errors are of one peer, who is not one of ours.
fn ends_listening(error: &TransferError) -> bool {
    match error {
        TransferError::Timeout => true,
        // A peer that is gone before it was looked at.
        TransferError::Io { source, .. } => !matches!(
            source.kind(),
            ErrorKind::NotConnected | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
        ),
        _ => false,
    }
}

fn unix_link(link: unix::Link) -> Link {
    Link::Unix(Box::new(link))
}

fn tcp_link(link: tcp::Link) -> Link {
    Link::Tcp(Box::new(link))
}

fn session(session: tcp::Session) -> Link {
    Link::Session(Box::new(session))
}

fn unix_address(address: &str) -> Result<unix::Address, Failure> {
    address
        .parse()
        .map_err(|error: unix::AddressError| Failure::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{Allowed, Far, HashMap, NetworkMethod, Ways};

    #[test]
    fn no_secret_is_told_to_whom_it_is_of_no_use() {
        let far = || Far {
            address: "127.0.0.1:0".to_owned(),
            method: NetworkMethod::Auto,
            sessions: false,
            secret: "of the links".to_owned(),
            tls: None,
            allowed: Allowed::default(),
        };
        let [near, elsewhere] = ["near", "elsewhere"].map(str::to_owned);
        for (neighbours, has_far) in [
            (vec![], false),
            (vec![&near], false),
            (vec![&near, &elsewhere], true),
        ] {
            let sockets = HashMap::from([(near.clone(), "@near".to_owned())]);
            let ways = Ways::new("@own".to_owned(), sockets, neighbours.into_iter(), far);
            assert_eq!(ways.far.is_some(), has_far);
        }
    }
}
