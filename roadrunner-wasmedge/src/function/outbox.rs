//! Where payloads go that a function sends while it runs.

use super::Given;
use roadrunner_core::{Payload, TransferError};

/// Where payloads go that a function sends by name while it runs.
pub trait Outbox {
    /// Sends one payload to the function's successor `target`. The function waits meanwhile, so its memory may be
    /// touched. A panic becomes an error code for the function.
    ///
    /// # Errors
    /// [`UnknownTarget`](SendError::UnknownTarget), or what the transfer failed with.
    fn send(&mut self, target: &str, payload: Payload<'_>) -> Result<(), SendError>;

    /// Sends what the function gives away. Unless an outbox knows more about it, that is [`send`](Self::send) of
    /// [a payload](Given::payload); one that has links in memory uses [`Given::send`], which hands slots over.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    fn give(&mut self, target: &str, mut given: Given<'_>) -> Result<(), SendError> {
        self.send(target, given.payload()?)
    }
}

/// The outbox of a function that has nobody to send to: every target is unknown.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoOutbox;

impl Outbox for NoOutbox {
    fn send(&mut self, _target: &str, _payload: Payload<'_>) -> Result<(), SendError> {
        Err(SendError::UnknownTarget)
    }
}

/// Why a payload was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The name is no successor's.
    #[error("there is no successor of that name")]
    UnknownTarget,
    /// The transfer failed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}
