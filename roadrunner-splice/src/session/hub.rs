//! The accepting side of sessions: who comes back, who is new, and who left.

use super::connecting::say;
use super::greeting::{Answer, Greeting, Id, LONGEST};
use super::{Role, Session};
use crate::link::Link;
use crate::listener::Listener;
use crate::options::Options;
use crate::socket::wait;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use roadrunner_core::{Deadline, HostMemory, TransferError};
use std::collections::{HashMap, VecDeque};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Sessions that have ended and are remembered, for a peer that did not hear so.
const MOST_ENDED: usize = 4096;
/// Errors of single peers that are kept for [`SessionListener::accept`].
const MOST_ERRORS: usize = 16;
/// How long nobody is let in after an error that is not a peer's, for example for want of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// As good as for ever: the thread is woken when there is something to do.
const LONG: Duration = Duration::from_secs(3600);

/// Accepts [`Session`]s, and the new connections of those that lost theirs.
///
/// A thread of its own lets peers in and hears what they want, whether anybody is in [`accept`](Self::accept) or not. It
/// ends with this listener and the last of its sessions. It also tells a peer that comes back when its session has ended
/// here, and how many of its payloads had come: of the last 4,096 that ended.
#[derive(Debug)]
pub struct SessionListener {
    doorman: Arc<Doorman>,
    address: SocketAddr,
}

/// The thread at the door, for as long as somebody has this.
#[derive(Debug)]
pub(super) struct Doorman {
    hub: Arc<Hub>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Hub {
    options: Options,
    table: Mutex<Table>,
    /// Somebody new is there, or an error.
    came: Condvar,
    /// Written to when the thread is to end.
    end: EventFd,
}

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<Id, Arc<Mailbox>>,
    ended: VecDeque<(Id, Answer)>,
    new: VecDeque<(Id, Link, u64)>,
    errors: VecDeque<TransferError>,
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

/// A link whose greeting has not come whole.
#[derive(Debug)]
struct Silent {
    link: Link,
    memory: HostMemory,
    until: Deadline,
}

impl SessionListener {
    /// Listens at `address`, as [`Listener::bind`] does.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind(address: &str, options: Options) -> Result<Self, TransferError> {
        let listener = Listener::bind(address, options.clone())?;
        let address = listener.address();
        let failed = |source| TransferError::Io {
            doing: "start a thread that lets sessions in",
            source,
        };
        let end = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| failed(errno.into()))?;
        let hub = Arc::new(Hub {
            options,
            table: Mutex::default(),
            came: Condvar::new(),
            end,
        });
        let of_thread = hub.clone();
        let thread = thread::Builder::new()
            .name("roadrunner-sessions".to_owned())
            .spawn(move || of_thread.let_in(listener))
            .map_err(failed)?;
        let doorman = Doorman {
            hub,
            thread: Some(thread),
        };
        Ok(Self {
            doorman: Arc::new(doorman),
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
        let hub = &self.doorman.hub;
        let mut table = locked(&hub.table);
        loop {
            if let Some((id, link, received)) = table.new.pop_front() {
                let mailbox = Arc::new(Mailbox::default());
                table.sessions.insert(id, mailbox.clone());
                drop(table);
                let role = Role::Accepted {
                    doorman: self.doorman.clone(),
                    mailbox,
                };
                let (name, peer) = (link.name().to_owned(), link.wire().peer());
                let mut session = Session::new(role, id, name, peer, &hub.options);
                match session.adopt(link, received, deadline) {
                    Err(error @ TransferError::Protocol(_)) => return Err(error),
                    // If it has not heard the answer it comes again.
                    _ => return Ok(session),
                }
            }
            if let Some(error) = table.errors.pop_front() {
                return Err(error);
            }
            let Some(left) = deadline.remaining() else {
                return Err(TransferError::Timeout);
            };
            let waited = hub.came.wait_timeout(table, left);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Doorman {
    /// A session is gone from here, and what is to be said to a peer that asks for it.
    pub(super) fn forget(&self, id: &Id, answer: Answer) {
        let mut table = locked(&self.hub.table);
        table.sessions.remove(id);
        if table.ended.len() == MOST_ENDED {
            table.ended.pop_front();
        }
        table.ended.push_back((*id, answer));
    }
}

impl Drop for Doorman {
    fn drop(&mut self) {
        // A counter that is full is readable, too.
        let _ = self.hub.end.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Hub {
    /// Lets peers in until the end.
    fn let_in(&self, mut listener: Listener) {
        let mut silent = Vec::new();
        loop {
            let of_silent = silent.iter().map(|one: &Silent| one.until);
            // Whoever never brings all connections of a link keeps its place no longer than anybody else.
            let until = of_silent.chain(listener.until()).min();
            let mut events = vec![
                PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            ];
            for one in &silent {
                events.push(PollFd::new(one.link.as_fd(), PollFlags::POLLIN));
            }
            let waited = wait(&mut events, until.unwrap_or(Deadline::after(LONG)));
            if events[0].any().unwrap_or(false) {
                return;
            }
            drop(events);
            let accepted = waited.map_err(|source| TransferError::Io {
                doing: "wait for peers",
                source,
            });
            match accepted.and_then(|()| listener.try_accept()) {
                Ok(Some(link)) => silent.push(Silent {
                    link,
                    memory: HostMemory::with_limit(LONGEST),
                    until: Deadline::after(self.options.handshake),
                }),
                Ok(None) => {}
                Err(error) => {
                    let is_ours = matches!(error, TransferError::Io { .. });
                    self.report(error);
                    if is_ours {
                        let mut end = [PollFd::new(self.end.as_fd(), PollFlags::POLLIN)];
                        let _ = wait(&mut end, Deadline::after(PAUSE));
                    }
                }
            }
            for mut one in std::mem::take(&mut silent) {
                match one.link.try_recv(&mut one.memory) {
                    Ok(None) if !one.until.has_passed() => silent.push(one),
                    Ok(None) => {
                        let peer = one.link.wire().peer();
                        self.report(TransferError::Refused(format!(
                            "{peer} opened a link and no session in its time"
                        )));
                    }
                    Ok(Some(_)) => {
                        let greeting = Greeting::decode(one.memory.as_slice());
                        let routed = greeting
                            .map_err(TransferError::from)
                            .and_then(|greeting| self.route(one.link, greeting));
                        if let Err(error) = routed {
                            self.report(error);
                        }
                    }
                    Err(TransferError::PeerClosed) => {}
                    Err(error) => self.report(error),
                }
            }
        }
    }

    fn report(&self, error: TransferError) {
        let errors = &mut locked(&self.table).errors;
        if errors.len() == MOST_ERRORS {
            errors.pop_front();
        }
        errors.push_back(error);
        self.came.notify_all();
    }

    /// Puts a connection where it belongs.
    fn route(&self, mut link: Link, greeting: Greeting) -> Result<(), TransferError> {
        let Greeting {
            id,
            received,
            resumes,
        } = greeting;
        let mut table = locked(&self.table);
        if let Some(mailbox) = table.sessions.get(&id) {
            mailbox.put(link, received);
            return Ok(());
        }
        let peer = link.wire().peer();
        // It may be gone again.
        let mut answer = |answer: Answer| {
            let _ = say(&mut link, &answer.encode(), Deadline::now());
        };
        let ended = table.ended.iter().position(|(other, _)| *other == id);
        if let Some(at) = ended {
            if resumes {
                answer(table.ended[at].1);
                return Ok(());
            }
            // It has heard no answer, and so it has said nothing.
            table.ended.remove(at);
        }
        // It has heard no answer to the first attempt, which nobody has taken either.
        table.new.retain(|(other, ..)| *other != id);
        let sessions = table.sessions.len() + table.new.len();
        if resumes || sessions >= self.options.connections {
            answer(Answer::Unknown);
            return Err(TransferError::Refused(format!(
                "{peer} wants {} and there are {sessions}",
                if resumes {
                    "to go on with a session that is not one of those here,"
                } else {
                    "to open a session,"
                }
            )));
        }
        table.new.push_back((id, link, received));
        self.came.notify_all();
        Ok(())
    }
}

impl Mailbox {
    /// The connection that the session uses from now on, or that it uses none.
    pub(super) fn uses(&self, link: Option<&Link>) {
        let copy = link.and_then(|link| link.as_fd().try_clone_to_owned().ok());
        let mut content = locked(&self.content);
        content.current = copy.map(TcpStream::from);
        content.leave_if_called();
    }

    pub(super) fn take(&self) -> Option<(Link, u64)> {
        locked(&self.content).next.take()
    }

    /// Waits for the next connection.
    pub(super) fn wait(&self, deadline: Deadline) -> Option<(Link, u64)> {
        let content = locked(&self.content);
        let left = deadline.remaining().unwrap_or_default();
        let waited = self
            .changed
            .wait_timeout_while(content, left, |content| content.next.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.next.take()
    }

    fn put(&self, link: Link, received: u64) {
        let mut content = locked(&self.content);
        content.next = Some((link, received));
        content.leave_if_called();
        self.changed.notify_all();
    }
}

impl Content {
    /// Nobody waits on a connection that the peer has left for another. What it sent before may still be received.
    fn leave_if_called(&mut self) {
        if self.next.is_some() {
            if let Some(current) = self.current.take() {
                let _ = current.shutdown(Shutdown::Both);
            }
        }
    }
}

/// No code of this file panics while it holds a lock.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
