//! Where the certificates come from: files, as a key is a secret.

use super::exposure;
use roadrunner_wasmedge::run::{Tls, TlsError};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Files {
    /// Encrypt everything between hosts by TLS, and speak with no host that does not: the certificates (PEM) of whom to
    /// trust, who have signed those of the other hosts. With --tls-certificate and --tls-key
    #[arg(long, value_name = "FILE", requires_all = ["tls_certificate", "tls_key"])]
    tls_authority: Option<PathBuf>,
    /// This host's certificate (PEM), for every name and address that others reach it at
    #[arg(long, value_name = "FILE", requires_all = ["tls_authority", "tls_key"])]
    tls_certificate: Option<PathBuf>,
    /// The private key (PEM) of this host's certificate
    #[arg(long, value_name = "FILE", requires_all = ["tls_authority", "tls_certificate"])]
    tls_key: Option<PathBuf>,
    /// What the certificates of other hosts have to be for, instead of the address that each is reached at
    #[arg(long, value_name = "NAME", requires = "tls_authority")]
    tls_name: Option<String>,
}

impl Files {
    pub(crate) fn tls(&self) -> Result<Option<Tls>, TlsError> {
        let Self {
            tls_authority: Some(authority),
            tls_certificate: Some(certificate),
            tls_key: Some(key),
            tls_name: name,
        } = self
        else {
            return Ok(None);
        };
        Tls::from_files(authority, certificate, key, name.as_deref()).map(Some)
    }

    pub(crate) fn warn_if_exposed(&self) {
        if let Some(key) = &self.tls_key {
            exposure::warn("the private key", key);
        }
    }
}
