//! One direction of a link: a bounded queue between two threads.

use crate::doorbell::{locked, Doorbell};
use crate::pages::Staged;
use crate::policy::Policy;
use crate::slots::SharedPayload;
use crate::sys::{Ending, Offer};
use roadrunner_core::{Deadline, TransferError};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What is on its way.
#[derive(Debug)]
pub(crate) enum Message {
    /// A small payload, copied out of the sender's memory.
    Inline(Box<[u8]>),
    /// The pages of a payload.
    Staged(Staged),
    /// A payload that is still in the sender's memory.
    Offer(Arc<Offer>),
    /// A payload in a segment.
    Shared(SharedPayload),
}

impl Message {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Staged(staged) => staged.len(),
            Self::Offer(offer) => offer.len() as u64,
            Self::Shared(payload) => payload.len(),
        }
    }

    /// Bytes that it holds outside the two memories.
    fn held(&self) -> u64 {
        match self {
            Self::Offer(_) => 0,
            other => other.len(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Message>,
    bytes: u64,
    closed: bool,
    sender_gone: bool,
    receiver_gone: bool,
    bell: Option<Doorbell>,
}

impl State {
    fn is_ready(&self) -> bool {
        !self.queue.is_empty() || self.closed || self.sender_gone
    }
}

impl Lane {
    /// Waits until there is room for a payload of `len` bytes. Only the sender fills the queue: the room stays.
    pub(crate) fn wait_for_room(
        &self,
        len: u64,
        policy: &Policy,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        let mut state = locked(&self.state);
        loop {
            if state.receiver_gone {
                return Err(TransferError::PeerClosed);
            }
            let room = state.queue.is_empty()
                || (state.queue.len() < policy.messages
                    && state.bytes.saturating_add(len) <= policy.bytes);
            if room {
                return Ok(());
            }
            state = self.wait(state, deadline)?;
        }
    }

    pub(crate) fn push(&self, message: Message) -> Result<(), TransferError> {
        let mut state = locked(&self.state);
        if state.receiver_gone {
            return Err(TransferError::PeerClosed);
        }
        state.bytes += message.held();
        state.queue.push_back(message);
        self.tell(state);
        Ok(())
    }

    /// Waits for the next message. An offer stays in the queue until it has ended, everything else is taken out.
    pub(crate) fn next(&self, deadline: Deadline) -> Result<Message, TransferError> {
        let mut state = locked(&self.state);
        loop {
            match state.queue.front() {
                Some(Message::Offer(offer)) => return Ok(Message::Offer(offer.clone())),
                Some(_) => {
                    if let Some(message) = state.queue.pop_front() {
                        state.bytes -= message.held();
                        self.changed.notify_all();
                        return Ok(message);
                    }
                }
                None if state.closed => return Err(TransferError::Closed),
                None if state.sender_gone => return Err(TransferError::PeerClosed),
                None => {}
            }
            state = self.wait(state, deadline)?;
        }
    }

    /// Whether [`next`](Self::next) would return at once.
    pub(crate) fn is_ready(&self) -> bool {
        locked(&self.state).is_ready()
    }

    /// Takes an offer that has ended out of the queue.
    pub(crate) fn remove(&self, offer: &Arc<Offer>) {
        let mut state = locked(&self.state);
        state.queue.retain(
            |message| !matches!(message, Message::Offer(other) if Arc::ptr_eq(other, offer)),
        );
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        let mut state = locked(&self.state);
        state.closed = true;
        self.tell(state);
    }

    pub(crate) fn leave_as_sender(&self) {
        let mut state = locked(&self.state);
        state.sender_gone = true;
        self.tell(state);
    }

    pub(crate) fn leave_as_receiver(&self) {
        let mut state = locked(&self.state);
        state.receiver_gone = true;
        let queue = std::mem::take(&mut state.queue);
        self.tell(state);
        for message in queue {
            if let Message::Offer(offer) = message {
                offer.end(Ending::Orphaned);
            }
        }
    }

    pub(crate) fn hang(&self, bell: &Doorbell) {
        let mut state = locked(&self.state);
        state.bell = Some(bell.clone());
        if state.is_ready() {
            bell.ring();
        }
    }

    fn tell(&self, state: MutexGuard<'_, State>) {
        if let Some(bell) = &state.bell {
            bell.ring();
        }
        drop(state);
        self.changed.notify_all();
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Deadline,
    ) -> Result<MutexGuard<'a, State>, TransferError> {
        let left = deadline.remaining().ok_or(TransferError::Timeout)?;
        Ok(self
            .changed
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0)
    }
}
