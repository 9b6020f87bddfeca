//! A [`Wire`] over a TCP connection.

use crate::checksum::Checksums;
use crate::chooser::{Chooser, Clocks};
use crate::congestion;
use crate::options::Options;
use crate::places::Place;
use crate::socket::Socket;
use crate::streams::Streams;
use crate::sys;
use crate::tls::Tunnel;
use crate::zerocopy::{ZeroCopy, ZeroCopyBy};
use nix::ifaddrs::{getifaddrs, InterfaceAddress};
use nix::sys::socket::{setsockopt, sockopt};
use roadrunner_core::frame::{self, HEADER_LEN};
use roadrunner_core::stream::{read_all, write_all, Carried, Start, Wants, Wire};
use roadrunner_core::{Deadline, Method, Payload, Region, Sink, Span, TransferError};
use roadrunner_mem::{Checksum, Pump};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A TCP connection whose peer has the right to be there. Payloads go straight from and into linear memory.
///
/// It belongs to one function: pages of a payload that was given away and spliced may come back, with what was in them, in
/// exchange for those of a later payload from the same memory.
#[derive(Debug)]
pub struct TcpWire {
    socket: Socket,
    peer: SocketAddr,
    /// Splices what it can, if that is asked for.
    pump: Option<Pump>,
    /// Both ends are on this host, as far as anybody can tell.
    local: bool,
    /// Sends without a copy what it can, if that is asked for.
    zero_copy: Option<ZeroCopy>,
    /// Says which way, if nobody does.
    chooser: Option<Chooser>,
    /// Whether this end wants checksums.
    wants_checksums: bool,
    /// If the link has them.
    checksums: Option<Checksums>,
    /// Among those of its listener, if it was accepted.
    place: Option<Place>,
    /// Bytes of payloads that may be being received at a time from where the peer is.
    memory_each: Option<u64>,
    /// How many payloads the peer has acknowledged, if it is to acknowledge all.
    acknowledged: Option<u64>,
    /// The link's other connections, if it has any.
    pub(crate) streams: Streams,
}

/// Payloads of a session that may be unacknowledged at a time; what is kept of them has a limit in bytes as well.
pub(crate) const WINDOW: usize = 256;
/// How often one looks again who waits for what no descriptor tells of.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The most that the system takes for it, in seconds (tcp(7)).
const LONGEST_KEEP_ALIVE: u64 = 32_767;

impl TcpWire {
    /// Takes over a connection. It becomes non-blocking where anything else than reads may wait, sends small frames at once (`TCP_NODELAY`), and asks a peer
    /// that has long been silent whether it is still there (`SO_KEEPALIVE`).
    pub(crate) fn new(
        socket: TcpStream,
        options: &Options,
        tunnel: Option<Tunnel>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        setsockopt(&socket, sockopt::KeepAlive, &true)?;
        let [idle, interval] = [options.keep_alive, options.keep_alive / 3]
            .map(|time| time.as_secs().clamp(1, LONGEST_KEEP_ALIVE) as u32);
        setsockopt(&socket, sockopt::TcpKeepIdle, &idle)?;
        setsockopt(&socket, sockopt::TcpKeepInterval, &interval)?;
        setsockopt(&socket, sockopt::TcpKeepCount, &3)?;
        if let Some(time) = options.user_timeout {
            let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            setsockopt(&socket, sockopt::TcpUserTimeout, &milliseconds.max(1))?;
        }
        if let Some(bytes) = options.buffer {
            setsockopt(&socket, sockopt::SndBuf, &bytes)?;
            setsockopt(&socket, sockopt::RcvBuf, &bytes)?;
        }
        let peer = socket.peer_addr()?;
        let is_plain = tunnel.is_none();
        let mut socket = Socket::new(socket, tunnel);
        let local = is_of_this_host(peer.ip());
        let zero_copy = options.zero_copy(&socket, local).filter(|_| is_plain);
        let pump = options.pump(local).filter(|_| is_plain);
        // What splices or sends without a copy waits elsewhere than in the call.
        if is_plain && pump.is_none() && zero_copy.is_none() {
            socket.let_reads_wait()?;
        }
        let wire = Self {
            chooser: options
                .chooser(local, zero_copy.is_some())
                .filter(|_| is_plain),
            socket,
            peer,
            pump,
            local,
            zero_copy,
            // TLS notices every change.
            wants_checksums: options
                .checksum
                .unwrap_or(is_plain && !is_loopback(peer.ip())),
            checksums: None,
            place: None,
            memory_each: options.memory_each,
            acknowledged: None,
            streams: Streams::new(options.streams)?,
        };
        congestion::choose(&wire.socket, peer.ip(), options);
        Ok(wire)
    }

    /// The address of the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether payloads are followed by a checksum; false before the link is open.
    #[must_use]
    pub fn has_checksums(&self) -> bool {
        self.checksums.is_some()
    }

    /// The method that carried the first large payloads best, as far as it can be used for a payload; `None` until they have
    /// been sent, and on a link that does not measure. See [`Preference::Measured`](crate::Preference::Measured).
    #[must_use]
    pub fn chosen(&self) -> Option<Method> {
        self.chooser.as_ref()?.chosen()
    }

    /// How many connections the link has: see [`Options::streams`](crate::Options::streams).
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.count()
    }

    /// The connection, and the checksums of what goes over it.
    pub(crate) fn parts(&mut self) -> (&mut Socket, Option<&mut Checksums>) {
        (&mut self.socket, self.checksums.as_mut())
    }

    /// Whether everything goes through TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.socket.tunnel().is_some()
    }

    /// Opens what encrypts the connection, if anything does. Without waiting it goes on where it was.
    ///
    /// # Errors
    /// [`PeerClosed`](TransferError::PeerClosed) if the peer has said nothing and is gone;
    /// [`Refused`](TransferError::Refused) if something is wrong with it.
    pub(crate) fn secure(&mut self, deadline: Deadline) -> Result<(), TransferError> {
        let opened = self.socket.open(deadline);
        opened.map_err(
            |error| match TransferError::from_io("shake hands by TLS", error) {
                TransferError::Timeout => TransferError::Timeout,
                error => self.why(error),
            },
        )
    }

    /// Whether something that counts as said could not be sent without waiting.
    pub(crate) fn wants_to_write(&self) -> bool {
        self.socket.tunnel().is_some_and(Tunnel::wants_to_write)
    }

    /// What two ends of one encrypted connection know, and no others; `None` where nothing is encrypted.
    pub(crate) fn binding(&self) -> Option<[u8; 32]> {
        self.socket.tunnel()?.binding()
    }

    /// An error while the link was being opened, with what TLS says about it.
    pub(crate) fn why(&self, error: TransferError) -> TransferError {
        let Some(tunnel) = self.socket.tunnel() else {
            return error;
        };
        let peer = self.peer;
        match (tunnel.error(), error) {
            (Some(why), _) => TransferError::Refused(format!("the peer {peer}, by TLS: {why}")),
            // A stranger who began to speak is worth a word. One who was connected to and is gone has died, as without TLS.
            (None, TransferError::PeerClosed) if tunnel.has_begun_to_accept() => {
                TransferError::Refused(format!(
                    "the peer {peer} closed the connection while hands were shaken by TLS"
                ))
            }
            (None, error) => error,
        }
    }

    /// How payloads that are sent without a copy are handed to the kernel; `None` until one was.
    #[must_use]
    pub fn zero_copy_by(&self) -> Option<ZeroCopyBy> {
        self.zero_copy.as_ref()?.by()
    }

    /// The name of the congestion control that runs, or `None` if the system does not say.
    #[must_use]
    pub fn congestion(&self) -> Option<String> {
        congestion::of(&self.socket)
    }

    /// Carries a payload this way, or if nothing is said any way, as far as the system and the payload allow that; written
    /// otherwise.
    fn carry_by(
        &mut self,
        way: Option<Method>,
        start: Start,
        payload: &mut Payload<'_>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Carried, TransferError> {
        let Self {
            socket,
            pump,
            zero_copy,
            checksums,
            ..
        } = self;
        let may = |method| way.map_or(true, |way| way == method);
        if let Some(pump) = pump.as_mut().filter(|_| may(Method::Splice)) {
            let checksum = checksums.as_mut();
            let checksum = checksum.map(|of| &mut of.sending as &mut dyn Checksum);
            let spliced = pump.carry(socket, start, payload, checksum, sent, deadline)?;
            if let Some(carried) = spliced {
                return Ok(carried);
            }
        }
        let payload = payload.span()?;
        let zero_copy = zero_copy.as_mut();
        if let Some(zero_copy) = zero_copy.filter(|_| may(Method::ZeroCopySend)) {
            let sum = checksums.as_mut().map(|of| &mut of.sending);
            let carried = zero_copy.carry(socket, start, payload, sum, sent, deadline)?;
            if let Some(carried) = carried {
                return Ok(carried);
            }
        }
        let carried = self.written(start);
        let header = start.header(carried);
        let (socket, checksums) = self.parts();
        match checksums {
            Some(checksums) => checksums.write_frame(socket, &header, payload, sent, deadline)?,
            None => write_all(socket, &header, payload, sent, deadline)?,
        }
        Ok(carried)
    }

    /// How a payload is carried that is written.
    fn written(&self, start: Start) -> Carried {
        let written = Carried::written(start);
        Carried {
            copies: written.copies * self.socket.copies_out(),
            acknowledge: self.acknowledged.is_some(),
            ..written
        }
    }

    /// Waits until something may be read or written, whichever is wanted.
    pub(crate) fn wait(&self, wants: Wants, deadline: Deadline) -> Result<(), TransferError> {
        self.streams
            .wait_for(&self.socket, wants, deadline)
            .map_err(|error| TransferError::from_io("wait for the link", error))
    }

    /// Asks the peer to acknowledge all payloads from now on.
    pub(crate) fn acknowledge_all(&mut self) {
        self.acknowledged = Some(0);
        if let Some(zero_copy) = &mut self.zero_copy {
            zero_copy.acknowledge = true;
        }
    }

    /// How many it has acknowledged since.
    pub(crate) fn acknowledged_payloads(&self) -> u64 {
        self.acknowledged.unwrap_or(0)
    }

    /// The connection's place is taken for as long as it lasts.
    pub(crate) fn keep(&mut self, place: Place) {
        self.place = Some(place);
    }
}

/// Whether a packet to `address` cannot leave the host.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Whether an address is one of this host's, or of this network namespace's.
fn is_of_this_host(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_it = |interface: InterfaceAddress| {
        let ip = interface.address.and_then(|address| {
            let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
            four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
        });
        ip == Some(address)
    };
    // Where nobody can tell, none is another's.
    address.is_loopback() || getifaddrs().map_or(true, |mut all| all.any(is_it))
}

impl Wire for TcpWire {
    fn read(&mut self, into: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.streams.receives_alone();
        self.socket.read(into, deadline)
    }

    fn write(&mut self, head: &[u8], body: Span<'_>, deadline: Deadline) -> io::Result<usize> {
        self.streams.sends_alone();
        self.socket.write(head, body, deadline)
    }

    fn carry(
        &mut self,
        start: Start,
        payload: &mut Payload<'_>,
        sent: &mut u64,
        deadline: Deadline,
    ) -> Result<Carried, TransferError> {
        if self.streams.divide(start.len()) {
            let carried = self.written(start);
            let (header, payload) = (start.header(carried), payload.span()?);
            let (socket, checksums) = (&mut self.socket, self.checksums.as_mut());
            self.streams
                .carry(socket, checksums, &header, payload, sent, deadline)?;
            return Ok(carried);
        }
        self.streams.sends_alone();
        let measured = self.chooser.as_ref().filter(|_| *sent == 0);
        let way = measured.and_then(|chooser| chooser.next(start.len()));
        let clocks = measured
            .filter(|chooser| chooser.measures(start.len()))
            .map(|_| Clocks::start());
        let carried = self.carry_by(way, start, payload, sent, deadline)?;
        if let (Some(chooser), Some(clocks)) = (&mut self.chooser, clocks) {
            chooser.took(carried.method, start.len(), clocks.cost());
        }
        Ok(carried)
    }

    fn bring(
        &mut self,
        carried: Carried,
        sink: &mut dyn Sink,
        region: Region,
        got: &mut u64,
        deadline: Deadline,
    ) -> Result<u8, TransferError> {
        let into = region.span(sink.memory())?;
        let divided = self
            .streams
            .arriving()
            .filter(|_| self.streams.divide(region.len()));
        if divided.is_none() {
            self.streams.receives_alone();
        }
        let (socket, checksums) = (&mut self.socket, self.checksums.as_mut());
        match (divided, checksums) {
            (Some(start), checksums) => {
                let header = start.header(carried);
                self.streams
                    .bring(socket, checksums, &header, into, got, deadline)?;
            }
            (None, Some(checksums)) => checksums.bring(socket, into, got, deadline)?,
            (None, None) => read_all(socket, into, HEADER_LEN, got, deadline)?,
        }
        if let Some(place) = &mut self.place {
            place.release();
        }
        // An empty payload is copied by nobody.
        Ok(u8::from(!region.is_empty()) * self.socket.copies_in())
    }

    fn holds(&self) -> bool {
        self.socket.holds()
    }

    /// All follow in the stream; there may be no room for one.
    fn take(
        &mut self,
        start: Start,
        _carried: Carried,
        _sink: &mut dyn Sink,
        _deadline: Deadline,
    ) -> Result<Option<(Region, Method, u8)>, TransferError> {
        self.streams.expect(start);
        if let (Some(place), Some(most)) = (&mut self.place, self.memory_each) {
            place
                .hold(start.len(), most)
                .map_err(|reason| TransferError::NoRoom {
                    len: start.len(),
                    reason,
                })?;
        }
        Ok(None)
    }

    fn checksums(&self) -> frame::Checksums {
        if self.wants_checksums {
            frame::Checksums::Wanted
        } else {
            frame::Checksums::Able
        }
    }

    fn offers(&self) -> u64 {
        self.streams.offers()
    }

    fn meet(&mut self, name: &str, offers: u64) -> Result<(), TransferError> {
        self.streams.meet(name, offers, self.peer)
    }

    fn opened(&mut self, checksums: bool) {
        self.streams.opened();
        self.checksums = checksums.then(Checksums::default);
    }

    fn acknowledged(&mut self, sequence: u64) {
        if let Some(pump) = &mut self.pump {
            // What this kernel has handed to another host it refers to no more; within one host nobody can tell.
            let gone = !self.local && sys::unacknowledged(&self.socket) == Ok(0);
            pump.acknowledge(sequence, gone);
        }
        if let Some(count) = &mut self.acknowledged {
            *count += 1;
        }
    }

    fn window(&self) -> usize {
        match self.acknowledged {
            Some(_) => WINDOW,
            // Pages that are spliced are one payload's.
            None => 1,
        }
    }
}

impl AsFd for TcpWire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_host_are_told_from_others() {
        for (address, is) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            // For documentation (RFC 5737, RFC 3849).
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            let parsed = address.parse().expect("an address");
            assert_eq!(is_of_this_host(parsed), is, "{address}");
        }
        for interface in getifaddrs().expect("interfaces") {
            let address = interface.address.as_ref();
            if let Some(four) = address.and_then(|address| address.as_sockaddr_in()) {
                assert!(is_of_this_host(four.ip().into()), "{four}");
            }
        }
    }
}
