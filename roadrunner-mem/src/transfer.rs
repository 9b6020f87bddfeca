//! A transfer with both memories at hand.

use crate::pages::{exchangeable, hand_over};
use crate::policy::Policy;
use crate::sys::Exchanged;
use roadrunner_core::memory::preferred_alignment;
use roadrunner_core::{Delivery, Method, Payload, Receipt, Region, Sink, Span, TransferError};

/// Moves a payload into a region that it reserves in `sink`, at once and in this thread: by exchange of its pages if it
/// is given and `policy` says so, else by one copy.
///
/// What comes back to the sender of an exchanged payload are clean pages of the policy's [pool](crate::PagePool), to which
/// those of the receiver go; or the receiver's, cleared in this call, if the pool has none. If the policy says
/// [`trusted`](Policy::trusted) it is the receiver's pages as they are.
///
/// # Errors
/// What the sink returned, [`OutOfBounds`](TransferError::OutOfBounds) or [`NoRoom`](TransferError::NoRoom) if the
/// region it reserved is not what was asked for, [`TooLarge`](TransferError::TooLarge) if it is longer than the policy
/// allows. What was reserved has been released, and the payload is where it was.
#[inline]
pub fn transfer(
    mut payload: Payload<'_>,
    sink: &mut dyn Sink,
    policy: &Policy,
) -> Result<Delivery, TransferError> {
    let (len, from) = (payload.len(), payload.region());
    policy.check(len)?;
    let region = sink.reserve(len, preferred_alignment(len))?;
    if !(payload.is_given() && policy.may_exchange(len)) {
        receive_bytes(sink, region, len, |target| {
            target.copy_from(payload.span()?);
            Ok(())
        })?;
        let receipt = Receipt::new(len, Method::Copy, u8::from(len > 0));
        return Ok(Delivery::new(region, receipt));
    }
    let receipt = receive_into(sink, region, len, |sink| {
        if policy.exchanges(exchangeable(payload.memory(), from)?) {
            let (source, target) = (payload.memory(), sink.memory());
            return Ok(match hand_over(source, from, target, region, policy)? {
                Exchanged::Pages => Receipt::new(len, Method::Exchange, 0),
                Exchanged::Copied => Receipt::new(len, Method::Copy, 1),
            });
        }
        region.span(sink.memory())?.copy_from(payload.span()?);
        Ok(Receipt::new(len, Method::Copy, u8::from(len > 0)))
    })?;
    Ok(Delivery::new(region, receipt))
}

/// Fills the bytes of a reserved region by `fill`, and releases it if that fails or if it is not the region that was asked
/// for: [`receive_into`] for who needs no more than the bytes, with one look at the memory.
#[inline]
pub(crate) fn receive_bytes<T>(
    sink: &mut dyn Sink,
    region: Region,
    len: u64,
    fill: impl FnOnce(Span<'_>) -> Result<T, TransferError>,
) -> Result<T, TransferError> {
    let filled = region.span(sink.memory()).and_then(|span| {
        right_length(region, len)?;
        fill(span)
    });
    if filled.is_err() {
        sink.release(region);
    }
    filled
}

/// Fills a reserved region by `fill`, and releases it if that fails or if it is not the region that was asked for.
#[inline]
pub(crate) fn receive_into<T>(
    sink: &mut dyn Sink,
    region: Region,
    len: u64,
    fill: impl FnOnce(&mut dyn Sink) -> Result<T, TransferError>,
) -> Result<T, TransferError> {
    let filled = check(sink, region, len).and_then(|()| fill(sink));
    if filled.is_err() {
        sink.release(region);
    }
    filled
}

#[inline]
fn check(sink: &mut dyn Sink, region: Region, len: u64) -> Result<(), TransferError> {
    region.span(sink.memory())?;
    right_length(region, len)
}

#[inline]
fn right_length(region: Region, len: u64) -> Result<(), TransferError> {
    if region.len() == len {
        return Ok(());
    }
    Err(TransferError::NoRoom {
        len,
        reason: format!("{} bytes were reserved", region.len()),
    })
}
