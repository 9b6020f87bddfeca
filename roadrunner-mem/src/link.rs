//! A link between two threads of one process.

use crate::budget;
use crate::doorbell::Doorbell;
use crate::lane::{Lane, Message, Patience, Wait};
use crate::pages::{exchangeable, Staged};
use crate::policy::Policy;
use crate::slots::{SharedPayload, SlotTransfer, Slots, Trust};
use crate::sys::{Ending, Offer};
use crate::transfer::{receive_bytes, receive_into};
use crossbeam_utils::sync::Parker;
use roadrunner_core::memory::preferred_alignment;
use roadrunner_core::{
    Deadline, Delivery, Method, Payload, Receipt, Sink, Span, Transfer, TransferError,
};
use std::sync::Arc;

/// Two ends of a link, each to go to the thread of its function.
#[must_use]
pub fn link(policy: Policy) -> (Link, Link) {
    let policy = Arc::new(policy);
    let trust = policy.trusted.then(Trust::new);
    let (here, there) = (Parker::new(), Parker::new());
    let to_there = Arc::new(Lane::new(&policy, &here, &there));
    let to_here = Arc::new(Lane::new(&policy, &there, &here));
    let end = |outgoing: &Arc<Lane>, incoming: &Arc<Lane>, parker| Link {
        outgoing: outgoing.clone(),
        incoming: incoming.clone(),
        patience: Patience::new(policy.spin),
        policy: policy.clone(),
        parker,
        trust,
        closed: false,
        broken: false,
    };
    (
        end(&to_there, &to_here, here),
        end(&to_here, &to_there, there),
    )
}

/// One end of a link within a process.
///
/// Small payloads are copied into the link's queue, and given ones of many whole pages leave their memory by exchange:
/// `send` returns at once, until the link holds as much as its [`Policy`] allows. All others stay where they are until
/// the receiver has copied them, once, from memory to memory: `send` waits for that, so that the two ends must not be
/// served by one thread; for that there is [`transfer`](crate::transfer).
///
/// When the receiver's sink refuses a payload, the receiver gets the sink's error, and a sender that waits gets
/// [`NoRoom`](TransferError::NoRoom). The payload is lost, the link goes on.
#[derive(Debug)]
pub struct Link {
    outgoing: Arc<Lane>,
    incoming: Arc<Lane>,
    policy: Arc<Policy>,
    parker: Parker,
    patience: Patience,
    trust: Option<Trust>,
    closed: bool,
    broken: bool,
}

static_assertions::assert_impl_all!(Link: Send);

impl Link {
    /// Whether [`recv`](Transfer::recv) would not wait: there is a payload, or there will be none.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.incoming.is_ready()
    }

    /// Lets `bell` ring whenever something comes from the other end, and at once if there is something already. It takes
    /// the place of an earlier bell.
    pub fn hang(&self, bell: &Doorbell) {
        self.incoming.hang(bell);
    }

    /// Sends a payload that was [handed over](Slots::hand_over) or [shared](Slots::share). It stays the caller's as well, to
    /// be sent by other links, or dropped.
    ///
    /// # Errors
    /// As for [`send`](Transfer::send); [`Refused`](TransferError::Refused) for one that belongs to another trusted
    /// link.
    pub fn send_shared(
        &mut self,
        payload: &SharedPayload,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        self.check_send(payload.len())?;
        if !payload.may_go(self.trust) {
            return Err(TransferError::Refused(
                "the payload was handed over for another link, whose receiver still reaches it"
                    .to_owned(),
            ));
        }
        let wait = self.wait(deadline);
        let room = self
            .outgoing
            .wait_for_room(payload.len(), &self.policy, wait);
        let sent = room.and_then(|()| self.outgoing.push(Message::Shared(payload.again())));
        self.judge(sent)?;
        Ok(Receipt::new(
            payload.len(),
            payload.method(),
            payload.copies(),
        ))
    }

    /// Receives like [`recv`](Transfer::recv), and maps what was sent by [`send_shared`](Self::send_shared) into the
    /// sink's memory, whose slots these are. Such a region is given back by [`Slots::release`].
    ///
    /// # Errors
    /// As for [`recv`](Transfer::recv).
    pub fn recv_with(
        &mut self,
        slots: &mut Slots,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        if self.broken {
            return Err(TransferError::Broken);
        }
        let received = self.recv_now(Some(slots), sink, deadline);
        self.judge(received)
    }

    /// What [`Slots::hand_over`] needs to leave mappings where they are; only a link with a
    /// [trusted](Policy::trusted) policy has it.
    #[must_use]
    pub fn trust(&self) -> Option<Trust> {
        self.trust
    }

    fn wait(&self, deadline: Deadline) -> Wait<'_> {
        Wait {
            parker: &self.parker,
            patience: &self.patience,
            deadline,
        }
    }

    fn check_send(&self, len: u64) -> Result<(), TransferError> {
        if self.closed {
            return Err(TransferError::Closed);
        }
        if self.broken {
            return Err(TransferError::Broken);
        }
        self.policy.check(len)
    }

    fn send_now(
        &mut self,
        mut payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        let (len, region) = (payload.len(), payload.region());
        self.outgoing
            .wait_for_room(len, &self.policy, self.wait(deadline))?;
        if self.policy.inlines(len) {
            let message = self.outgoing.message(payload.span()?);
            self.outgoing.push(message)?;
            return Ok(Receipt::new(len, Method::Inline, u8::from(len > 0)));
        }
        let whole_pages = exchangeable(payload.memory(), region)?;
        if payload.is_given() && self.policy.exchanges(whole_pages) && budget::allows() {
            // Without memory for pages there is still the way that needs none.
            if let Ok(staged) = Staged::take(payload.memory(), region, &self.policy, self.trust) {
                let receipt = Receipt::new(len, staged.method(), staged.copies());
                self.outgoing.push(Message::Staged(staged))?;
                return Ok(receipt);
            }
        }
        self.offer(&mut payload, deadline)
    }

    fn offer(
        &mut self,
        payload: &mut Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        let len = payload.len();
        let mut published = None;
        let publish = |offer: Arc<Offer>| {
            if !self.outgoing.offer(offer.clone()) {
                offer.end(Ending::Orphaned);
            }
            published = Some(offer);
        };
        let wait = |offer: &Offer| {
            let wait = self.wait(deadline);
            self.outgoing.wait_for_end(offer, wait)
        };
        let ending = Offer::lend(payload.span()?, publish, wait);
        if let Some(offer) = published {
            self.outgoing.remove(&offer);
        }
        match ending {
            Ending::Taken => Ok(Receipt::new(len, Method::Copy, 1)),
            Ending::Withdrawn => Err(TransferError::Timeout),
            Ending::Orphaned => Err(TransferError::PeerClosed),
            Ending::Refused => Err(TransferError::NoRoom {
                len,
                reason: "the receiver's sink refused it".to_owned(),
            }),
        }
    }

    fn recv_now(
        &mut self,
        slots: Option<&mut Slots>,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        loop {
            let message = self.incoming.next(self.wait(deadline))?;
            let len = message.len();
            match message {
                Message::Small(_, bytes) => return put(&bytes[..len as usize], sink),
                Message::Inline(bytes) => {
                    let delivery = put(&bytes, sink);
                    self.incoming.recycle(bytes);
                    return delivery;
                }
                Message::Shared(payload) => {
                    let (method, before) = (payload.method(), payload.copies());
                    let (region, copies) = match slots {
                        Some(slots) => slots.receive(payload, sink, self.trust)?,
                        None => payload.copy_out(sink)?,
                    };
                    let method = if copies > 0 { Method::Copy } else { method };
                    let receipt = Receipt::new(len, method, before + copies);
                    return Ok(Delivery::new(region, receipt));
                }
                Message::Staged(staged) => {
                    let region = sink.reserve(len, preferred_alignment(len))?;
                    let put = receive_into(sink, region, len, |sink| staged.put(sink, region));
                    let (method, copies, used) = put?;
                    self.policy.pool.put(used, self.trust);
                    return Ok(Delivery::new(region, Receipt::new(len, method, copies)));
                }
                Message::Offer(offer) => {
                    // Ends an offer that nobody takes, also if the sink panics.
                    let refusal = Refusal {
                        lane: &self.incoming,
                        offer: &offer,
                    };
                    let region = sink.reserve(len, preferred_alignment(len))?;
                    let take = |target: Span<'_>| Ok(offer.take_into(target));
                    let taken = receive_bytes(sink, region, len, take)?;
                    drop(refusal);
                    if taken {
                        return Ok(Delivery::new(region, Receipt::new(len, Method::Copy, 1)));
                    }
                    // Withdrawn meanwhile.
                    sink.release(region);
                }
            }
        }
    }

    fn judge<T>(&mut self, result: Result<T, TransferError>) -> Result<T, TransferError> {
        self.broken |= matches!(result, Err(TransferError::PeerClosed));
        result
    }
}

/// Puts a payload that came in the queue into a region that it reserves.
#[inline]
fn put(payload: &[u8], sink: &mut dyn Sink) -> Result<Delivery, TransferError> {
    let len = payload.len() as u64;
    let region = sink.reserve(len, preferred_alignment(len))?;
    receive_bytes(sink, region, len, |target| {
        target.copy_from_slice(payload);
        Ok(())
    })?;
    let copies = if len > 0 { 2 } else { 0 };
    Ok(Delivery::new(
        region,
        Receipt::new(len, Method::Inline, copies),
    ))
}

/// Ends an offer as refused, unless it has ended otherwise, and takes it out of the queue.
struct Refusal<'a> {
    lane: &'a Lane,
    offer: &'a Arc<Offer>,
}

impl Drop for Refusal<'_> {
    fn drop(&mut self) {
        self.offer.end(Ending::Refused);
        self.lane.remove(self.offer);
    }
}

impl Transfer for Link {
    fn send(&mut self, payload: Payload<'_>, deadline: Deadline) -> Result<Receipt, TransferError> {
        self.check_send(payload.len())?;
        let sent = self.send_now(payload, deadline);
        self.judge(sent)
    }

    fn recv(&mut self, sink: &mut dyn Sink, deadline: Deadline) -> Result<Delivery, TransferError> {
        if self.broken {
            return Err(TransferError::Broken);
        }
        let received = self.recv_now(None, sink, deadline);
        self.judge(received)
    }

    fn close(&mut self, _deadline: Deadline) -> Result<(), TransferError> {
        if self.broken {
            return Err(TransferError::Broken);
        }
        self.closed = true;
        self.outgoing.close();
        Ok(())
    }

    fn is_open(&self) -> bool {
        !self.broken
    }
}

impl SlotTransfer for Link {
    fn send_shared(
        &mut self,
        payload: &SharedPayload,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        self.send_shared(payload, deadline)
    }

    fn recv_with(
        &mut self,
        slots: &mut Slots,
        sink: &mut dyn Sink,
        deadline: Deadline,
    ) -> Result<Delivery, TransferError> {
        self.recv_with(slots, sink, deadline)
    }

    fn trust(&self) -> Option<Trust> {
        self.trust()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.outgoing.leave_as_sender();
        self.incoming.leave_as_receiver();
    }
}
