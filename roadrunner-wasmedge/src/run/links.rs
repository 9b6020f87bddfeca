//! Links between workers: one type for the three transports, and waiting for any of several.

use super::event::Failure;
use super::ration::{Ration, Rationed, Share};
use crate::function::Function;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use roadrunner_core::{Deadline, Delivery, Transfer, TransferError};
use roadrunner_mem::{Doorbell, Policy, SlotTransfer};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// How often a link that is cut is looked at by whoever waits for others as well.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One end of an edge.
pub(crate) enum Link {
    Memory(roadrunner_mem::Link),
    Unix(Box<roadrunner_uds::Link>),
    Tcp(Box<roadrunner_splice::Link>),
    /// Over TCP, and over another connection when one is cut.
    Session(Box<roadrunner_splice::Session>),
}

impl Link {
    /// Both ends, for two threads of a run whose policy this is, but for whom it trusts.
    pub(crate) fn in_memory(trusted: bool, policy: &Policy) -> (Self, Self) {
        let mut policy = policy.clone();
        policy.trusted = trusted;
        let (here, there) = roadrunner_mem::link(policy);
        (Self::Memory(here), Self::Memory(there))
    }

    pub(crate) fn transfer(&mut self) -> &mut dyn Transfer {
        match self {
            Self::Memory(link) => link,
            Self::Unix(link) => link.as_mut(),
            Self::Tcp(link) => link.as_mut(),
            Self::Session(session) => session.as_mut(),
        }
    }

    /// As a link that carries slots, if it does: between functions of one host.
    pub(crate) fn by_slots(&mut self) -> Option<&mut dyn SlotTransfer> {
        match self {
            Self::Memory(link) => Some(link),
            Self::Unix(link) => Some(link.as_mut()),
            Self::Tcp(_) | Self::Session(_) => None,
        }
    }

    /// The name that the connecting side gave it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Memory(_) => "",
            Self::Unix(link) => link.name(),
            Self::Tcp(link) => link.name(),
            Self::Session(session) => session.name(),
        }
    }

    /// What to wait for; `None` if a doorbell tells, or if there is no connection.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Memory(_) => None,
            Self::Unix(link) => Some(link.as_fd()),
            Self::Tcp(link) => Some(link.as_fd()),
            Self::Session(session) => session.descriptor(),
        }
    }

    /// Where the other end is, if that may be another host.
    fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Memory(_) | Self::Unix(_) => None,
            Self::Tcp(link) => Some(link.wire().peer().ip()),
            Self::Session(session) => Some(session.peer().ip()),
        }
    }

    /// Whether there is something to receive; that its descriptor is readable, if it is.
    fn is_ready(&mut self, readable: bool) -> Result<bool, TransferError> {
        Ok(match self {
            Self::Memory(link) => link.is_ready(),
            Self::Unix(link) => readable || link.has_pending(),
            Self::Tcp(link) => readable || link.has_pending(),
            // It may be readable for a connection that has ended.
            Self::Session(session) => session.is_ready()?,
        })
    }

    /// Whether it waits for a new connection, which no descriptor tells of.
    fn is_cut(&self) -> bool {
        matches!(self, Self::Session(session) if !session.is_connected())
    }
}

/// A link from a predecessor.
pub(crate) struct Inlet {
    pub(crate) from: String,
    pub(crate) link: Link,
    /// What its payloads count with, if there is a limit.
    share: Option<Share>,
}

impl Inlet {
    /// One on which as much may come as there is room.
    pub(crate) fn new(from: String, link: Link) -> Self {
        let share = None;
        Self { from, link, share }
    }

    /// The same where there is not more than that for payloads from other hosts.
    pub(crate) fn rationed(mut self, ration: Option<&Ration>) -> Result<Self, Failure> {
        if let (Some(ration), Some(peer)) = (ration, self.link.peer()) {
            let share = ration.share(peer);
            let failed = |error| Failure::new(format!("counting what comes in: {error}"));
            self.share = Some(share.map_err(failed)?);
        }
        Ok(self)
    }

    /// Receives the next payload into the function's memory.
    fn receive(
        &mut self,
        function: &mut Function,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        match (self.link.by_slots(), &self.share) {
            (Some(link), _) => function.receive(link, deadline),
            (None, None) => self.link.transfer().recv(function, deadline),
            (None, Some(share)) => {
                let mut sink = Rationed::new(function, share);
                self.link.transfer().recv(&mut sink, deadline)
            }
        }
    }
}

/// The links from the predecessors, each until it is finished: all in memory, or none.
pub(crate) struct Inlets {
    open: Vec<Inlet>,
    /// Rings for links in memory.
    bell: Doorbell,
    /// Which one is asked first, so that a busy predecessor does not starve the others.
    turn: usize,
}

impl Inlets {
    pub(crate) fn new(open: Vec<Inlet>) -> Self {
        let bell = Doorbell::new();
        for inlet in &open {
            if let Link::Memory(link) = &inlet.link {
                link.hang(&bell);
            }
        }
        Self {
            open,
            bell,
            turn: 0,
        }
    }

    /// The next payload of any predecessor, and whose it is; `None` when all have finished.
    pub(crate) fn next(
        &mut self,
        function: &mut Function,
        deadline: Deadline,
    ) -> Result<Option<(String, Delivery)>, Failure> {
        while !self.open.is_empty() {
            let at = self.wait(deadline)?;
            let inlet = &mut self.open[at];
            match inlet.receive(function, deadline) {
                Ok(delivery) => {
                    self.turn = at + 1;
                    return Ok(Some((inlet.from.clone(), delivery)));
                }
                Err(TransferError::Closed) => drop(self.open.remove(at)),
                Err(error) => {
                    return Err(Failure::on_link(
                        &format!("receiving from `{}`", inlet.from),
                        &error,
                    ))
                }
            }
        }
        Ok(None)
    }

    /// Waits until a link has something to say, and tells its place.
    fn wait(&mut self, deadline: Deadline) -> Result<usize, Failure> {
        let count = self.open.len();
        if count == 1 {
            // Its own receive waits.
            return Ok(0);
        }
        let names: Vec<_> = self.open.iter().map(|inlet| inlet.from.as_str()).collect();
        let doing = format!("receiving from `{}`", names.join("` or `"));
        let failed = |error| Failure::on_link(&doing, &error);
        loop {
            let readable = self.readable(Deadline::now()).map_err(failed)?;
            for at in (0..count).map(|step| (self.turn + step) % count) {
                let link = &mut self.open[at].link;
                if link.is_ready(readable.contains(&at)).map_err(failed)? {
                    return Ok(at);
                }
            }
            if deadline.has_passed() {
                return Err(failed(TransferError::Timeout));
            }
            if matches!(self.open[0].link, Link::Memory(_)) {
                // Whether it rang or the time is over, the loop finds out.
                let _ = self.bell.wait(deadline);
            } else {
                let soon = Deadline::after(LOOK_AGAIN);
                let is_cut = self.open.iter().any(|inlet| inlet.link.is_cut());
                let until = if is_cut { deadline.min(soon) } else { deadline };
                self.readable(until).map_err(failed)?;
            }
        }
    }

    /// Waits until a descriptor is readable, or the deadline; tells which are.
    fn readable(&self, deadline: Deadline) -> Result<Vec<usize>, TransferError> {
        let (places, mut descriptors): (Vec<_>, Vec<_>) = self
            .open
            .iter()
            .enumerate()
            .filter_map(|(at, inlet)| {
                let descriptor = inlet.link.descriptor()?;
                Some((at, PollFd::new(descriptor, PollFlags::POLLIN)))
            })
            .unzip();
        if descriptors.is_empty() && matches!(self.open[0].link, Link::Memory(_)) {
            return Ok(Vec::new());
        }
        // Rounded up, as a poll that ends early would be a busy loop in the last millisecond.
        let left = deadline
            .remaining()
            .unwrap_or_default()
            .as_nanos()
            .div_ceil(1_000_000);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => {
                return Err(TransferError::Io {
                    doing: "wait for the links",
                    source: errno.into(),
                })
            }
        }
        Ok(places
            .into_iter()
            .zip(&descriptors)
            .filter(|(_, descriptor)| descriptor.any().unwrap_or(false))
            .map(|(at, _)| at)
            .collect())
    }
}
