//! Links between workers: one type for the three transports, and waiting for any of several.

use super::event::Failure;
use crate::function::Function;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use roadrunner_core::{Deadline, Delivery, Transfer, TransferError};
use roadrunner_mem::{Doorbell, Policy, SlotTransfer};
use std::os::fd::{AsFd, BorrowedFd};

/// One end of an edge.
pub(crate) enum Link {
    Memory(roadrunner_mem::Link),
    Unix(Box<roadrunner_uds::Link>),
    Tcp(Box<roadrunner_splice::Link>),
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
        }
    }

    /// As a link that carries slots, if it does: between functions of one host.
    pub(crate) fn by_slots(&mut self) -> Option<&mut dyn SlotTransfer> {
        match self {
            Self::Memory(link) => Some(link),
            Self::Unix(link) => Some(link.as_mut()),
            Self::Tcp(_) => None,
        }
    }

    /// Receives the next payload into the function's memory.
    fn receive(
        &mut self,
        function: &mut Function,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        match self.by_slots() {
            Some(link) => function.receive(link, deadline),
            None => self.transfer().recv(function, deadline),
        }
    }

    /// The name that the connecting side gave it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Memory(_) => "",
            Self::Unix(link) => link.name(),
            Self::Tcp(link) => link.name(),
        }
    }

    /// What to wait for; `None` if there is something to receive already, or if a doorbell tells.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Memory(_) => None,
            Self::Unix(link) => Some(link.as_fd()),
            Self::Tcp(link) => Some(link.as_fd()),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Memory(link) => link.is_ready(),
            Self::Unix(link) => link.has_pending(),
            Self::Tcp(link) => link.has_pending(),
        }
    }
}

/// The links from the predecessors, each until it is finished: all in memory, or none.
pub(crate) struct Inlets {
    open: Vec<(String, Link)>,
    /// Rings for links in memory.
    bell: Doorbell,
    /// Which one is asked first, so that a busy predecessor does not starve the others.
    turn: usize,
}

impl Inlets {
    pub(crate) fn new(open: Vec<(String, Link)>) -> Self {
        let bell = Doorbell::new();
        for (_, link) in &open {
            if let Link::Memory(link) = link {
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
            let (from, link) = &mut self.open[at];
            match link.receive(function, deadline) {
                Ok(delivery) => {
                    self.turn = at + 1;
                    return Ok(Some((from.clone(), delivery)));
                }
                Err(TransferError::Closed) => drop(self.open.remove(at)),
                Err(error) => {
                    return Err(Failure::transfer(
                        &format!("receiving from `{from}`"),
                        &error,
                    ))
                }
            }
        }
        Ok(None)
    }

    /// Waits until a link has something to say, and tells its place.
    fn wait(&self, deadline: Deadline) -> Result<usize, Failure> {
        let count = self.open.len();
        if count == 1 {
            // Its own receive waits.
            return Ok(0);
        }
        let names: Vec<_> = self.open.iter().map(|(from, _)| from.as_str()).collect();
        let doing = format!("receiving from `{}`", names.join("` or `"));
        let failed = |error| Failure::transfer(&doing, &error);
        loop {
            let readable = self.readable(Deadline::now()).map_err(failed)?;
            let ready = (0..count)
                .map(|step| (self.turn + step) % count)
                .find(|at| self.open[*at].1.is_ready() || readable.contains(at));
            if let Some(at) = ready {
                return Ok(at);
            }
            if deadline.has_passed() {
                return Err(failed(TransferError::Timeout));
            }
            if matches!(self.open[0].1, Link::Memory(_)) {
                // Whether it rang or the time is over, the loop finds out.
                let _ = self.bell.wait(deadline);
            } else {
                self.readable(deadline).map_err(failed)?;
            }
        }
    }

    /// Waits until a descriptor is readable, or the deadline; tells which are.
    fn readable(&self, deadline: Deadline) -> Result<Vec<usize>, TransferError> {
        let (places, mut descriptors): (Vec<_>, Vec<_>) = self
            .open
            .iter()
            .enumerate()
            .filter_map(|(at, (_, link))| {
                let descriptor = link.descriptor()?;
                Some((at, PollFd::new(descriptor, PollFlags::POLLIN)))
            })
            .unzip();
        if descriptors.is_empty() {
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
