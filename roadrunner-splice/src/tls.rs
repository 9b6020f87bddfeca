//! Encryption by TLS 1.3 (RFC 8446), for networks in which others can read packets or change them.
//!
//! A tunnel lies beneath everything else that a link says: the proof of the secret, the hellos and the frames. The proof is
//! bound to it (RFC 9266), so that nobody in the middle can pass one on from another tunnel. What the link's own frames say
//! of its end is what counts: a connection that ends without a word of TLS is cut as any other is.

mod tunnel;

pub(crate) use tunnel::Tunnel;

use roadrunner_core::TransferError;
use rustls::client::Resumption;
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::{fmt, fs};

/// What both sides call what they speak inside (RFC 7301): a server for something else is none of ours.
const PROTOCOL: &[u8] = b"roadrunner/1";

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
