//! What the two sides of a session say first on each of its connections. Pure code.

use roadrunner_core::frame::FrameError;

const MAGIC: [u8; 8] = *b"session1";
/// Bytes of the longer one of the two.
pub(super) const LONGEST: u64 = 33;

/// The number of a session, which the connecting side draws.
pub(super) type Id = [u8; 16];

/// What the connecting side says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) id: Id,
    /// Payloads that it has received, whole.
    pub(super) received: u64,
    /// Whether it has had an answer before, so that the other side has to know the session.
    pub(super) resumes: bool,
}

/// What the accepting side answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The session goes on; so many payloads have been received, whole.
    Received(u64),
    /// Nobody here knows the session.
    Unknown,
    /// The session has ended here. So many payloads had been received, whole; and whether all that were sent from here had
    /// been acknowledged, so that none follows.
    Ended { received: u64, finished: bool },
}

impl Greeting {
    pub(super) fn encode(self) -> Vec<u8> {
        let received = self.received.to_le_bytes();
        [&MAGIC[..], &self.id, &received, &[u8::from(self.resumes)]].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(NOT_A_SESSION)?;
        let (id, rest) = rest.split_first_chunk().ok_or(NOT_A_SESSION)?;
        let (received, rest) = rest.split_first_chunk().ok_or(NOT_A_SESSION)?;
        let resumes = match rest {
            [0] => false,
            [1] => true,
            _ => return Err(NOT_A_SESSION),
        };
        Ok(Self {
            id: *id,
            received: u64::from_le_bytes(*received),
            resumes,
        })
    }
}

impl Answer {
    pub(super) fn encode(self) -> Vec<u8> {
        let (state, received) = match self {
            Self::Unknown => (0, 0),
            Self::Received(count) => (1, count),
            Self::Ended { received, finished } => (2 + u8::from(finished), received),
        };
        [&MAGIC[..], &[state], &u64::to_le_bytes(received)].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(NOT_A_SESSION)?;
        let (state, received) = rest.split_first().ok_or(NOT_A_SESSION)?;
        let received = received.try_into().map_err(|_| NOT_A_SESSION)?;
        match (state, u64::from_le_bytes(received)) {
            (0, 0) => Ok(Self::Unknown),
            (1, count) => Ok(Self::Received(count)),
            (2 | 3, received) => Ok(Self::Ended {
                received,
                finished: *state == 3,
            }),
            _ => Err(NOT_A_SESSION),
        }
    }
}

const NOT_A_SESSION: FrameError = FrameError::Unexpected("a payload that does not open a session");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_greeting_survives_the_link(id: Id, received: u64, resumes: bool, finished: bool) {
            let greeting = Greeting { id, received, resumes };
            let bytes = greeting.encode();
            prop_assert_eq!(bytes.len() as u64, LONGEST);
            prop_assert_eq!(Greeting::decode(&bytes), Ok(greeting));
            for answer in [Answer::Unknown, Answer::Received(received), Answer::Ended { received, finished }] {
                prop_assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
            }
        }

        #[test]
        fn what_is_accepted_is_what_would_be_said(mut bytes in proptest::collection::vec(any::<u8>(), 0..40), near: bool) {
            if near && bytes.len() >= MAGIC.len() {
                bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
            }
            if let Ok(greeting) = Greeting::decode(&bytes) {
                prop_assert_eq!(greeting.encode(), bytes.clone());
            }
            if let Ok(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(answer.encode(), bytes);
            }
        }
    }
}
