//! One direction of a link: a bounded queue between two threads, without a lock on the way of small payloads.
//!
//! One end alone pushes, the other alone takes out. What either tells the other is a push or a flag, then a fence, then a
//! look whether the other sleeps; and who is about to sleep says so, then a fence, then looks once more. So of the two at
//! least one sees the other (the store of each before the fence is seen after the other's).

use crate::doorbell::{locked, Doorbell};
use crate::pages::Staged;
use crate::policy::Policy;
use crate::slots::SharedPayload;
use crate::sys::{Ending, Offer};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::sync::{Parker, Unparker};
use crossbeam_utils::{Backoff, CachePadded};
use roadrunner_core::{Deadline, Span, TransferError};
use std::sync::atomic::{fence, AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes that go in the queue itself: a cache line of payload, in places that are little longer.
const SMALL: usize = 70;
/// Buffers of longer payloads that are kept for the next ones.
const SPARE: usize = 8;
/// How often a sender looks for a quarter of the queue before it takes whatever is free: 1 to 2 microseconds.
const PATIENT_LOOKS: u32 = 6;
/// Messages that a queue has room for at most, whatever the policy says: the room is there from the beginning.
const MOST: usize = 4096;

/// What is on its way.
#[derive(Debug)]
pub(crate) enum Message {
    /// A small payload, copied out of the sender's memory.
    Small(u8, [u8; SMALL]),
    /// A longer one.
    Inline(Vec<u8>),
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
            Self::Small(len, _) => u64::from(*len),
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Staged(staged) => staged.len(),
            Self::Offer(offer) => offer.len() as u64,
            Self::Shared(payload) => payload.len(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Lane {
    queue: ArrayQueue<Message>,
    /// What the sender has put into the queue so far, and what of it was taken out when it last looked. Nobody else writes
    /// here, nor looks: neither end has to wait for the other's cache.
    sent: CachePadded<Total>,
    seen: CachePadded<Total>,
    /// What the receiver has taken out so far.
    taken: CachePadded<Total>,
    /// Buffers that the receiver has emptied.
    spare: ArrayQueue<Vec<u8>>,
    /// What is offered after all that is in the queue. The sender waits meanwhile: there is one at most.
    offer: Mutex<Option<Arc<Offer>>>,
    is_offered: AtomicBool,
    closed: AtomicBool,
    sender_gone: AtomicBool,
    receiver_gone: AtomicBool,
    sender: Side,
    receiver: Side,
    bell: Mutex<Option<Doorbell>>,
    has_bell: AtomicBool,
}

impl Lane {
    /// For two ends that sleep in these places.
    pub(crate) fn new(policy: &Policy, sender: &Parker, receiver: &Parker) -> Self {
        Self {
            queue: ArrayQueue::new(policy.messages.clamp(1, MOST)),
            sent: CachePadded::default(),
            seen: CachePadded::default(),
            taken: CachePadded::default(),
            spare: ArrayQueue::new(SPARE),
            offer: Mutex::default(),
            is_offered: AtomicBool::default(),
            closed: AtomicBool::default(),
            sender_gone: AtomicBool::default(),
            receiver_gone: AtomicBool::default(),
            sender: Side::new(sender),
            receiver: Side::new(receiver),
            bell: Mutex::default(),
            has_bell: AtomicBool::default(),
        }
    }

    /// Waits until there is room for a payload of `len` bytes. Only the sender fills the queue: the room stays.
    pub(crate) fn wait_for_room(
        &self,
        len: u64,
        policy: &Policy,
        wait: Wait<'_>,
    ) -> Result<(), TransferError> {
        // That nobody is there any more is seen behind the push.
        if self.has_room(len, policy) {
            return Ok(());
        }
        self.sender.wait(wait, || {
            if self.receiver_gone.load(Ordering::Acquire) {
                return Some(Err(TransferError::PeerClosed));
            }
            let room = self.has_room(len, policy) || self.look_for_room(len, policy);
            room.then_some(Ok(()))
        })?
    }

    /// Looks what the receiver has taken out. A sender that runs ahead of it gets a few places at once, not each of them as
    /// soon as it is there: two ends that work on neighbouring places take each other's cache lines away.
    fn look_for_room(&self, len: u64, policy: &Policy) -> bool {
        let backoff = Backoff::new();
        for _ in 0..PATIENT_LOOKS {
            let taken = self.taken.get();
            self.seen.set(taken);
            let used = self.sent.get().0.wrapping_sub(taken.0);
            let most = self.queue.capacity() as u64;
            if used <= most - most.div_ceil(4) {
                break;
            }
            backoff.spin();
        }
        self.has_room(len, policy)
    }

    /// Whether there is room, by what the sender has seen: there may be more.
    fn has_room(&self, len: u64, policy: &Policy) -> bool {
        let (sent, seen) = (self.sent.get(), self.seen.get());
        // The totals may wrap around, the differences are small.
        let messages = sent.0.wrapping_sub(seen.0);
        let bytes = sent.1.wrapping_sub(seen.1);
        let fits = bytes.saturating_add(len) <= policy.bytes;
        messages == 0 || (messages < self.queue.capacity() as u64 && fits)
    }

    /// A message with these bytes.
    pub(crate) fn message(&self, payload: Span<'_>) -> Message {
        let len = payload.len();
        if len <= SMALL {
            let mut bytes = [0; SMALL];
            payload.copy_to_slice(&mut bytes);
            return Message::Small(len as u8, bytes);
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.resize(len, 0);
        payload.copy_to_slice(&mut bytes);
        Message::Inline(bytes)
    }

    /// Takes the buffer of a message back that has been delivered.
    pub(crate) fn recycle(&self, bytes: Vec<u8>) {
        // Those that are too many are dropped.
        let _ = self.spare.push(bytes);
    }

    /// Sends a message for which there is room.
    pub(crate) fn push(&self, message: Message) -> Result<(), TransferError> {
        self.sent.add(message.len());
        if self.queue.push(message).is_err() {
            // Nobody waited for room.
            return Err(TransferError::Broken);
        }
        self.tell_receiver();
        // What is still there nobody has received, nor will. What is not was received, or fell to a receiver that died with
        // it unread, as behind every send that does not wait: the next one says so.
        if self.receiver_gone.load(Ordering::Relaxed) && self.drain() {
            return Err(TransferError::PeerClosed);
        }
        Ok(())
    }

    /// Offers a payload after all that is in the queue; false if the receiver is gone.
    pub(crate) fn offer(&self, offer: Arc<Offer>) -> bool {
        {
            let mut place = locked(&self.offer);
            // Whoever goes says so first, and then looks here.
            if self.receiver_gone.load(Ordering::SeqCst) {
                return false;
            }
            *place = Some(offer);
            self.is_offered.store(true, Ordering::Release);
        }
        self.tell_receiver();
        true
    }

    /// Waits for the end of an offer; `None` at the deadline.
    pub(crate) fn wait_for_end(&self, offer: &Offer, wait: Wait<'_>) -> Option<Ending> {
        self.sender.wait(wait, || offer.ending()).ok()
    }

    /// Waits for the next message. An offer stays where it is until it has ended, everything else is taken out.
    #[inline]
    pub(crate) fn next(&self, wait: Wait<'_>) -> Result<Message, TransferError> {
        if let Some(message) = self.pop() {
            return Ok(message);
        }
        self.receiver.wait(wait, || self.try_next())?
    }

    fn try_next(&self) -> Option<Result<Message, TransferError>> {
        if let Some(message) = self.pop() {
            return Some(Ok(message));
        }
        // What came before these is in the queue by the time that they are seen.
        let is_offered = self.is_offered.load(Ordering::Acquire);
        let closed = self.closed.load(Ordering::Acquire);
        let gone = self.sender_gone.load(Ordering::Acquire);
        if !(is_offered || closed || gone) {
            return None;
        }
        if let Some(message) = self.pop() {
            return Some(Ok(message));
        }
        if let Some(offer) = is_offered.then(|| locked(&self.offer).clone()).flatten() {
            return Some(Ok(Message::Offer(offer)));
        }
        match (closed, gone) {
            (true, _) => Some(Err(TransferError::Closed)),
            (false, true) => Some(Err(TransferError::PeerClosed)),
            (false, false) => None,
        }
    }

    fn pop(&self) -> Option<Message> {
        let message = self.queue.pop()?;
        self.taken.add(message.len());
        self.sender.wake();
        Some(message)
    }

    /// Whether [`next`](Self::next) would return at once.
    pub(crate) fn is_ready(&self) -> bool {
        let flags = [&self.is_offered, &self.closed, &self.sender_gone];
        !self.queue.is_empty() || flags.iter().any(|flag| flag.load(Ordering::Acquire))
    }

    /// Takes away an offer that has ended, and tells the sender of its end.
    pub(crate) fn remove(&self, offer: &Arc<Offer>) {
        {
            let mut place = locked(&self.offer);
            if place
                .as_ref()
                .is_some_and(|other| Arc::ptr_eq(other, offer))
            {
                *place = None;
                self.is_offered.store(false, Ordering::Release);
            }
        }
        self.sender.wake();
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.tell_receiver();
    }

    pub(crate) fn leave_as_sender(&self) {
        self.sender_gone.store(true, Ordering::Release);
        self.tell_receiver();
    }

    pub(crate) fn leave_as_receiver(&self) {
        self.receiver_gone.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.drain();
        if let Some(offer) = locked(&self.offer).take() {
            offer.end(Ending::Orphaned);
        }
        self.sender.wake();
    }

    /// Drops what nobody will receive; whether there was something.
    fn drain(&self) -> bool {
        let mut some = false;
        while self.queue.pop().is_some() {
            some = true;
        }
        while self.spare.pop().is_some() {}
        some
    }

    pub(crate) fn hang(&self, bell: &Doorbell) {
        *locked(&self.bell) = Some(bell.clone());
        self.has_bell.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.is_ready() {
            bell.ring();
        }
    }

    fn tell_receiver(&self) {
        self.receiver.wake();
        if self.has_bell.load(Ordering::Relaxed) {
            if let Some(bell) = &*locked(&self.bell) {
                bell.ring();
            }
        }
    }
}

/// How many messages, and their bytes, that only one thread counts.
#[derive(Debug, Default)]
struct Total {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Total {
    /// What was counted before is seen with it.
    fn get(&self) -> (u64, u64) {
        let messages = self.messages.load(Ordering::Acquire);
        (messages, self.bytes.load(Ordering::Acquire))
    }

    fn set(&self, (messages, bytes): (u64, u64)) {
        self.bytes.store(bytes, Ordering::Release);
        self.messages.store(messages, Ordering::Release);
    }

    fn add(&self, len: u64) {
        let (messages, bytes) = self.get();
        self.set((messages.wrapping_add(1), bytes.wrapping_add(len)));
    }
}

/// Where one end of a lane sleeps.
#[derive(Debug)]
struct Side {
    sleeps: CachePadded<AtomicBool>,
    unparker: Unparker,
}

impl Side {
    fn new(parker: &Parker) -> Self {
        Self {
            sleeps: CachePadded::default(),
            unparker: parker.unparker().clone(),
        }
    }

    /// Looks until there is something, or it is too late: at once, then for a while without sleeping, then when woken up.
    fn wait<T>(
        &self,
        wait: Wait<'_>,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, TransferError> {
        if let Some(found) = look() {
            return Ok(found);
        }
        if let Some(found) = wait.patience.spin(wait.deadline, &mut look) {
            return Ok(found);
        }
        loop {
            self.sleeps.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let found = look();
            let late = wait.deadline.has_passed();
            if found.is_none() && !late {
                wait.parker.park_deadline(wait.deadline.instant());
            }
            self.sleeps.store(false, Ordering::Relaxed);
            match found {
                Some(found) => return Ok(found),
                None if late => return Err(TransferError::Timeout),
                None => {}
            }
        }
    }

    /// Wakes it up if it sleeps. What it is to see has been stored before.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeps.load(Ordering::Relaxed) && self.sleeps.swap(false, Ordering::Relaxed) {
            self.unparker.unpark();
        }
    }
}

/// Looks before the first one at the clock: half a microsecond.
const GLANCES: u32 = 16;

/// How an end waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait<'a> {
    pub(crate) parker: &'a Parker,
    pub(crate) patience: &'a Patience,
    pub(crate) deadline: Deadline,
}

/// How long an end looks before it sleeps: as long as the policy says while that pays, and ever shorter while it does not.
#[derive(Debug)]
pub(crate) struct Patience {
    most: u64,
    now: AtomicU64,
}

impl Patience {
    pub(crate) fn new(most: Duration) -> Self {
        // With one processor, whoever is waited for cannot run meanwhile.
        let alone = std::thread::available_parallelism().map_or(1, usize::from) == 1;
        let most = if alone { Duration::ZERO } else { most };
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Self {
            most,
            now: AtomicU64::new(most),
        }
    }

    fn spin<T>(&self, deadline: Deadline, look: &mut impl FnMut() -> Option<T>) -> Option<T> {
        let budget = self.now.load(Ordering::Relaxed);
        if budget == 0 {
            return None;
        }
        // To ask for the time takes longer than an answer that is under way.
        for _ in 0..GLANCES {
            std::hint::spin_loop();
            if let Some(found) = look() {
                return Some(found);
            }
        }
        let began = Instant::now();
        let left = Duration::from_nanos(budget).min(deadline.remaining()?);
        let backoff = Backoff::new();
        while began.elapsed() < left {
            backoff.snooze();
            if let Some(found) = look() {
                self.now
                    .store(budget.saturating_mul(2).min(self.most), Ordering::Relaxed);
                return Some(found);
            }
        }
        // A sixteenth stays, to find out when it pays again.
        self.now
            .store((budget / 2).max(self.most / 16), Ordering::Relaxed);
        None
    }
}
