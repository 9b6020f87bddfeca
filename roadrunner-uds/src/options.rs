//! What an end of a link may be told.

use roadrunner_core::DEFAULT_LIMIT;
use roadrunner_mem::{Pipes, Pump};
use std::time::Duration;

/// Which way payloads are carried. What really ran is in each [`Receipt`](roadrunner_core::Receipt).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// As [`Splice`](Self::Splice): it costs the sender a third of the processor time that writing does at 1 MiB and a
    /// sixth at 100 MB, and takes no longer (`examples/measure.rs`).
    #[default]
    Auto,
    /// Always written.
    Write,
    /// Spliced from [`Options::splice_from`] on where that can be done, and written otherwise. It can be done with
    /// payloads that are given away and whose memory is [`PrivateAnonymous`](roadrunner_core::Backing).
    Splice,
    /// Copied into a segment from [`Options::segment_from`] on, which is passed to the receiver: a receiver with slots
    /// ([`Link::recv_with`](crate::Link::recv_with)) maps it, any other copies it out. Where there is no segment free, as
    /// [`Auto`](Self::Auto).
    Segment,
}

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
    buffer: usize,
    uid: u32,
    handshake: Duration,
    preference: Preference,
    pipes: Pipes,
    splice_from: u64,
    segment_from: u64,
}

impl Default for Options {
    /// Payloads of up to [`DEFAULT_LIMIT`] bytes, socket buffers of 512 KiB, peers of the own effective uid, three seconds
    /// for a handshake, splicing from 1 MiB on through pipes of 256 KiB.
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            buffer: 512 << 10,
            uid: nix::unistd::geteuid().as_raw(),
            handshake: Duration::from_secs(3),
            preference: Preference::Auto,
            pipes: Pipes::new(256 << 10),
            splice_from: 1 << 20,
            segment_from: 1 << 20,
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
    /// `net.core.wmem_max`, socket(7)). On a UNIX socket the sender's decides how much is in flight. With less than the
    /// default, the two processes wake each other so often that splicing takes longer than writing.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes;
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

    /// Which way payloads are carried.
    #[must_use]
    pub fn prefer(mut self, preference: Preference) -> Self {
        self.preference = preference;
        self
    }

    /// Bytes of the pipes that payloads are spliced through, and of one step through them. The system rounds it up to a
    /// power of two of pages; 1 MiB is the most without privilege (pipe(7)).
    ///
    /// All links with these options, or with clones of them, share a pool of pipes.
    #[must_use]
    pub fn chunk(mut self, bytes: usize) -> Self {
        self.pipes = Pipes::new(bytes);
        self
    }

    /// Bytes of the smallest payload that is spliced. It needs a whole page, too.
    #[must_use]
    pub fn splice_from(mut self, bytes: u64) -> Self {
        self.splice_from = bytes;
        self
    }

    /// Bytes of the smallest payload that [`Preference::Segment`] copies into a segment.
    #[must_use]
    pub fn segment_from(mut self, bytes: u64) -> Self {
        self.segment_from = bytes;
        self
    }

    pub(crate) fn segment_bytes(&self) -> Option<u64> {
        (self.preference == Preference::Segment).then_some(self.segment_from)
    }

    /// What splices on a link, if anything does.
    pub(crate) fn pump(&self) -> Option<Pump> {
        let splices = self.preference != Preference::Write;
        splices.then(|| Pump::new(self.splice_from, self.pipes.clone()))
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit
    }

    pub(crate) fn buffer_bytes(&self) -> usize {
        self.buffer
    }

    pub(crate) fn allowed_uid(&self) -> u32 {
        self.uid
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.handshake
    }
}
