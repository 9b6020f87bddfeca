//! What a session has sent, and may have to send again.

use super::Session;
use crate::wire::{LOOK_AGAIN, WINDOW};
use roadrunner_core::frame::FrameError;
use roadrunner_core::{
    Deadline, HostMemory, Method, Payload, Receipt, Region, Transfer, TransferError,
};
use std::thread;

/// What can be heard of acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Something,
    /// A payload that this end has to receive first lies before them.
    Blocked,
}

/// How far what is kept is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Until the deadline. A connection that has taken a part of a payload by then is given up.
    Whole,
    /// As far as it goes without waiting.
    AtOnce,
}

impl Session {
    /// Whether the peer can have so many payloads.
    pub(super) fn check(&mut self, received: u64) -> Result<(), TransferError> {
        if (self.acknowledged..=self.next_out).contains(&received) {
            return Ok(());
        }
        self.broken = true;
        Err(FrameError::Unexpected("an acknowledgement of what was not sent").into())
    }

    /// The peer has so many payloads.
    pub(super) fn settle(&mut self, acknowledged: u64) {
        self.acknowledged = acknowledged;
        while self
            .kept
            .front()
            .is_some_and(|(number, _)| *number < acknowledged)
        {
            self.kept.pop_front();
        }
    }

    /// Takes note of what has been acknowledged on this connection.
    pub(super) fn take_note(&mut self) {
        if let Some(link) = &self.link {
            self.settle(self.first_on_link + link.wire().acknowledged_payloads());
        }
    }

    /// Whether everything that was sent has been acknowledged, and nothing follows.
    pub(super) fn is_finished(&self) -> bool {
        self.sent_end && self.acknowledged == self.next_out
    }

    /// Sends what is kept and has not been sent on this connection; and the end, once all of it is acknowledged: a peer
    /// that has it needs nothing else from here.
    pub(super) fn flush(&mut self, deadline: Deadline) -> Result<Option<Receipt>, TransferError> {
        self.flush_by(Pace::Whole, deadline)
    }

    pub(super) fn flush_by(
        &mut self,
        pace: Pace,
        deadline: Deadline,
    ) -> Result<Option<Receipt>, TransferError> {
        let mut last = None;
        loop {
            self.ready(deadline)?;
            match self.flush_once(pace, &mut last, deadline) {
                Ok(()) => return Ok(last),
                Err(error) => self.judge(error, deadline)?,
            }
        }
    }

    pub(super) fn flush_once(
        &mut self,
        pace: Pace,
        last: &mut Option<Receipt>,
        deadline: Deadline,
    ) -> Result<(), TransferError> {
        let link = self.link.as_mut().ok_or(TransferError::Broken)?;
        for (number, memory) in &mut self.kept {
            if *number == self.next_on_link {
                let region = memory.region();
                let payload = Payload::kept(memory, region)?;
                let sent = match pace {
                    Pace::Whole => link.send(payload, deadline)?,
                    // Its place is this session's, so that the rest may follow later.
                    Pace::AtOnce => link
                        .try_send_until(payload, deadline)?
                        .ok_or(TransferError::Timeout)?,
                };
                *last = Some(sent);
                self.next_on_link += 1;
            }
        }
        self.take_note();
        if self.is_finished() {
            let link = self.link.as_mut().ok_or(TransferError::Broken)?;
            link.try_close()?;
        }
        Ok(())
    }

    /// Waits for acknowledgements.
    pub(super) fn hear(&mut self, deadline: Deadline) -> Result<Heard, TransferError> {
        self.ready(deadline)?;
        let link = self.link.as_mut().ok_or(TransferError::Broken)?;
        match link.listen(deadline) {
            // Nothing can be heard before what has come is received.
            Ok(false) if link.has_body_ahead() => Ok(Heard::Blocked),
            Ok(_) => {
                self.take_note();
                Ok(Heard::Something)
            }
            Err(error) => {
                self.judge(error, deadline)?;
                Ok(Heard::Something)
            }
        }
    }

    /// Keeps a copy and sends that, if the connection allows it before the deadline; else later.
    pub(super) fn send_copy(
        &mut self,
        payload: &mut Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        while !self.has_room(payload.len()) {
            self.flush(deadline)?;
            if self.has_room(payload.len()) {
                break;
            }
            if self.hear(deadline)? == Heard::Blocked {
                thread::sleep(LOOK_AGAIN.min(deadline.remaining().unwrap_or_default()));
            }
            if deadline.has_passed() {
                return Err(TransferError::Timeout);
            }
        }
        self.keep_copy(self.next_out, payload)?;
        self.next_out += 1;
        let sent = match self.flush(deadline) {
            Ok(sent) => sent,
            // It is kept.
            Err(TransferError::Timeout) => None,
            Err(error) => return Err(error),
        };
        let (bytes, copied) = (payload.len(), u8::from(!payload.is_empty()));
        let method = sent.map_or(Method::Write, Receipt::method);
        Ok(Receipt::new(bytes, method, 2 * copied))
    }

    fn has_room(&self, len: u64) -> bool {
        let fits = self.kept() + len <= self.keep && self.kept.len() < WINDOW;
        fits || self.kept.is_empty()
    }

    fn keep_copy(&mut self, number: u64, payload: &mut Payload<'_>) -> Result<(), TransferError> {
        let span = payload.span()?;
        let mut copy = vec![0; span.len()];
        span.copy_to_slice(&mut copy);
        self.kept.push_back((number, HostMemory::from(copy)));
        Ok(())
    }

    /// Sends a payload from its place, and returns when it has been acknowledged.
    pub(super) fn send_in_place(
        &mut self,
        payload: &mut Payload<'_>,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        self.flush(deadline)?;
        let (number, region) = (self.next_out, payload.region());
        self.next_out += 1;
        // Whether the peer may have seen some of it.
        let mut started = false;
        let sent = self.deliver(number, region, payload, &mut started, deadline);
        if sent.is_err() {
            if started {
                // Its place is the caller's again, and it cannot be taken back.
                self.broken = true;
            } else {
                self.next_out = number;
            }
        }
        sent
    }

    fn deliver(
        &mut self,
        number: u64,
        region: Region,
        payload: &mut Payload<'_>,
        started: &mut bool,
        deadline: Deadline,
    ) -> Result<Receipt, TransferError> {
        let copies = u8::from(!region.is_empty());
        let mut receipt = Receipt::new(region.len(), Method::Write, copies);
        loop {
            self.flush(deadline)?;
            if self.acknowledged > number {
                return Ok(receipt);
            }
            if self.next_on_link == number {
                let link = self.link.as_mut().ok_or(TransferError::Broken)?;
                let sent = link.send(Payload::kept(payload.memory(), region)?, deadline);
                *started |= sent.is_ok() || !link.is_open();
                match sent {
                    Ok(sent) => {
                        receipt = sent;
                        self.next_on_link += 1;
                    }
                    Err(error) => self.judge(error, deadline)?,
                }
                continue;
            }
            if self.hear(deadline)? == Heard::Blocked {
                // Nobody but the caller can receive what lies before the acknowledgement.
                self.keep_copy(number, payload)?;
                return Ok(Receipt::new(region.len(), receipt.method(), 2 * copies));
            }
            if self.acknowledged <= number && deadline.has_passed() {
                return Err(TransferError::Timeout);
            }
        }
    }
}
