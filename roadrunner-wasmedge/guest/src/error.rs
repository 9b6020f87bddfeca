use std::fmt;

/// Why the host refused or could not finish a [`send`](crate::send).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// A region outside the memory or a text that is not UTF-8 (-1). The functions of this crate never cause it.
    Invalid,
    /// The target is no successor of this function in the workflow (-2).
    UnknownTarget,
    /// The deadline of this call passed before the transfer was done (-3).
    Timeout,
    /// The receiving function or its host is gone (-4).
    PeerClosed,
    /// The payload is longer than the link takes (-5).
    TooLarge,
    /// The transfer failed in another way; the host's log says how (-6).
    Transfer,
    /// This host does not support the call (-7).
    NotSupported,
    /// A code that version 1 of the ABI does not define.
    Other(i32),
}

impl Error {
    /// The ABI's number for this error.
    pub fn code(self) -> i32 {
        match self {
            Error::Invalid => -1,
            Error::UnknownTarget => -2,
            Error::Timeout => -3,
            Error::PeerClosed => -4,
            Error::TooLarge => -5,
            Error::Transfer => -6,
            Error::NotSupported => -7,
            Error::Other(code) => code,
        }
    }

    /// What an import's result means.
    pub(crate) fn check(code: i32) -> Result<(), Error> {
        Err(match code {
            0 => return Ok(()),
            -1 => Error::Invalid,
            -2 => Error::UnknownTarget,
            -3 => Error::Timeout,
            -4 => Error::PeerClosed,
            -5 => Error::TooLarge,
            -6 => Error::Transfer,
            -7 => Error::NotSupported,
            other => Error::Other(other),
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Invalid => {
                "the host found a region outside the memory or a text that is not UTF-8"
            }
            Error::UnknownTarget => {
                "the target is not a successor of this function in the workflow"
            }
            Error::Timeout => "the deadline passed before the payload was sent",
            Error::PeerClosed => "the receiving function is gone",
            Error::TooLarge => "the payload is longer than the link takes",
            Error::Transfer => "the transfer failed; the host's log says how",
            Error::NotSupported => "the host does not support this call",
            Error::Other(code) => return write!(f, "the host returned the unknown error {code}"),
        })
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_maps_to_its_error_and_back() {
        assert_eq!(Error::check(0), Ok(()));
        for code in (-20..0).chain([1, i32::MAX, i32::MIN]) {
            let error = Error::check(code).expect_err("only 0 is success");
            assert_eq!(error.code(), code);
            assert_eq!(matches!(error, Error::Other(_)), !(-7..0).contains(&code));
        }
    }
}
