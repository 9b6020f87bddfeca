//! What an end of a link may be told.

use crate::chooser::Chooser;
use crate::secret::Secret;
use crate::streams;
use crate::tls::Tls;
use crate::zerocopy::ZeroCopy;
use roadrunner_core::{Method, DEFAULT_LIMIT};
use roadrunner_mem::{Pipes, Pump};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// Which way payloads are carried. What really ran is in each [`Receipt`](roadrunner_core::Receipt).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Preference {
    /// As [`Measured`](Self::Measured) to other hosts; always written to addresses of this host, where what splicing gains,
    /// if it does, costs as many pages again as the longest payload has.
    #[default]
    Auto,
    /// What the link itself finds to be best: the first payloads of 4 MiB and more go by each method in turn, twice, and
    /// those after them by the quickest one, or among methods that are as quick within a tenth by the one that costs the
    /// sender the least processor time. [`TcpWire::chosen`](crate::TcpWire::chosen) says which. Until then, and for shorter
    /// payloads, as [`Splice`](Self::Splice) to other hosts and as [`Write`](Self::Write) to addresses of this host, where
    /// [`ZeroCopySend`](Self::ZeroCopySend) is not tried: the kernel would copy.
    Measured,
    /// Always written.
    Write,
    /// Spliced from [`Options::splice_from`] on where that can be done, and written otherwise. It can be done with
    /// payloads that are given away and whose memory is [`PrivateAnonymous`](roadrunner_core::Backing).
    Splice,
    /// Sent without a copy into the kernel (io_uring or `MSG_ZEROCOPY`, see [`Options::io_uring`]) from [`Options::splice_from`] on, out of any memory, and written
    /// where the system refuses; `send` returns when the peer's kernel has acknowledged the payload. To a receiver on this
    /// host the kernel copies all the same, which the sender's receipt counts; the receiver's counts what was true of
    /// the payload before, and a copy for the first one. [`try_send`](roadrunner_core::stream::StreamLink::try_send) writes.
    ZeroCopySend,
}

/// How to listen, to connect and to carry.
///
/// ```
/// use roadrunner_splice::{Options, Preference};
///
/// let options = Options::default().limit(64 << 20).prefer(Preference::Write);
/// # drop(options);
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) limit: u64,
    pub(crate) buffer: Option<usize>,
    pub(crate) handshake: Duration,
    pub(crate) congestion: Option<String>,
    pub(crate) checksum: Option<bool>,
    pub(crate) keep_alive: Duration,
    pub(crate) user_timeout: Option<Duration>,
    pub(crate) ports: Option<RangeInclusive<u16>>,
    pub(crate) connections: usize,
    pub(crate) connections_each: usize,
    pub(crate) memory_each: Option<u64>,
    pub(crate) keep: u64,
    pub(crate) streams: u8,
    pub(crate) secret: Option<Secret>,
    pub(crate) tls: Option<Arc<Tls>>,
    preference: Preference,
    pipes: Pipes,
    splice_from: u64,
    io_uring: bool,
}

impl Default for Options {
    /// Payloads of up to [`DEFAULT_LIMIT`] bytes, the system's buffers, three seconds for a handshake, no secret, up to
    /// 4,096 connections to a listener, keep-alive after 30 seconds, 16 MiB kept by a session,
    /// chunks of 256 KiB, splicing from 1 MiB on where it splices at all.
    fn default() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            buffer: None,
            handshake: Duration::from_secs(3),
            congestion: None,
            checksum: None,
            keep_alive: Duration::from_secs(30),
            user_timeout: None,
            ports: None,
            connections: 4096,
            connections_each: 4096,
            memory_each: None,
            keep: 16 << 20,
            streams: 1,
            secret: None,
            tls: None,
            preference: Preference::Auto,
            pipes: Pipes::new(256 << 10),
            splice_from: 1 << 20,
            io_uring: cfg!(feature = "io-uring"),
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

    /// Bytes of the socket's buffers (`SO_SNDBUF`, `SO_RCVBUF`; the system doubles the number and caps it, socket(7)).
    /// Left alone, the system adapts them to the connection, which is usually better.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = Some(bytes);
        self
    }

    /// How long an accepted peer may take to prove itself and say what it wants, on each of its connections if it wants
    /// several ([`streams`](Self::streams)).
    #[must_use]
    pub fn handshake(mut self, timeout: Duration) -> Self {
        self.handshake = timeout;
        self
    }

    /// Where a listener is to choose its port itself (port 0), it takes the first of these that is free, for a firewall
    /// that lets no others through. Ports that somebody else uses are passed over.
    ///
    /// Without this call the system chooses one (ip(7), `ip_local_port_range`).
    #[must_use]
    pub fn ports(mut self, range: RangeInclusive<u16>) -> Self {
        self.ports = Some(range);
        self
    }

    /// How many connections a listener has at a time, those included that have yet to prove themselves. Whoever comes when
    /// there are as many is turned away.
    ///
    /// A link holds no payload beside the one that is being received, whose place the receiver reserves, so that this
    /// times [`limit`](Self::limit) bounds what peers can have reserved.
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most;
        self
    }

    /// How many of them may come from one address, or with IPv6 from one network of 64 bits.
    #[must_use]
    pub fn connections_each(mut self, most: usize) -> Self {
        self.connections_each = most;
        self
    }

    /// Bytes that payloads may have which are being received at a time on all of a listener's links from one address, or
    /// with IPv6 from one network of 64 bits. A link on which a payload begins to come that would be more breaks, with
    /// [`NoRoom`](roadrunner_core::TransferError::NoRoom), before a place is reserved for it.
    ///
    /// Without this call only [`limit`](Self::limit) times the number of links bounds it.
    #[must_use]
    pub fn memory_each(mut self, bytes: u64) -> Self {
        self.memory_each = Some(bytes);
        self
    }

    /// How long nothing may come from a peer before it is asked whether it is still there (`TCP_KEEPIDLE`, tcp(7)), in
    /// whole seconds. If it does not answer three times, a third of that time apart, the link is broken: what waits on
    /// it gets [`PeerClosed`](roadrunner_core::TransferError::PeerClosed), in twice this time after the peer vanished.
    #[must_use]
    pub fn keep_alive(mut self, idle: Duration) -> Self {
        self.keep_alive = idle;
        self
    }

    /// How long what was sent may stay unacknowledged by the peer's kernel, or unsent because the peer does not receive,
    /// before the link is broken (`TCP_USER_TIMEOUT`, tcp(7)), in milliseconds. Without this call only each operation's
    /// deadline limits it; a receiver that computes for longer than this between two payloads loses its link.
    #[must_use]
    pub fn user_timeout(mut self, time: Duration) -> Self {
        self.user_timeout = Some(time);
        self
    }

    /// Bytes of payloads that an end of a [`Session`](crate::Session) keeps until they are acknowledged. A longer payload
    /// stays in its place, and `send` waits for its acknowledgement.
    #[must_use]
    pub fn keep(mut self, bytes: u64) -> Self {
        self.keep = bytes;
        self
    }

    /// Over how many connections a link sends payloads of 1 MiB and more, 1 to 16, each a part of them, written: for paths so
    /// long or so lossy that one connection does not fill them. A link has as many as the side that wants fewer;
    /// [`TcpWire::streams`](crate::TcpWire::streams) says how many. One that dies ends the link at the next such payload.
    ///
    /// Each is a connection to the listener, which counts it and asks it for the secret. A link's descriptor tells of the
    /// first one only, so this is for links that are used by operations that wait; a [`Server`](crate::Server) takes one.
    #[must_use]
    pub fn streams(mut self, count: u8) -> Self {
        self.streams = count.clamp(1, streams::MOST);
        self
    }

    /// The congestion control to ask for (`TCP_CONGESTION`, tcp(7)). If the system does not have it, the connection
    /// keeps the system's; [`TcpWire::congestion`](crate::TcpWire::congestion) says which one runs.
    ///
    /// Without this call it is the system's, except that `bbr`, which paces and thereby halves the throughput within a
    /// host, gives way to `cubic` or `reno` on loopback addresses: before a connection is there, unless a listener at all addresses
    /// accepts it. What takes the place of `bbr` later goes on pacing.
    #[must_use]
    pub fn congestion(mut self, name: impl Into<String>) -> Self {
        self.congestion = Some(name.into());
        self
    }

    /// Whether payloads are to be followed by a checksum (CRC-32) that the receiver compares before anything of them is
    /// shown: TCP's own has 16 bits, and lets one in about 65,000 changed segments pass. A link has checksums if one of
    /// its sides wants them. They cost either side about 40 ms of processor time per GB.
    ///
    /// Without this call they are wanted unless the peer has a loopback address or the link is encrypted.
    #[must_use]
    pub fn checksum(mut self, wanted: bool) -> Self {
        self.checksum = Some(wanted);
        self
    }

    /// The secret that both sides have to prove to know. Required for every address that is not loopback.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Encrypts everything by TLS, with which the two sides also prove who they are. Both have it or neither: nothing is ever
    /// agreed to go on without. The [`secret`](Self::secret) is asked for as before, and bound to the encrypted connection.
    ///
    /// Everything is written then, whatever [`prefer`](Self::prefer) says, as it has to be encrypted somewhere: receipts
    /// count three copies on either side, those into and out of what is encrypted included.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(Arc::new(tls));
        self
    }

    /// Which way payloads are carried.
    #[must_use]
    pub fn prefer(mut self, preference: Preference) -> Self {
        self.preference = preference;
        self
    }

    /// Bytes of the pipes that payloads are spliced through, and of one step through them. The system rounds it up to a
    /// power of two of pages; 64 to 256 KiB are the fastest, and 1 MiB is the most without privilege (pipe(7)).
    ///
    /// All links with these options, or with clones of them, share a pool of pipes.
    #[must_use]
    pub fn chunk(mut self, bytes: usize) -> Self {
        self.pipes = Pipes::new(bytes);
        self
    }

    /// Bytes of the smallest payload that is spliced, which needs a whole page, too, or sent without a copy.
    #[must_use]
    pub fn splice_from(mut self, bytes: u64) -> Self {
        self.splice_from = bytes;
        self
    }

    /// Whether payloads that are sent without a copy are handed over by io_uring (io_uring(7)) where the system has it and
    /// allows it: one system call for up to 1 MiB, after which the kernel goes on by itself when the connection has room
    /// again, and no error queue to look at. [`TcpWire::zero_copy_by`](crate::TcpWire::zero_copy_by) says whether it is,
    /// and why not.
    ///
    /// Without this call it is wanted if this crate was built with its feature `io-uring`.
    #[must_use]
    pub fn io_uring(mut self, wanted: bool) -> Self {
        self.io_uring = wanted;
        self
    }

    /// What splices on a link, if anything may.
    pub(crate) fn pump(&self, local: bool) -> Option<Pump> {
        let may = self.measures(local) || self.preference == Preference::Splice;
        may.then(|| Pump::new(self.splice_from, self.pipes.clone()))
    }

    /// What sends without a copy on a connection, if anything may.
    pub(crate) fn zero_copy(&self, socket: &impl AsFd, local: bool) -> Option<ZeroCopy> {
        let may = self.measures(local) && !local;
        (may || self.preference == Preference::ZeroCopySend)
            .then(|| ZeroCopy::new(socket, self.splice_from, self.io_uring))
            .flatten()
    }

    /// What finds the best method out, if nobody has said it.
    pub(crate) fn chooser(&self, local: bool, has_zero_copy: bool) -> Option<Chooser> {
        let mut methods = if local {
            vec![Method::Write, Method::Splice]
        } else {
            vec![Method::Splice, Method::Write]
        };
        methods.extend(has_zero_copy.then_some(Method::ZeroCopySend));
        self.measures(local).then(|| Chooser::new(methods))
    }

    fn measures(&self, local: bool) -> bool {
        match self.preference {
            Preference::Auto => !local,
            Preference::Measured => true,
            _ => false,
        }
    }
}
