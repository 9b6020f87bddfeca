//! Links that outlive their connections.

mod connecting;
mod greeting;
mod hub;
mod sending;

pub use hub::SessionListener;

use crate::link::Link;
use crate::options::Options;
use connecting::Attempt;
use greeting::{Answer, Id};
use hub::{Doorman, Mailbox};
use roadrunner_core::{
    Deadline, Delivery, HostMemory, Payload, Receipt, Sink, Transfer, TransferError,
};
use sending::{Heard, Pace};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// One end of a link that goes on when its connection is cut: the side that connected connects again, with growing
/// pauses, the two tell each other how many payloads they have received, and what is missing is sent again. Each payload
/// is delivered once.
///
/// For that a payload is kept until the receiver has acknowledged it: copied into memory of this end, up to
/// [`Options::keep`] bytes in all, or, where it is longer than that, in its place, so that `send` returns only when it
/// is acknowledged. All are written; their receipts count the copy.
///
/// It goes on within the operations that are called, and until their deadlines: an end that is in none of them leaves the
/// other one waiting. A payload for which `send` returned `Ok`
/// may still have to be sent again: [`close`](Transfer::close) waits until all of them are acknowledged, and says only then
/// that none follows. A side that has accepted a session may drop it when it has got
/// [`Closed`](TransferError::Closed): its [`SessionListener`] tells a peer whose last acknowledgements were cut that they
/// were on their way. When one of the processes dies its sessions die with it. If the connection is cut after the last
/// payload and the side that connected is gone before it has heard of that, [`recv`](Transfer::recv) on the other side ends with
/// [`Timeout`](TransferError::Timeout) instead of [`Closed`](TransferError::Closed).
#[derive(Debug)]
pub struct Session {
    role: Role,
    id: Id,
    name: String,
    /// The other end of the newest connection.
    peer: SocketAddr,
    keep: u64,
    link: Option<Link>,
    limit: u64,
    /// The number of the first payload that was sent on this connection, and of the next one to be.
    first_on_link: u64,
    next_on_link: u64,
    next_out: u64,
    /// Payloads that the peer has acknowledged.
    acknowledged: u64,
    /// Payloads that have been received.
    received: u64,
    /// Those that are not acknowledged, with their numbers.
    kept: VecDeque<(u64, HostMemory)>,
    /// Whether the other side knows the session.
    is_known: bool,
    sent_end: bool,
    got_end: bool,
    /// The other side has ended the session.
    is_over: bool,
    broken: bool,
}

#[derive(Debug)]
enum Role {
    Connected {
        address: String,
        options: Box<Options>,
        /// One that [`Session::is_ready`] has begun. There is never another one beside it: the peer would take the one that
        /// it hears of last for the newest.
        attempt: Option<Attempt>,
    },
    Accepted {
        doorman: Arc<Doorman>,
        mailbox: Arc<Mailbox>,
    },
}

impl Session {
    /// Opens a session named `name` with the [`SessionListener`] at `address`, as [`connect`](crate::connect) opens a link.
    ///
    /// # Errors
    /// As [`connect`](crate::connect).
    pub fn connect(
        address: &str,
        name: &str,
        options: &Options,
        deadline: Deadline,
    ) -> Result<Self, TransferError> {
        let mut id = Id::default();
        getrandom::fill(&mut id).map_err(|error| TransferError::Io {
            doing: "get random bytes",
            source: std::io::Error::other(error.to_string()),
        })?;
        let role = Role::Connected {
            address: address.to_owned(),
            options: Box::new(options.clone()),
            attempt: None,
        };
        // Nobody's, until there is a connection.
        let peer = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut session = Self::new(role, id, name.to_owned(), peer, options);
        session.resume(deadline)?;
        Ok(session)
    }

    fn new(role: Role, id: Id, name: String, peer: SocketAddr, options: &Options) -> Self {
        Self {
            role,
            id,
            name,
            peer,
            keep: options.keep,
            link: None,
            limit: options.limit,
            first_on_link: 0,
            next_on_link: 0,
            next_out: 0,
            acknowledged: 0,
            received: 0,
            kept: VecDeque::new(),
            is_known: false,
            sent_end: false,
            got_end: false,
            is_over: false,
            broken: false,
        }
    }

    /// The name that the connecting side gave the session. It comes from the peer.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The other end of the newest connection, whether or not that has been cut.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether there is a connection at the moment, as far as this end knows.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// The connection that there is at the moment, to wait for what comes on it. What ends one makes it readable.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    /// Whether [`recv`](Transfer::recv) has something to do at once: a payload has begun to come, nothing follows, or the
    /// session is over. Takes up a new connection if there is one, and does not wait: for whoever waits for several
    /// sessions. An end that has no [`descriptor`](Self::descriptor) is to be asked again after a while.
    ///
    /// The side that connected has a thread connect again meanwhile, which is given [`Options::handshake`] for each
    /// connection of the link.
    ///
    /// What is kept and has not been sent on this connection goes on as far as it does not have to wait for the peer to take
    /// it, and no [`descriptor`](Self::descriptor) tells when it may go further: while there is any
    /// ([`unacknowledged`](Self::unacknowledged)), ask again after a while, too. [`recv`](Transfer::recv) goes on with it
    /// for as long as it waits.
    ///
    /// # Errors
    /// As [`recv`](Transfer::recv), but never [`Timeout`](TransferError::Timeout).
    pub fn is_ready(&mut self) -> Result<bool, TransferError> {
        let now = Deadline::now();
        loop {
            if self.broken || self.got_end || self.is_over {
                return Ok(true);
            }
            if self.link.is_none() {
                self.begin_attempt()?;
            }
            match self.flush_by(Pace::AtOnce, now) {
                // Otherwise there is something to hear although not all could be said.
                Err(TransferError::Timeout) if self.link.is_none() => return Ok(false),
                Err(TransferError::Timeout) => {}
                // It said so in its last answer.
                Err(_) if self.got_end => return Ok(true),
                flushed => drop(flushed?),
            }
            let link = self.link.as_mut().ok_or(TransferError::Broken)?;
            // What else has been read from the descriptor, such as an acknowledgement, is nothing to receive.
            if link.has_body_ahead() || link.has_ended() {
                return Ok(true);
            }
            match link.listen(now) {
                Ok(true) => self.take_note(),
                Ok(false) => {
                    let link = self.link.as_ref();
                    return Ok(link.is_some_and(Link::has_body_ahead));
                }
                Err(error) => match self.judge(error, now) {
                    Err(TransferError::Timeout) => return Ok(false),
                    judged => judged?,
                },
            }
        }
    }

    /// Payloads that were sent and that the peer has not acknowledged, as far as this end knows.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        self.next_out - self.acknowledged
    }

    /// Bytes of payloads that are kept.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept
            .iter()
            .map(|(_, memory)| memory.region().len())
            .sum()
    }

    /// Has a connection, the newest there is.
    fn ready(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        if self.broken {
            return Err(TransferError::Broken);
        }
        if self.is_over {
            return Err(over());
        }
        if let Role::Accepted { mailbox, .. } = &self.role {
            if let Some((link, received)) = mailbox.take() {
                self.lose();
                // If that is cut as well, there may be another one.
                let adopted = self.adopt(link, received, deadline);
                if self.broken {
                    return adopted;
                }
            }
        }
        match self.link {
            Some(_) => Ok(()),
            None => self.resume(deadline),
        }
    }

    fn lose(&mut self) {
        self.take_note();
        self.link = None;
        if let Role::Accepted { mailbox, .. } = &self.role {
            mailbox.uses(None);
        }
    }

    /// `Ok` if what failed may be tried again on another connection.
    fn judge(&mut self, error: TransferError, deadline: Deadline) -> Result<(), TransferError> {
        if self.link.as_ref().is_some_and(Transfer::is_open) {
            return Err(error);
        }
        self.lose();
        match error {
            TransferError::PeerClosed
            | TransferError::Truncated { .. }
            | TransferError::Corrupted { .. }
            | TransferError::Io { .. }
            | TransferError::Broken => {
                if deadline.has_passed() {
                    Err(TransferError::Timeout)
                } else {
                    Ok(())
                }
            }
            TransferError::Protocol(_) | TransferError::TooLarge { .. } => {
                self.broken = true;
                Err(error)
            }
            other => Err(other),
        }
    }

    /// Receives while what is kept goes out, as far as the peer takes it: one that has as much to send may be doing the
    /// same.
    fn recv_while_sending(
        &mut self,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        let received = loop {
            let mut last = None;
            let is_all_out = match self.flush_once(Pace::AtOnce, &mut last, deadline) {
                Ok(()) => true,
                Err(TransferError::Timeout) => false,
                Err(error) => break Err(error),
            };
            let link = self.link.as_mut().ok_or(TransferError::Broken)?;
            if is_all_out {
                break link.recv(sink, deadline);
            }
            let mut wants = link.wants();
            match link.try_recv_until(sink, deadline) {
                Ok(None) if deadline.has_passed() => break Err(TransferError::Timeout),
                Ok(None) => {
                    // Not to be read where that would not help: what is there would end each wait at once.
                    let of_receive = link.wants();
                    wants.read = of_receive.read;
                    wants.write |= of_receive.write;
                    if let Err(error) = link.wire().wait(wants, deadline) {
                        break Err(error);
                    }
                }
                Ok(Some(delivery)) => break Ok(delivery),
                Err(error) => break Err(error),
            }
        };
        if let (Err(_), Some(link)) = (&received, &mut self.link) {
            link.abandon(sink);
        }
        received
    }
}

impl Transfer for Session {
    fn send(
        &mut self,
        mut payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        let deadline = deadline.begin();
        if self.broken {
            return Err(TransferError::Broken);
        }
        if self.sent_end {
            return Err(TransferError::Closed);
        }
        if payload.len() > self.limit {
            return Err(TransferError::TooLarge {
                len: payload.len(),
                limit: self.limit,
            });
        }
        if payload.len() <= self.keep {
            self.send_copy(&mut payload, deadline)
        } else {
            self.send_in_place(&mut payload, deadline)
        }
    }

    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError> {
        let deadline = deadline.begin();
        loop {
            if self.broken {
                return Err(TransferError::Broken);
            }
            if self.got_end {
                return Err(TransferError::Closed);
            }
            let is_all_out = match self.flush_by(Pace::AtOnce, deadline) {
                // It said so in its last answer.
                Err(_) if self.got_end => return Err(TransferError::Closed),
                Err(TransferError::Timeout) if self.link.is_some() => false,
                flushed => flushed.map(|_| true)?,
            };
            let received = if is_all_out {
                let link = self.link.as_mut().ok_or(TransferError::Broken)?;
                link.recv(sink, deadline)
            } else {
                self.recv_while_sending(sink, deadline)
            };
            match received {
                Ok(delivery) => {
                    self.received += 1;
                    self.take_note();
                    return Ok(delivery);
                }
                Err(TransferError::Closed) => self.got_end = true,
                Err(error) => self.judge(error, deadline)?,
            }
        }
    }

    /// Waits until everything that was sent is acknowledged, on as many connections as that takes, and says then that
    /// nothing follows. If an acknowledgement lies behind a payload that this end has to receive first, it says so at
    /// once, and does not wait.
    fn close(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        let deadline = deadline.begin();
        self.sent_end = true;
        loop {
            if self.broken {
                return Err(TransferError::Broken);
            }
            // The peer has all. It has finished, too, or is gone.
            let is_left = self.is_over || (self.got_end && self.link.is_none());
            if is_left && self.is_finished() {
                return Ok(());
            }
            match self.flush(deadline) {
                // It said so in its last answer.
                Err(_) if self.is_over && self.is_finished() => return Ok(()),
                flushed => flushed?,
            };
            if !self.is_finished() && self.hear(deadline)? == Heard::Something {
                if deadline.has_passed() && !self.is_finished() {
                    return Err(TransferError::Timeout);
                }
                continue;
            }
            let link = self.link.as_mut().ok_or(TransferError::Broken)?;
            match link.close(deadline) {
                Ok(()) => {
                    self.take_note();
                    return Ok(());
                }
                Err(error) => self.judge(error, deadline)?,
            }
        }
    }

    fn is_open(&self) -> bool {
        !self.broken && !self.is_over
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Role::Accepted { doorman, mailbox } = &self.role {
            mailbox.uses(None);
            let answer = Answer::Ended {
                received: self.received,
                finished: self.is_finished(),
            };
            doorman.forget(&self.id, answer);
        }
    }
}

fn over() -> TransferError {
    TransferError::Refused("the peer has ended this session".to_owned())
}
