//! Certificates made for a test, and peers that speak TLS by hand.

use super::{greeted, raw, secret};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use roadrunner_splice::{Link, Listener, Options, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};

/// Who signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("random");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("signed");
        let pem = issuer.pem();
        Self { issuer, pem }
    }

    /// A certificate for one name or number, changed before it is signed.
    pub fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("random");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Signed by nobody but itself.
pub fn self_signed(name: &str) -> Identity {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a name");
    Identity {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
    }
}

/// Whom all trust who do not say otherwise, and the one whom they know as 127.0.0.1.
pub fn known() -> &'static (Authority, Identity) {
    static KNOWN: OnceLock<(Authority, Identity)> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let authority = Authority::new("known to all");
        let identity = authority.sign("127.0.0.1", |_| {});
        (authority, identity)
    })
}

pub fn trusting(pem: &str) -> Tls {
    Tls::new().trust(pem).expect("certificates")
}

pub fn being(identity: &Identity) -> Tls {
    with_identity(Tls::new(), identity)
}

pub fn with_identity(tls: Tls, identity: &Identity) -> Tls {
    tls.identity(&identity.certificate, &identity.key)
        .expect("a certificate and its key")
}

/// For both sides.
pub fn tls() -> Tls {
    let (authority, identity) = known();
    with_identity(trusting(&authority.pem), identity)
}

fn of_pem(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// The connecting side by hand.
pub fn speak_tls(stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(of_pem(&known().0.pem)).expect("an authority");
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("a number");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
    StreamOwned::new(connection, stream)
}

/// The accepting side by hand.
pub fn answer_tls(
    stream: TcpStream,
    identity: &Identity,
) -> StreamOwned<ServerConnection, TcpStream> {
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![of_pem(&identity.certificate)], key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"roadrunner/1".to_vec()];
    let connection = ServerConnection::new(Arc::new(config)).expect("a configuration");
    StreamOwned::new(connection, stream)
}

/// An end whose peer is a plain stream within TLS.
pub fn by_hand_within_tls(options: &Options) -> (Link, StreamOwned<ClientConnection, TcpStream>) {
    let options = options.clone().tls(tls());
    let listener = Listener::bind("127.0.0.1:0", options).expect("a free port");
    let stream = speak_tls(raw(&listener));
    greeted(listener, stream)
}

/// What most links of these tests have.
pub fn encrypted() -> Options {
    Options::default().secret(secret()).tls(tls())
}
