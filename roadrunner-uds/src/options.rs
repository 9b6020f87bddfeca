//! What an end of a link may be told.

use crate::ring::SIZES;
use roadrunner_core::DEFAULT_LIMIT;
use roadrunner_mem::{Audience, Pipes, Pump};
use std::num::NonZero;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// Which way payloads are carried. What really ran is in each [`Receipt`](roadrunner_core::Receipt).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// From [`Options::segment_from`] on in a segment if the peer [maps](Options::slots) it; else, from
    /// [`Options::ring_from`] on, through the ring, if the peer waits there; else as [`Splice`](Self::Splice) on a
    /// trusted link, and as [`Write`](Self::Write) on a strict one. Where each of
    /// them begins to be worth it was measured (`cargo xtask bench --only uds`).
    #[default]
    Auto,
    /// Always written.
    Write,
    /// Spliced from [`Options::splice_from`] on where that can be done, and written otherwise. It can be done with
    /// payloads that are given away and whose memory is [`PrivateAnonymous`](roadrunner_core::Backing). Only on a trusted
    /// link do their pages come back; on a strict one new ones are taken up in their place.
    Splice,
    /// Copied into a segment from [`Options::segment_from`] on, which is passed to the receiver: a receiver with slots
    /// ([`Link::recv_with`](crate::Link::recv_with)) maps it, any other copies it out. Where there is no segment free, as
    /// [`Splice`](Self::Splice).
    Segment,
    /// Copied through the ring from [`Options::ring_from`] on, piece by piece, where the peer waits in
    /// [`recv`](roadrunner_core::Transfer::recv) and not for the descriptor; otherwise as [`Splice`](Self::Splice).
    Ring,
}

/// Which links are trusted, as far as this end goes.
#[derive(Debug, Clone)]
pub(crate) enum Trusts {
    Nobody,
    All,
    Named(Arc<[String]>),
}

impl Trusts {
    /// Whether it does not depend on the name of the link.
    pub(crate) fn is_unconditional(&self) -> bool {
        matches!(self, Self::All)
    }

    pub(crate) fn includes(&self, name: &str) -> bool {
        match self {
            Self::Nobody => false,
            Self::All => true,
            Self::Named(names) => names.iter().any(|one| one == name),
        }
    }
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
    ring: usize,
    ring_from: u64,
    spin: Duration,
    trusts: Trusts,
    slots: bool,
    audience: Option<Audience>,
}

impl Default for Options {
    /// Payloads of up to [`DEFAULT_LIMIT`] bytes, socket buffers of 512 KiB, peers of the own effective uid, three seconds
    /// for a handshake, splicing from 1 MiB on through pipes of 256 KiB, segments from 1 MiB on, a ring of 256 KiB each
    /// way for payloads from 16 KiB on, 50 µs of looking before sleeping, no trust.
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
            ring: 256 << 10,
            ring_from: 16 << 10,
            spin: Duration::from_micros(50),
            trusts: Trusts::Nobody,
            slots: false,
            audience: None,
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
    ///
    /// In a user namespace all users that it does not know have one uid, the overflow uid (65534, user_namespaces(7)): where
    /// that one is allowed, as it is for a process that itself runs as `nobody`, all of them are. Run as another user there.
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

    /// Bytes of the smallest payload that [`Preference::Auto`] and [`Preference::Segment`] copy into a segment.
    #[must_use]
    pub fn segment_from(mut self, bytes: u64) -> Self {
        self.segment_from = bytes;
        self
    }

    /// Bytes of the ring, each way: memory that only the two processes of a link map, and through which small frames, and
    /// those about segments, go without a system call to a peer that is awake. Rounded up to a power of two, from 4 KiB to
    /// 16 MiB; 0 for none, as if the peer did not know of rings. It is the connecting side's number that counts.
    ///
    /// A peer is awake while it waits in [`recv`](roadrunner_core::Transfer::recv) and has not gone to sleep yet. From one
    /// operation to the next it counts as awake as well, until somebody asks the link for its descriptor
    /// ([`AsFd`](std::os::fd::AsFd)): from then on whatever comes makes that readable, or
    /// [`Link::has_pending`](crate::Link::has_pending) true.
    #[must_use]
    pub fn ring(mut self, bytes: usize) -> Self {
        self.ring = bytes;
        self
    }

    /// Bytes of the smallest payload that [`Preference::Auto`] and [`Preference::Ring`] copy through the ring piece by piece.
    #[must_use]
    pub fn ring_from(mut self, bytes: u64) -> Self {
        self.ring_from = bytes;
        self
    }

    /// How long a wait looks for something, at the cost of processor time, before it sleeps, on a link with a ring. Waking
    /// a process takes some 50 µs. When nothing came in that time, the next waits look for less, down to a sixteenth.
    /// Always 0 where the process has one core only.
    #[must_use]
    pub fn spin(mut self, time: Duration) -> Self {
        self.spin = time;
        self
    }

    /// Whether the functions at the two ends belong together, so that slots may stay mapped in both: see
    /// [`Link::trust`](crate::Link::trust). It counts only if the operators of both ends say so.
    #[must_use]
    pub fn trusted(mut self, trusted: bool) -> Self {
        self.trusts = if trusted { Trusts::All } else { Trusts::Nobody };
        self
    }

    /// The same for links of these names only: for a listener, some of whose peers are trusted. A peer says itself how its
    /// link is called.
    #[must_use]
    pub fn trust_links(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.trusts = Trusts::Named(names.into_iter().collect());
        self
    }

    /// Whether this end receives with slots ([`Link::recv_with`](crate::Link::recv_with)), so that a peer that chooses the
    /// way copies large payloads into segments, which are mapped here, rather than through the socket.
    #[must_use]
    pub fn slots(mut self, slots: bool) -> Self {
        self.slots = slots;
        self
    }

    /// Who is at the other end, as far as segments go, instead of an audience for each link: for links that all get the
    /// same payloads, so that segments that have been passed to all of them can be used again.
    #[must_use]
    pub fn audience(mut self, audience: Audience) -> Self {
        self.audience = Some(audience);
        self
    }

    pub(crate) fn audience_or_new(&self) -> Audience {
        self.audience.unwrap_or_default()
    }

    pub(crate) fn has_slots(&self) -> bool {
        self.slots
    }

    /// Whether the way is not prescribed.
    pub(crate) fn chooses(&self) -> bool {
        self.preference == Preference::Auto
    }

    pub(crate) fn segment_auto(&self) -> u64 {
        self.segment_from
    }

    /// Bytes of a lane of the ring as a power of two, if there is to be one.
    pub(crate) fn ring_size(&self) -> Option<u32> {
        let bytes = self.ring.clamp(1 << SIZES.start(), 1 << SIZES.end());
        (self.ring > 0).then(|| bytes.next_power_of_two().trailing_zeros())
    }

    /// Bytes of the smallest payload that is copied through the ring, if any is.
    pub(crate) fn ring_bytes(&self) -> Option<u64> {
        matches!(self.preference, Preference::Auto | Preference::Ring).then_some(self.ring_from)
    }

    pub(crate) fn spin_time(&self) -> Duration {
        static CORES: OnceLock<usize> = OnceLock::new();
        let cores = CORES.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get));
        if *cores > 1 {
            self.spin
        } else {
            Duration::ZERO
        }
    }

    pub(crate) fn trust(&self) -> &Trusts {
        &self.trusts
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
