//! Where a listener is found.

use nix::sys::socket::UnixAddr;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bytes of a socket's address, unix(7); a path also needs one for its end.
const LONGEST: usize = 107;

/// The address of a [`Listener`](crate::Listener): a socket file, or a name in the abstract namespace, which belongs to
/// the network namespace, has no file and no permissions, and ends with its listener.
///
/// As text, `/run/roadrunner/a.sock` or `@name`.
///
/// ```
/// use roadrunner_uds::Address;
///
/// let address: Address = "@resize".parse()?;
/// assert_eq!(address.to_string(), "@resize");
/// assert!("relative.sock".parse::<Address>().is_err());
/// # Ok::<(), roadrunner_uds::AddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    File(PathBuf),
    Abstract(String),
}

impl Address {
    /// A socket file.
    ///
    /// # Errors
    /// [`AddressError`] if the path is not absolute, longer than 107 bytes, or has a zero byte in it.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self, AddressError> {
        let path = path.into();
        let bytes = path.as_os_str().as_encoded_bytes();
        check(&path.to_string_lossy(), bytes)?;
        if !path.is_absolute() {
            return Err(AddressError {
                address: path.display().to_string(),
                reason: "a socket file needs an absolute path, an abstract name starts with @",
            });
        }
        Ok(Self(Kind::File(path)))
    }

    /// A name in the abstract namespace, without the `@`.
    ///
    /// # Errors
    /// [`AddressError`] if the name is empty, longer than 107 bytes, or has a zero byte in it.
    pub fn abstract_name(name: impl Into<String>) -> Result<Self, AddressError> {
        let name = name.into();
        check(&format!("@{name}"), name.as_bytes())?;
        if name.is_empty() {
            return Err(AddressError {
                address: "@".to_owned(),
                reason: "the name is missing",
            });
        }
        Ok(Self(Kind::Abstract(name)))
    }

    /// The path of the socket file, if it has one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Kind::File(path) => Some(path),
            Kind::Abstract(_) => None,
        }
    }

    pub(crate) fn to_unix(&self) -> std::io::Result<UnixAddr> {
        Ok(match &self.0 {
            Kind::File(path) => UnixAddr::new(path)?,
            Kind::Abstract(name) => UnixAddr::new_abstract(name.as_bytes())?,
        })
    }
}

fn check(address: &str, bytes: &[u8]) -> Result<(), AddressError> {
    let reason = if bytes.len() > LONGEST {
        "it is longer than 107 bytes, which is what a socket's address holds"
    } else if bytes.contains(&0) {
        "it has a zero byte in it"
    } else {
        return Ok(());
    };
    Err(AddressError {
        address: address.to_owned(),
        reason,
    })
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix('@') {
            Some(name) => Self::abstract_name(name),
            None => Self::file(text),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::File(path) => write!(f, "{}", path.display()),
            Kind::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// Why a text or a path is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    address: String,
    reason: &'static str,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not the address of a UNIX socket: {}",
            self.address, self.reason
        )
    }
}

impl Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_parses_is_displayed_and_bound_as_it_was(text in "[/@]?\\PC{0,110}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string(), text);
                prop_assert!(address.to_unix().is_ok());
            }
        }
    }

    #[test]
    fn what_no_socket_can_have_is_refused_by_name() {
        for (text, reason) in [
            ("", "absolute"),
            ("a.sock", "absolute"),
            ("@", "missing"),
            ("/a\0b", "zero"),
            ("@a\0b", "zero"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(format!("/{}", "x".repeat(106)).parse::<Address>().is_ok());
        let long = format!("/{}", "x".repeat(107));
        let error = long.parse::<Address>().expect_err("long").to_string();
        assert!(error.contains(&long) && error.contains("107"), "{error}");
    }
}
