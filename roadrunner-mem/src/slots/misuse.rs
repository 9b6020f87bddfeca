//! What functions do with slots that they must not.

use std::fmt;

/// How often a function did with its slots what it must not do. On a strict link it harmed nobody but itself: what it sent or
/// wrote went into pages of its own. What it writes after sending on a trusted link goes into what it gave away, and nobody
/// notices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Misuse {
    /// Sends of a slot that it had given away already, and had not got again: what was in its place went as a copy.
    pub sent_again: u64,
    /// Slots in whose place it wrote after it had given them away, before it got them again: the writes are lost.
    pub written_after: u64,
    /// Payloads that it received and has not released. Until its end that is its right; later it is none.
    pub unreleased: u64,
    /// Slots and payloads that it held as it [died](super::Slots::bury): they were taken back.
    pub died_holding: u64,
}

impl Misuse {
    /// Whether there was none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What it did, one thing after the other: `wrote to 2 slots that it had given away; …`. Nothing if it did nothing.
impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (count, one, many) in [
            (
                self.sent_again,
                "sent a slot that it had given away, which went as a copy of what it has there now",
                "sent slots that it had given away, which went as copies of what it has there now",
            ),
            (
                self.written_after,
                "wrote to a slot after giving it away, which nobody sees",
                "wrote to slots after giving them away, which nobody sees",
            ),
            (
                self.unreleased,
                "did not release a payload that it received",
                "did not release payloads that it received",
            ),
            (
                self.died_holding,
                "died with a slot, which was taken back",
                "died with slots, which were taken back",
            ),
        ] {
            match count {
                0 => continue,
                1 => write!(f, "{between}{one}")?,
                _ => write!(f, "{between}{many} ({count})")?,
            }
            between = "; ";
        }
        Ok(())
    }
}
