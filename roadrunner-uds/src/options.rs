//! What an end of a link may be told.

use roadrunner_core::DEFAULT_LIMIT;
use std::time::Duration;

/// How to listen, to connect and to carry.
///
/// ```
/// use roadrunner_uds::Options;
///
/// let options = Options::default().limit(64 << 20).buffer(1 << 20);
/// # drop(options);
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    limit: u64,
    buffer: Option<usize>,
    uid: u32,
    handshake: Duration,
}

impl Default for Options {
    /// Payloads of up to [`DEFAULT_LIMIT`] bytes, the system's buffers, peers of the own effective uid, three seconds
    /// for a handshake.
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            buffer: None,
            uid: nix::unistd::geteuid().as_raw(),
            handshake: Duration::from_secs(3),
        }
    }
}

impl Options {
    /// Bytes of the longest payload that this end takes. The link's limit is the lower one of its two ends.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// Bytes of the socket's buffers (`SO_SNDBUF`, `SO_RCVBUF`; the system doubles the number and caps it at
    /// `net.core.wmem_max`, socket(7)). On a UNIX socket the sender's decides how much is in flight.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = Some(bytes);
        self
    }

    /// The user whose processes may be at the other end.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    /// How long an accepted peer may take to say what it wants.
    #[must_use]
    pub fn handshake(mut self, timeout: Duration) -> Self {
        self.handshake = timeout;
        self
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit
    }

    pub(crate) fn buffer_bytes(&self) -> Option<usize> {
        self.buffer
    }

    pub(crate) fn allowed_uid(&self) -> u32 {
        self.uid
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.handshake
    }
}
