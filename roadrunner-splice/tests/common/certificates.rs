//! Certificates made for a test.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use roadrunner_splice::Tls;
use std::sync::OnceLock;

/// Who signs certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("random");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("signed");
        let pem = issuer.pem();
        Self { issuer, pem }
    }

    /// A certificate for one name or number, changed before it is signed.
    pub(crate) fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
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

/// Whom all trust who do not say otherwise, and the one whom they know as 127.0.0.1.
pub(crate) fn known() -> &'static (Authority, Identity) {
    static KNOWN: OnceLock<(Authority, Identity)> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let authority = Authority::new("known to all");
        let identity = authority.sign("127.0.0.1", |_| {});
        (authority, identity)
    })
}

pub(crate) fn trusting(pem: &str) -> Tls {
    Tls::new().trust(pem).expect("certificates")
}

pub(crate) fn with_identity(tls: Tls, identity: &Identity) -> Tls {
    tls.identity(&identity.certificate, &identity.key)
        .expect("a certificate and its key")
}

/// For both sides.
pub(crate) fn tls() -> Tls {
    let (authority, identity) = known();
    with_identity(trusting(&authority.pem), identity)
}
