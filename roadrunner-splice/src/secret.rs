//! The shared secret, and the proof that both sides know it.
//!
//! Before any frame, each side sends eight bytes that name this exchange and a fresh nonce of 32 bytes. Then the side
//! that connected sends HMAC-SHA-256 (RFC 2104) under the secret of its own label and both nonces, and the side that
//! accepted, once it has checked that, sends the same with its own label. The labels make a message that is sent back
//! to its sender worthless, the nonces make a recorded one worthless. On an encrypted connection what only its two ends know
//! follows the nonces, which makes a proof worthless on another connection.

use crate::wire::TcpWire;
use hmac::{Hmac, Mac};
use roadrunner_core::stream::{write_all, Wire};
use roadrunner_core::{Deadline, Span, TransferError};
use sha2::Sha256;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Starts with other bytes than a frame, so that a side without a secret can tell.
const MAGIC: [u8; 8] = *b"auth-RR1";
const NONCE_LEN: usize = 32;
const GREETING_LEN: usize = MAGIC.len() + NONCE_LEN;
/// What the connecting side sends before it has to be answered.
pub(crate) const CLAIM_LEN: usize = GREETING_LEN + TAG_LEN;
/// What the accepting side answers.
pub(crate) const TAG_LEN: usize = 32;

const SHORTEST: usize = 16;
const LONGEST: usize = 4096;

const NO_PROOF: &str = "does not prove that it knows the secret: has it been given one?";
pub(crate) const GONE: &str =
    "closed the connection during the proof: does it have the same secret?";
const WANTS_TLS: &str = "wants TLS (Options::tls)";
/// What is wrong with a proof.
pub(crate) const WRONG: &str = "does not know the secret";

type Nonce = [u8; NONCE_LEN];

/// A secret that the two sides of a link share: 16 to 4,096 bytes that nobody can guess, the same on both sides, for
/// example from `head -c 32 /dev/urandom`.
///
/// It proves who is at the other end when the link is opened. It does not encrypt: where others can read or change
/// packets, links need TLS as well (feature `tls`).
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// The bytes as they are.
    ///
    /// # Errors
    /// [`SecretError`] if there are fewer than 16 or more than 4,096.
    pub fn from_bytes(bytes: impl AsRef<[u8]>) -> Result<Self, SecretError> {
        Self::checked(bytes.as_ref(), || "the secret".to_owned())
    }

    /// The content of a file, without line ends at its end.
    ///
    /// # Errors
    /// [`SecretError`] if it cannot be read, or has fewer than 16 or more than 4,096 bytes.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SecretError> {
        let path = path.as_ref();
        let what = || format!("the secret in {}", path.display());
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(LONGEST as u64 + 2).read_to_end(&mut bytes))
            .map_err(|error| SecretError(format!("{} cannot be read: {error}", what())))?;
        let end = bytes
            .iter()
            .rposition(|byte| !matches!(byte, b'\n' | b'\r'));
        Self::checked(&bytes[..end.map_or(0, |last| last + 1)], what)
    }

    /// The value of an environment variable.
    ///
    /// # Errors
    /// [`SecretError`] if it is not set, or has fewer than 16 or more than 4,096 bytes.
    pub fn from_environment(variable: &str) -> Result<Self, SecretError> {
        let value = std::env::var_os(variable)
            .ok_or_else(|| SecretError(format!("the variable {variable} is not set")))?;
        Self::checked(value.as_encoded_bytes(), || {
            format!("the secret in the variable {variable}")
        })
    }

    /// 32 bytes that nobody can make who does not know the secret, others for each context: for example what the links of
    /// one job share, made on each of its hosts from the job's name. They do not give the secret away.
    ///
    /// # Errors
    /// None that can happen: HMAC takes keys of every length.
    pub fn derive(&self, context: &[u8]) -> Result<[u8; TAG_LEN], TransferError> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).map_err(|_| TransferError::Broken)?;
        // Apart from both labels of a proof, and as long.
        mac.update(b"roadrunner1 from");
        mac.update(context);
        Ok(mac.finalize().into_bytes().into())
    }

    fn checked(bytes: &[u8], what: impl Fn() -> String) -> Result<Self, SecretError> {
        match bytes.len() {
            SHORTEST..=LONGEST => Ok(Self(bytes.into())),
            len => Err(SecretError(format!(
                "{} has {} bytes; it needs {SHORTEST} to {LONGEST}",
                what(),
                if len > LONGEST {
                    "too many".to_owned()
                } else {
                    len.to_string()
                }
            ))),
        }
    }

    fn mac(&self, side: Side, nonces: &Nonces) -> Option<Hmac<Sha256>> {
        // HMAC takes keys of every length; the error is there for other constructions.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(side.label());
        mac.update(&nonces.connecting);
        mac.update(&nonces.accepting);
        mac.update(nonces.tunnel.as_ref().map_or(&[], |bytes| &bytes[..]));
        Some(mac)
    }

    fn prove(&self, side: Side, nonces: &Nonces) -> Result<[u8; TAG_LEN], TransferError> {
        let mac = self.mac(side, nonces).ok_or(TransferError::Broken)?;
        Ok(mac.finalize().into_bytes().into())
    }

    /// In a time that does not depend on where the difference is.
    fn proves(&self, side: Side, nonces: &Nonces, tag: &[u8; TAG_LEN]) -> bool {
        self.mac(side, nonces)
            .is_some_and(|mac| mac.verify_slice(tag).is_ok())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why bytes are no [`Secret`]. It never holds the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretError(String);

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for SecretError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Connecting,
    Accepting,
}

impl Side {
    /// Both of one length, so that what follows cannot be shifted into them.
    fn label(self) -> &'static [u8; 16] {
        match self {
            Self::Connecting => b"roadrunner1 here",
            Self::Accepting => b"roadrunner1 too.",
        }
    }
}

struct Nonces {
    connecting: Nonce,
    accepting: Nonce,
    /// What the two ends of an encrypted connection know, and no others.
    tunnel: Option<Nonce>,
}

/// What the accepting side says to a peer whose answer is awaited.
#[derive(Debug)]
pub(crate) struct Challenge {
    nonce: Nonce,
    tunnel: Option<Nonce>,
}

impl Challenge {
    pub(crate) fn new(wire: &TcpWire) -> Result<Self, TransferError> {
        Ok(Self {
            nonce: fresh_nonce()?,
            tunnel: wire.binding(),
        })
    }

    /// What the accepting side says first.
    pub(crate) fn greeting(&self) -> [u8; GREETING_LEN] {
        greeting(&self.nonce)
    }

    /// Checks as much of the connecting side's claim as there is.
    pub(crate) fn check_start(&self, claim: &[u8]) -> Result<(), &'static str> {
        let len = claim.len().min(MAGIC.len());
        if claim[..len] == MAGIC[..len] {
            Ok(())
        } else {
            Err(NO_PROOF)
        }
    }

    /// Checks the connecting side's claim, and gives the accepting side's proof.
    pub(crate) fn answer(
        &self,
        secret: &Secret,
        claim: &[u8; CLAIM_LEN],
    ) -> Result<Option<[u8; TAG_LEN]>, TransferError> {
        let mut nonces = Nonces {
            connecting: Nonce::default(),
            accepting: self.nonce,
            tunnel: self.tunnel,
        };
        let mut tag = [0; TAG_LEN];
        nonces
            .connecting
            .copy_from_slice(&claim[MAGIC.len()..GREETING_LEN]);
        tag.copy_from_slice(&claim[GREETING_LEN..]);
        if !secret.proves(Side::Connecting, &nonces, &tag) {
            return Ok(None);
        }
        secret.prove(Side::Accepting, &nonces).map(Some)
    }
}

/// Lets the connecting side prove itself, and then check the peer's proof.
pub(crate) fn check_accepting(
    wire: &mut TcpWire,
    secret: &Secret,
    deadline: Deadline,
) -> Result<(), TransferError> {
    let connecting = fresh_nonce()?;
    write(wire, &greeting(&connecting), deadline)?;
    let nonces = Nonces {
        connecting,
        accepting: read_greeting(wire, deadline)?,
        tunnel: wire.binding(),
    };
    write(wire, &secret.prove(Side::Connecting, &nonces)?, deadline)?;
    let tag = read_array(wire, deadline)?;
    if secret.proves(Side::Accepting, &nonces, &tag) {
        Ok(())
    } else {
        Err(refused(wire, WRONG))
    }
}

pub(crate) fn refused(wire: &TcpWire, why: &str) -> TransferError {
    TransferError::Refused(format!("the peer {} {why}", wire.peer()))
}

fn fresh_nonce() -> Result<Nonce, TransferError> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|error| TransferError::Io {
        doing: "get random bytes",
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(nonce)
}

fn greeting(nonce: &Nonce) -> [u8; GREETING_LEN] {
    let mut greeting = [0; GREETING_LEN];
    greeting[..MAGIC.len()].copy_from_slice(&MAGIC);
    greeting[MAGIC.len()..].copy_from_slice(nonce);
    greeting
}

fn read_greeting(wire: &mut TcpWire, deadline: Deadline) -> Result<Nonce, TransferError> {
    // An alert (RFC 8446, section 5.1), which is shorter: what a side with TLS says to one without.
    let start: [u8; 2] = read_array(wire, deadline)?;
    if start == [21, 3] {
        return Err(refused(wire, WANTS_TLS));
    }
    let rest: [u8; MAGIC.len() - 2] = read_array(wire, deadline)?;
    if [&start[..], &rest].concat() != MAGIC {
        return Err(refused(wire, NO_PROOF));
    }
    read_array(wire, deadline)
}

fn read_array<const N: usize>(
    wire: &mut TcpWire,
    deadline: Deadline,
) -> Result<[u8; N], TransferError> {
    let mut bytes = [0; N];
    let mut rest = Span::from_slice(&mut bytes);
    while !rest.is_empty() {
        let count = match wire.read(rest, deadline) {
            Ok(count) => count,
            Err(error) => match TransferError::from_io("read the peer's proof", error) {
                TransferError::PeerClosed => 0,
                other => return Err(other),
            },
        };
        if count == 0 {
            return Err(refused(wire, GONE));
        }
        rest = rest.split_at(count).1;
    }
    Ok(bytes)
}

fn write(wire: &mut TcpWire, bytes: &[u8], deadline: Deadline) -> Result<(), TransferError> {
    let mut sent = 0;
    write_all(wire, bytes, Span::empty(), &mut sent, deadline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_proof_holds_for_one_side_one_secret_and_one_pair_of_nonces() {
        let secret = Secret::from_bytes([7; 16]).expect("long enough");
        let other = Secret::from_bytes([8; 16]).expect("long enough");
        let nonces = |connecting, accepting| Nonces {
            connecting: [connecting; NONCE_LEN],
            accepting: [accepting; NONCE_LEN],
            tunnel: None,
        };
        let tag = secret.prove(Side::Connecting, &nonces(1, 2)).expect("any");
        assert!(secret.proves(Side::Connecting, &nonces(1, 2), &tag));
        assert!(!secret.proves(Side::Accepting, &nonces(1, 2), &tag));
        assert!(!secret.proves(Side::Connecting, &nonces(2, 1), &tag));
        assert!(!secret.proves(Side::Connecting, &nonces(1, 3), &tag));
        assert!(!secret.proves(Side::Connecting, &nonces(3, 2), &tag));
        assert!(!other.proves(Side::Connecting, &nonces(1, 2), &tag));
        let within = |tunnel| Nonces {
            tunnel: Some([tunnel; NONCE_LEN]),
            ..nonces(1, 2)
        };
        assert!(!secret.proves(Side::Connecting, &within(3), &tag));
        let tag = secret.prove(Side::Connecting, &within(3)).expect("any");
        assert!(secret.proves(Side::Connecting, &within(3), &tag));
        assert!(!secret.proves(Side::Connecting, &within(4), &tag));
        assert!(!secret.proves(Side::Connecting, &nonces(1, 2), &tag));
    }

    #[test]
    fn what_is_derived_differs_with_secret_and_context_and_is_no_proof() {
        let derive = |secret: u8, context: &[u8]| {
            let secret = Secret::from_bytes([secret; 16]).expect("long enough");
            secret.derive(context).expect("any")
        };
        assert_eq!(derive(1, b"a"), derive(1, b"a"));
        assert_ne!(derive(1, b"a"), derive(1, b"b"));
        assert_ne!(derive(1, b"a"), derive(2, b"a"));
        let nonces = Nonces {
            connecting: [1; NONCE_LEN],
            accepting: [2; NONCE_LEN],
            tunnel: None,
        };
        let context = [nonces.connecting, nonces.accepting].concat();
        let secret = Secret::from_bytes([1; 16]).expect("long enough");
        for side in [Side::Connecting, Side::Accepting] {
            assert!(!secret.proves(side, &nonces, &derive(1, &context)));
        }
    }

    #[test]
    fn a_secret_is_never_shown_and_never_short() {
        let secret = Secret::from_bytes(b"do not print me!").expect("16 bytes");
        assert_eq!(format!("{secret:?}"), "Secret");
        let error = Secret::from_bytes(b"fifteen bytes..").expect_err("short");
        assert!(error.to_string().contains("15 bytes"), "{error}");
        assert!(Secret::from_bytes([0; 4097]).is_err());
        assert!(Secret::from_environment("ROADRUNNER_NO_SUCH_VARIABLE").is_err());
    }

    #[test]
    fn a_file_may_end_with_a_line_end() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"sixteen bytes...\r\n").expect("room");
        let secret = Secret::from_file(file.path()).expect("good");
        assert_eq!(&*secret.0, b"sixteen bytes...");
        let error = Secret::from_file("/nonexistent/secret").expect_err("none");
        assert!(error.to_string().contains("/nonexistent/secret"), "{error}");
    }
}
