//! How a session comes to a connection, the first one and those that take its place.

use super::greeting::{Answer, Greeting, LONGEST};
use super::{over, Role, Session};
use crate::link::{connect, Link};
use crate::options::Options;
use roadrunner_core::{Deadline, HostMemory, Payload, Transfer, TransferError};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// An attempt to connect again that a thread makes: where its outcome comes. Locked by nobody, only to be shared.
pub(super) type Attempt = Mutex<mpsc::Receiver<Outcome>>;

/// A connection, and what the peer says on it.
type Outcome = Result<(Link, Answer), TransferError>;

impl Session {
    /// Has a thread connect again, if that is this side's to do and none does.
    pub(super) fn begin_attempt(&mut self) -> Result<(), TransferError> {
        let greeting = self.greeting();
        let Role::Connected {
            address,
            options,
            attempt: attempt @ None,
        } = &mut self.role
        else {
            return Ok(());
        };
        let (address, name, options) = (address.clone(), self.name.clone(), options.clone());
        let (outcome, comes) = mpsc::channel();
        let connect = move || {
            let until = Deadline::after(patience(&options));
            // The session may be gone.
            let _ = outcome.send(greet(&address, &name, &options, greeting, until));
        };
        let thread = thread::Builder::new().name("roadrunner-session".to_owned());
        thread.spawn(connect).map_err(|source| TransferError::Io {
            doing: "start a thread that connects",
            source,
        })?;
        *attempt = Some(Mutex::new(comes));
        Ok(())
    }

    /// The connecting side's first words on a connection.
    fn greeting(&self) -> Greeting {
        Greeting {
            id: self.id,
            received: self.received,
            resumes: self.is_known,
        }
    }

    /// Gets a connection, in as many attempts as the deadline allows, at least one.
    pub(super) fn resume(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let greeting = self.greeting();
            let error = match &mut self.role {
                Role::Accepted { mailbox, .. } => match mailbox.wait(deadline) {
                    Some((link, received)) => match self.adopt(link, received, deadline) {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    },
                    None => TransferError::Timeout,
                },
                Role::Connected {
                    address,
                    options,
                    attempt,
                } => {
                    let outcome = match attempt {
                        Some(begun) => {
                            let outcome = outcome_of(begun, deadline);
                            if outcome.is_some() {
                                *attempt = None;
                            }
                            outcome.unwrap_or(Err(TransferError::Timeout))
                        }
                        None => {
                            let until = deadline.min(Deadline::after(patience(options)));
                            greet(address, &self.name, options, greeting, until)
                        }
                    };
                    match outcome.and_then(|(link, answer)| self.answered(link, answer)) {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
            };
            // Before the session is known a refusal is an answer; later it may be a cut connection.
            let final_word = matches!(error, TransferError::Refused(_)) && !self.is_known;
            if self.broken || self.is_over || final_word {
                return Err(error);
            }
            let Some(left) = deadline.remaining() else {
                return Err(match error {
                    refused @ TransferError::Refused(_) => refused,
                    _ => TransferError::Timeout,
                });
            };
            if matches!(self.role, Role::Connected { .. }) {
                thread::sleep(pause.min(left));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// The connecting side goes on as the peer says.
    fn answered(&mut self, link: Link, answer: Answer) -> Result<(), TransferError> {
        match answer {
            Answer::Received(count) => self.install(link, count),
            Answer::Unknown => {
                self.broken = true;
                Err(TransferError::Refused(
                    "the peer does not know this session, or has too many".to_owned(),
                ))
            }
            Answer::Ended { received, finished } => {
                self.check(received)?;
                self.settle(received);
                self.got_end |= finished;
                self.is_over = true;
                Err(over())
            }
        }
    }

    /// The accepting side's answer to a peer that has received so many payloads.
    pub(super) fn adopt(
        &mut self,
        mut link: Link,
        received: u64,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        say(
            &mut link,
            &Answer::Received(self.received).encode(),
            deadline,
        )?;
        self.install(link, received)
    }

    /// Goes on with a connection whose peer has received so many payloads.
    fn install(&mut self, mut link: Link, received: u64) -> Result<(), TransferError> {
        self.check(received)?;
        link.wire_mut().acknowledge_all();
        if let Role::Accepted { mailbox, .. } = &self.role {
            mailbox.uses(Some(&link));
        }
        self.limit = link.limit();
        self.peer = link.wire().peer();
        self.link = Some(link);
        self.is_known = true;
        self.first_on_link = received;
        self.next_on_link = received;
        self.settle(received);
        Ok(())
    }
}

/// How long an attempt to connect may take.
fn patience(options: &Options) -> Duration {
    let connections = u32::from(options.streams.max(1));
    options.handshake.saturating_mul(connections)
}

/// Connects, says the first words of a session and hears the answer.
fn greet(
    address: &str,
    name: &str,
    options: &Options,
    greeting: Greeting,
    deadline: Deadline,
) -> Outcome {
    let mut link = connect(address, name, options, deadline)?;
    say(&mut link, &greeting.encode(), deadline)?;
    let mut memory = HostMemory::with_limit(LONGEST);
    link.recv(&mut memory, deadline)?;
    let answer = Answer::decode(memory.as_slice())?;
    Ok((link, answer))
}

/// What came of an attempt; `None` if that is not known by the deadline.
fn outcome_of(attempt: &mut Attempt, deadline: Deadline) -> Option<Outcome> {
    let comes = attempt.get_mut().unwrap_or_else(PoisonError::into_inner);
    match comes.recv_timeout(deadline.remaining().unwrap_or_default()) {
        Ok(outcome) => Some(outcome),
        Err(RecvTimeoutError::Timeout) => None,
        // Its thread did not get to the end.
        Err(RecvTimeoutError::Disconnected) => Some(Err(TransferError::Broken)),
    }
}

/// Sends a few bytes that are not the caller's.
pub(super) fn say(link: &mut Link, bytes: &[u8], deadline: Deadline) -> Result<(), TransferError> {
    let mut memory = HostMemory::from(bytes);
    let region = memory.region();
    link.send(Payload::kept(&mut memory, region)?, deadline)
        .map(drop)
}
