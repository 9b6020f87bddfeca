//! What a host shows of itself to other hosts, and whom it trusts, where everything between them is encrypted.

use roadrunner_splice as tcp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// Everything between hosts goes by TLS 1.3 with this: the connections between a run and its hosts, and those between
/// functions on different hosts.
///
/// Each of two hosts shows a certificate and checks the other one's. A host that has this speaks with none that has not.
/// It takes the feature `tls` to have one.
#[derive(Clone)]
pub struct Tls(Told);

/// What a worker process is told of it. Whoever else writes something down writes no private key with it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Told {
    authority: String,
    certificate: String,
    key: String,
    name: Option<String>,
}

impl Tls {
    /// From files in the format PEM (RFC 7468): the certificates of those who are trusted to sign others, or the others'
    /// own; this host's certificate, followed by those that lead from it to one that others trust; its private key.
    ///
    /// The certificate of a host that is connected to has to be for the address that this happens at: what the workflow
    /// file says, and between functions the IP address; or for `name` if there is one.
    ///
    /// # Errors
    /// What is wrong with a file, or with the name; that this was built without the feature `tls`.
    pub fn from_files(
        authority: &Path,
        certificate: &Path,
        key: &Path,
        name: Option<&str>,
    ) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| TlsError(format!("{}: {error}", path.display())))
        };
        let tls = Self(Told {
            authority: read(authority)?,
            certificate: read(certificate)?,
            key: read(key)?,
            name: name.map(str::to_owned),
        });
        let files = [authority, certificate, key].map(|path| path.display().to_string());
        tls.encrypt(tcp::Options::default())
            .map_err(|error| TlsError(format!("TLS by {}: {error}", files.join(", "))))?;
        Ok(tls)
    }

    pub(crate) fn told(&self) -> Told {
        self.0.clone()
    }

    /// The same options, encrypted.
    pub(crate) fn encrypt(&self, options: tcp::Options) -> Result<tcp::Options, TlsError> {
        self.0.encrypt(options)
    }
}

impl Told {
    /// The same options, encrypted.
    #[cfg(feature = "tls")]
    pub(crate) fn encrypt(&self, options: tcp::Options) -> Result<tcp::Options, TlsError> {
        let failed = |error: tcp::TlsError| TlsError(error.to_string());
        let mut tls = tcp::Tls::new()
            .trust(&self.authority)
            .map_err(failed)?
            .identity(&self.certificate, &self.key)
            .map_err(failed)?
            .ask_for_certificates();
        if let Some(name) = &self.name {
            tls = tls.peer_name(name).map_err(failed)?;
        }
        Ok(options.tls(tls))
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn encrypt(&self, _options: tcp::Options) -> Result<tcp::Options, TlsError> {
        Err(TlsError(
            "this program was built without TLS; build it with `--features cli,tls`".to_owned(),
        ))
    }
}

/// Nothing of the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.0.name)
            .finish_non_exhaustive()
    }
}

/// Why there is no [`Tls`]. It holds nothing of a private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

#[cfg(test)]
mod tests {
    use super::{Serialize, Tls, Told};
    use std::marker::PhantomData;

    #[test]
    fn what_is_printed_tells_nothing_of_the_key() {
        let tls = Tls(Told {
            authority: "of others".to_owned(),
            certificate: "for all".to_owned(),
            key: "for nobody".to_owned(),
            name: Some("attic".to_owned()),
        });
        let printed = format!("{tls:?}");
        assert!(printed.contains("attic"), "{printed}");
        assert!(!printed.contains("nobody"), "{printed}");
    }

    /// Whether something can be written down: an associated constant of a type goes before that of a trait.
    struct Probe<T>(PhantomData<T>);

    impl<T: Serialize> Probe<T> {
        const IS_WRITTEN: bool = true;
    }

    trait Otherwise {
        const IS_WRITTEN: bool = false;
    }

    impl<T> Otherwise for Probe<T> {}

    #[test]
    fn a_configuration_that_is_written_down_holds_no_key() {
        const { assert!(!Probe::<Tls>::IS_WRITTEN) };
        const { assert!(Probe::<Told>::IS_WRITTEN) };
    }
}
