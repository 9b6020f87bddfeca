//! The accepting side of sessions: who comes back, and who is new.

use super::greeting::{Answer, Greeting, Id, LONGEST};
use super::{Role, Session};
use crate::link::Link;
use crate::listener::Listener;
use crate::options::Options;
use crate::wire::wait;
use nix::poll::{PollFd, PollFlags};
use roadrunner_core::{Deadline, HostMemory, TransferError};
use std::collections::{HashMap, VecDeque};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// How long one looks at the door before another may.
const TURN: Duration = Duration::from_millis(20);

/// Accepts [`Session`]s, and the new connections of those that lost theirs.
///
/// A session that has lost its connection looks out for the next one itself while it waits, so that nobody has to be in
/// [`accept`](Self::accept) for it. It ends with its session, also after this listener has been dropped.
#[derive(Debug)]
pub struct SessionListener {
    hub: Arc<Hub>,
    address: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Hub {
    options: Options,
    door: Mutex<Door>,
    sessions: Mutex<HashMap<Id, Arc<Mailbox>>>,
}

#[derive(Debug)]
struct Door {
    listener: Listener,
    /// Links whose greeting has not come.
    greeting: Vec<(Link, HostMemory, Deadline)>,
    new: VecDeque<(Id, Link, u64)>,
}

/// Where the next connection of a session is put.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Content {
    next: Option<(Link, u64)>,
    /// The connection that is in use, to wake whoever waits for it in vain.
    current: Option<TcpStream>,
}

impl SessionListener {
    /// Listens at `address`, as [`Listener::bind`] does.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind(address: &str, options: Options) -> Result<Self, TransferError> {
        let listener = Listener::bind(address, options.clone())?;
        let address = listener.address();
        let hub = Hub {
            options,
            door: Mutex::new(Door {
                listener,
                greeting: Vec::new(),
                new: VecDeque::new(),
            }),
            sessions: Mutex::default(),
        };
        Ok(Self {
            hub: Arc::new(hub),
            address,
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a session that is new.
    ///
    /// # Errors
    /// As [`Listener::accept`]; [`Protocol`](TransferError::Protocol) for a peer that opens a plain link,
    /// [`Refused`](TransferError::Refused) for one that wants to go on with a session that is not known here, or comes when
    /// there are as many sessions as [`Options::connections`] allows connections.
    pub fn accept(&self, deadline: Deadline) -> Result<Session, TransferError> {
        loop {
            let mut door = locked(&self.hub.door);
            if let Some((id, link, received)) = door.new.pop_front() {
                // Before anybody looks at the door again, who may find its next connection there.
                let mut session = self.enter(id, &link);
                drop(door);
                match session.adopt(link, received, deadline) {
                    Ok(()) => return Ok(session),
                    Err(error @ TransferError::Protocol(_)) => return Err(error),
                    // It has not heard the answer, and may come again.
                    Err(_) => continue,
                }
            }
            door.look(&self.hub, deadline.min(Deadline::after(TURN)))?;
            if door.new.is_empty() && deadline.has_passed() {
                return Err(TransferError::Timeout);
            }
        }
    }

    fn enter(&self, id: Id, link: &Link) -> Session {
        let mailbox = Arc::new(Mailbox::default());
        locked(&self.hub.sessions).insert(id, mailbox.clone());
        let role = Role::Accepted {
            hub: self.hub.clone(),
            mailbox,
        };
        Session::new(role, id, link.name().to_owned(), &self.hub.options)
    }
}

impl Hub {
    /// Waits a while for the next connection of a session.
    pub(super) fn next(&self, mailbox: &Mailbox, deadline: Deadline) -> Option<(Link, u64)> {
        let until = deadline.min(Deadline::after(TURN));
        match self.door.try_lock() {
            // What is wrong with others is nothing to this session.
            Ok(mut door) => drop(door.look(self, until)),
            Err(TryLockError::Poisoned(door)) => drop(door.into_inner().look(self, until)),
            // Somebody else looks.
            Err(TryLockError::WouldBlock) => {
                let content = locked(&mailbox.content);
                let left = until.remaining().unwrap_or_default();
                let _ = mailbox
                    .changed
                    .wait_timeout_while(content, left, |content| content.next.is_none());
            }
        }
        mailbox.take()
    }

    pub(super) fn forget(&self, id: &Id) {
        locked(&self.sessions).remove(id);
    }

    /// Puts a connection where it belongs.
    fn route(&self, link: Link, greeting: Greeting, door: &mut Door) -> Result<(), TransferError> {
        let Greeting {
            id,
            received,
            resumes,
        } = greeting;
        let known = locked(&self.sessions).get(&id).cloned();
        if let Some(mailbox) = known {
            mailbox.put(link, received);
            return Ok(());
        }
        // It has heard no answer to the first attempt, which nobody has taken either.
        let sessions = locked(&self.sessions).len() + door.new.len();
        door.new.retain(|(other, ..)| *other != id);
        if resumes || sessions >= self.options.connections {
            let peer = link.wire().peer();
            let mut link = link;
            // It may be gone again.
            let _ = super::say(&mut link, &Answer::Unknown.encode(), Deadline::now());
            return Err(TransferError::Refused(format!(
                "{peer} wants {} and there are {sessions}",
                if resumes {
                    "to go on with a session that is not one of those here,"
                } else {
                    "to open a session,"
                }
            )));
        }
        door.new.push_back((id, link, received));
        Ok(())
    }
}

impl Door {
    /// Waits until somebody comes or says something, and lets them in.
    fn look(&mut self, hub: &Hub, deadline: Deadline) -> Result<(), TransferError> {
        let mut events = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        for (link, ..) in &self.greeting {
            events.push(PollFd::new(link.as_fd(), PollFlags::POLLIN));
        }
        wait(&mut events, deadline).map_err(|source| TransferError::Io {
            doing: "wait for peers",
            source,
        })?;
        for _ in 0..self.greeting.len() {
            let (mut link, mut memory, until) = self.greeting.remove(0);
            match link.try_recv(&mut memory) {
                Ok(Some(_)) => {
                    let greeting = Greeting::decode(memory.as_slice())?;
                    self.route_in(hub, link, greeting)?;
                }
                Ok(None) if until.has_passed() => {
                    let peer = link.wire().peer();
                    return Err(TransferError::Refused(format!(
                        "{peer} opened a link and no session in its time"
                    )));
                }
                Ok(None) => self.greeting.push((link, memory, until)),
                Err(TransferError::PeerClosed) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(link) = self.listener.try_accept()? {
            let until = Deadline::after(hub.options.handshake);
            self.greeting
                .push((link, HostMemory::with_limit(LONGEST), until));
        }
        Ok(())
    }

    fn route_in(&mut self, hub: &Hub, link: Link, greeting: Greeting) -> Result<(), TransferError> {
        hub.route(link, greeting, self)
    }
}

impl Mailbox {
    /// The connection that the session uses from now on, or that it uses none.
    pub(super) fn uses(&self, link: Option<&Link>) {
        let copy = link.and_then(|link| link.as_fd().try_clone_to_owned().ok());
        locked(&self.content).current = copy.map(TcpStream::from);
    }

    pub(super) fn take(&self) -> Option<(Link, u64)> {
        locked(&self.content).next.take()
    }

    fn put(&self, link: Link, received: u64) {
        let mut content = locked(&self.content);
        content.next = Some((link, received));
        if let Some(current) = content.current.take() {
            // The peer has left it. What it sent before may still be received.
            let _ = current.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }
}

/// No code of this file panics while it holds a lock.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
