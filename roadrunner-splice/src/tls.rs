//! Encryption by TLS 1.3 (RFC 8446), for networks in which others can read packets or change them.
//!
//! A tunnel lies beneath everything else that a link says: the proof of the secret, the hellos and the frames. The proof is
//! bound to it (RFC 9266), so that nobody in the middle can pass one on from another tunnel. What the link's own frames say
//! of its end is what counts: a connection that ends without a word of TLS is cut as any other is.

use crate::socket::patiently;
use nix::poll::PollFlags;
use nix::sys::socket::{recv, sendmsg, MsgFlags};
use roadrunner_core::frame::FrameError;
use roadrunner_core::{Deadline, Span, TransferError};
use rustls::client::Resumption;
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use std::error::Error;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::{fmt, fs};

/// What both sides call what they speak inside (RFC 7301): a server for something else is none of ours.
const PROTOCOL: &[u8] = b"roadrunner/1";
/// Bytes of the longest record (RFC 8446, section 5.1).
const RECORD: usize = 16 << 10;
/// Bytes that are encrypted before they are sent.
const BATCH: usize = 16 * RECORD;
/// Reads that bring nothing but TLS's own words before whoever asked looks at his clock.
const ASIDES: usize = 64;

/// What an end of an encrypted link shows of itself, and whom it trusts. For [`Options::tls`](crate::Options::tls).
///
/// ```no_run
/// use roadrunner_splice::{Options, Tls};
///
/// // On the side that listens, …
/// let tls = Tls::new().identity_from_files("server.pem", "server.key")?;
/// let listening = Options::default().tls(tls);
/// // … and on the side that connects.
/// let connecting = Options::default().tls(Tls::new().trust_file("authority.pem")?);
/// # drop((listening, connecting));
/// # Ok::<_, roadrunner_splice::TlsError>(())
/// ```
///
/// TLS 1.3 and nothing older, without resumption and without early data, by rustls and ring.
#[derive(Clone)]
pub struct Tls {
    trusted: Arc<RootCertStore>,
    identity: Option<Arc<CertifiedKey>>,
    asks: bool,
    name: Option<ServerName<'static>>,
}

impl Tls {
    /// Trusts nobody and shows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            trusted: Arc::new(RootCertStore::empty()),
            identity: None,
            asks: false,
            name: None,
        }
    }

    /// Trusts the certificates of this text (PEM, RFC 7468), in addition to those before: a peer has to show one that they
    /// are, or that one of them has signed. Authorities of the system are not trusted unless they are given here.
    ///
    /// A peer's own certificate pins that peer, if it is signed by itself and not made as an authority's.
    ///
    /// # Errors
    /// [`TlsError`] if there is none in it, or one that is not right.
    pub fn trust(self, pem: impl AsRef<[u8]>) -> Result<Self, TlsError> {
        self.trust_text(pem.as_ref(), "the trusted certificates")
    }

    /// The same from a file.
    ///
    /// # Errors
    /// As [`trust`](Self::trust), or if it cannot be read.
    pub fn trust_file(self, path: impl AsRef<Path>) -> Result<Self, TlsError> {
        let path = path.as_ref();
        self.trust_text(&read(path)?, &path.display().to_string())
    }

    /// Shows these certificates (PEM, its own first, then those that lead from it to one that the peer trusts), for
    /// which `key` (PEM; PKCS #8, PKCS #1 or SEC 1) is the private one. A side that listens needs them.
    ///
    /// # Errors
    /// [`TlsError`] if one of the two is missing or not right, or if they do not belong together. It holds nothing of the
    /// key.
    pub fn identity(
        self,
        certificates: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Self, TlsError> {
        self.identity_text(
            (certificates.as_ref(), "the certificates"),
            (key.as_ref(), "the private key"),
        )
    }

    /// The same from two files.
    ///
    /// # Errors
    /// As [`identity`](Self::identity), or if one cannot be read.
    pub fn identity_from_files(
        self,
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        let (certificates, key) = (certificates.as_ref(), key.as_ref());
        self.identity_text(
            (&read(certificates)?, &certificates.display().to_string()),
            (&read(key)?, &key.display().to_string()),
        )
    }

    /// On the side that listens: lets in only who shows a certificate that is [trusted](Self::trust) as well.
    #[must_use]
    pub fn ask_for_certificates(mut self) -> Self {
        self.asks = true;
        self
    }

    /// On the side that connects: the name, or the IP address, that the certificate of the other side has to be for.
    /// Without this call it is the one that is connected to.
    ///
    /// # Errors
    /// [`TlsError`] if it is neither.
    pub fn peer_name(mut self, name: &str) -> Result<Self, TlsError> {
        self.name = Some(server_name(name)?);
        Ok(self)
    }

    fn trust_text(mut self, pem: &[u8], what: &str) -> Result<Self, TlsError> {
        let trusted = Arc::make_mut(&mut self.trusted);
        for certificate in certificates(pem, what)? {
            let added = trusted.add(certificate);
            added.map_err(|error| TlsError(format!("{what}: {error}")))?;
        }
        Ok(self)
    }

    fn identity_text(
        mut self,
        (chain, of_chain): (&[u8], &str),
        (key, of_key): (&[u8], &str),
    ) -> Result<Self, TlsError> {
        let chain = certificates(chain, of_chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError(format!("{of_key}: {error}")))?;
        let identity = CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(|error| TlsError(format!("{of_chain} with {of_key}: {error}")))?;
        self.identity = Some(Arc::new(identity));
        Ok(self)
    }

    /// What lets peers in.
    pub(crate) fn acceptor(&self) -> Result<Acceptor, TransferError> {
        let identity = self.identity.clone().ok_or_else(|| {
            TransferError::Refused(
                "a listener with TLS needs a certificate and its key (Tls::identity)".to_owned(),
            )
        })?;
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(set_up)?;
        let builder = if self.asks {
            let trusted = self.trusted.clone();
            let verifier = WebPkiClientVerifier::builder_with_provider(trusted, provider);
            builder.with_client_cert_verifier(verifier.build().map_err(set_up)?)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Nobody resumes; and one who leaves without having read a ticket would reset the connection.
        config.send_tls13_tickets = 0;
        Ok(Acceptor(Arc::new(config)))
    }

    /// The connecting side's end of a tunnel to `host`.
    pub(crate) fn connecting(&self, host: &str) -> Result<Tunnel, TransferError> {
        if self.trusted.is_empty() {
            return Err(TransferError::Refused(
                "with TLS a side that connects has to trust somebody (Tls::trust)".to_owned(),
            ));
        }
        let name = match &self.name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(|error| TransferError::Refused(error.0))?,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(set_up)?
            .with_root_certificates(self.trusted.clone());
        let mut config = match &self.identity {
            Some(identity) => {
                let shown = SingleCertAndKey::from(identity.clone());
                builder.with_client_cert_resolver(Arc::new(shown))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        let connection = ClientConnection::new(Arc::new(config), name).map_err(set_up)?;
        Ok(Tunnel::new(connection.into()))
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("trusted", &self.trusted.len())
            .field("has_identity", &self.identity.is_some())
            .field("asks", &self.asks)
            .field("name", &self.name)
            .finish()
    }
}

/// Why something is no part of a [`Tls`]. It never holds anything of a private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for TlsError {}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError(format!("{}: {error}", path.display())))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| TlsError(format!("{what}: {error}")))?;
    if all.is_empty() {
        return Err(TlsError(format!("{what}: there is no certificate in it")));
    }
    Ok(all)
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| TlsError(format!("{name}: a certificate cannot be for that")))
}

fn set_up(error: impl fmt::Display) -> TransferError {
    TransferError::Refused(format!("TLS cannot be set up: {error}"))
}

/// Lets peers in by TLS.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    /// The accepting side's end of a tunnel.
    pub(crate) fn accepting(&self) -> Result<Tunnel, TransferError> {
        let connection = ServerConnection::new(self.0.clone()).map_err(set_up)?;
        Ok(Tunnel::new(connection.into()))
    }
}

/// One end of an encrypted connection: what is written into it comes out at the other end, and nowhere else.
pub(crate) struct Tunnel {
    connection: Connection,
    /// Bytes that are decrypted and wait to be read.
    plain: usize,
    /// What is encrypted next. No slice can be had of what is sent: others may write to it.
    block: Box<[u8; RECORD]>,
    /// 1 if the byte before those that are written next is encrypted already: it was not counted as written, because
    /// not everything up to it was sent.
    owed: usize,
    /// Anything has come.
    heard: bool,
    /// What was wrong with that.
    error: Option<rustls::Error>,
}

impl Tunnel {
    /// How often the processor moves a payload that is sent: into a block, from there into a record, in which it is
    /// encrypted, and into the kernel.
    pub(crate) const COPIES_OUT: u8 = 3;
    /// One that is received: out of the kernel, out of the record in which it was decrypted, and to its place.
    pub(crate) const COPIES_IN: u8 = 3;

    fn new(mut connection: Connection) -> Self {
        // A batch is sent before the next one is encrypted.
        connection.set_buffer_limit(None);
        Self {
            connection,
            plain: 0,
            block: Box::new([0; RECORD]),
            owed: 0,
            heard: false,
            error: None,
        }
    }

    /// Shakes hands. After [`TimedOut`](io::ErrorKind::TimedOut) it may be called again, to go on.
    pub(crate) fn open(&mut self, socket: &TcpStream, deadline: Deadline) -> io::Result<()> {
        loop {
            self.flush(socket, deadline)?;
            if !self.connection.is_handshaking() {
                return Ok(());
            }
            if !self.fill(socket, deadline)? {
                // Shut down instead of reset: here it is the same.
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }

    /// Whether this end was connected to, and has heard something.
    pub(crate) fn has_begun_to_accept(&self) -> bool {
        self.heard && matches!(self.connection, Connection::Server(_))
    }

    /// What is wrong with what the peer said, or what it says is wrong with what this end said.
    pub(crate) fn error(&self) -> Option<String> {
        self.error.as_ref().map(ToString::to_string)
    }

    /// What both ends of this tunnel know, and no other's (RFC 9266). `None` before hands are shaken.
    pub(crate) fn binding(&self) -> Option<[u8; 32]> {
        self.connection
            .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]))
            .ok()
    }

    /// Whether something can be read although the socket may not be readable.
    pub(crate) fn holds(&self) -> bool {
        self.plain > 0
    }

    /// Whether something that is encrypted could not be sent without waiting.
    pub(crate) fn wants_to_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// As [`Wire::read`](roadrunner_core::stream::Wire::read).
    pub(crate) fn read(
        &mut self,
        socket: &TcpStream,
        into: Span<'_>,
        deadline: Deadline,
    ) -> io::Result<usize> {
        let mut asides = 0;
        while self.plain == 0 {
            if asides >= ASIDES && deadline.has_passed() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if !self.fill(socket, deadline)? {
                return Ok(0);
            }
            asides += 1;
        }
        let mut reader = self.connection.reader();
        let mut got = 0;
        while got < into.len() && self.plain > 0 {
            let count = into.split_at(got).1.copy_from_slice(reader.fill_buf()?);
            reader.consume(count);
            self.plain -= count;
            got += count;
        }
        Ok(got)
    }

    /// As [`Wire::write`](roadrunner_core::stream::Wire::write), of three parts.
    ///
    /// What has been encrypted cannot be taken back, so it counts as written though it may still wait here; its last byte
    /// does not, until all of it is sent.
    pub(crate) fn write(
        &mut self,
        socket: &TcpStream,
        head: &[u8],
        body: Span<'_>,
        tail: &[u8],
        deadline: Deadline,
    ) -> io::Result<usize> {
        self.flush(socket, deadline)?;
        let all = head.len() + body.len() + tail.len();
        let mut taken = std::mem::take(&mut self.owed);
        let most = all.min(taken + BATCH);
        while taken < most {
            let count = gather(&mut self.block[..], taken, head, body, tail);
            let sealed = self.connection.writer().write_all(&self.block[..count]);
            sealed.map_err(|_| io::ErrorKind::ConnectionAborted)?;
            taken += count;
        }
        match self.flush(socket, deadline) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.owed = usize::from(taken == all);
                match taken - self.owed {
                    0 => Err(error),
                    counted => Ok(counted),
                }
            }
            flushed => flushed.map(|()| taken),
        }
    }

    /// Says that nothing follows, if that can be said at once.
    pub(crate) fn close(&mut self, socket: &TcpStream) {
        if !self.connection.is_handshaking() {
            self.connection.send_close_notify();
            let _ = self.flush(socket, Deadline::now());
        }
    }

    /// Sends what is encrypted.
    fn flush(&mut self, socket: &TcpStream, deadline: Deadline) -> io::Result<()> {
        let connection = &mut self.connection;
        while connection.wants_write() {
            patiently(socket, PollFlags::POLLOUT, deadline, |socket| {
                connection.write_tls(&mut Bare(socket))
            })?;
        }
        Ok(())
    }

    /// Reads something, and decrypts what is complete of it. False at the end.
    fn fill(&mut self, socket: &TcpStream, deadline: Deadline) -> io::Result<bool> {
        // An earlier answer for which there was no room.
        let _ = self.flush(socket, Deadline::now());
        let connection = &mut self.connection;
        let count = patiently(socket, PollFlags::POLLIN, deadline, |socket| {
            connection.read_tls(&mut Bare(socket))
        })?;
        if count == 0 {
            return Ok(false);
        }
        self.heard = true;
        let come = connection.process_new_packets();
        // An answer, or what is wrong. Nobody waits here for the peer to take it.
        let _ = self.flush(socket, Deadline::now());
        match come {
            Ok(state) => {
                self.plain = state.plaintext_bytes_to_read();
                Ok(true)
            }
            Err(error) => {
                self.error = Some(error);
                let broken = FrameError::Unexpected("what TLS does not accept");
                Err(io::Error::new(io::ErrorKind::InvalidData, broken))
            }
        }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

/// Fills a block with what lies at `at` of the three in a row. Says how many bytes.
fn gather(block: &mut [u8], at: usize, head: &[u8], body: Span<'_>, tail: &[u8]) -> usize {
    let of_head = &head[at.min(head.len())..];
    let at = at.saturating_sub(head.len());
    let of_body = body.split_at(at.min(body.len())).1;
    let of_tail = &tail[at.saturating_sub(body.len()).min(tail.len())..];
    let in_head = of_head.len().min(block.len());
    let (front, rest) = block.split_at_mut(in_head);
    front.copy_from_slice(&of_head[..in_head]);
    let in_body = of_body.copy_to_slice(rest);
    let rest = &mut rest[in_body..];
    let in_tail = of_tail.len().min(rest.len());
    rest[..in_tail].copy_from_slice(&of_tail[..in_tail]);
    in_head + in_body + in_tail
}

/// The connection as rustls reads and writes it: without waiting and without `SIGPIPE`.
struct Bare<'a>(BorrowedFd<'a>);

impl Read for Bare<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT)?)
    }
}

impl Write for Bare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        Ok(sendmsg::<()>(
            self.0.as_fd().as_raw_fd(),
            parts,
            &[],
            flags,
            None,
        )?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_parts_are_one_row_wherever_it_is_cut() {
        let mut body = *b"defgh";
        let body = Span::from_slice(&mut body);
        for at in 0..=10 {
            for len in 1..12 {
                let mut block = vec![0; len];
                let count = gather(&mut block, at, b"abc", body, b"ij");
                let rest = &b"abcdefghij"[at..];
                assert_eq!(&block[..count], &rest[..rest.len().min(len)], "{at} {len}");
            }
        }
    }
}
