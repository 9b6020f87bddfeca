//! When a process is killed.

use fastrand::Rng;
use roadrunner_faults::{Plan, Way};
use std::fmt;
use std::time::Duration;

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Instead of making its call number so many of the system, counted from before it listens or connects.
    Call(u64),
    /// When so many bytes have crossed its sockets.
    Byte(Way, u64),
    /// So long after the link was opened, by the other process.
    After(Duration),
}

/// The longest life of a victim that is killed by the clock.
const LONGEST: u64 = 20_000;

impl Moment {
    /// `most` bytes cross a socket before the last moment; the victim of a sender reads, another one writes.
    pub(crate) fn draw(random: &mut Rng, way: Way, most: u64) -> Self {
        match random.u8(..3) {
            0 => Self::Call(skewed(random, 400)),
            1 => Self::Byte(way, skewed(random, most)),
            _ => Self::After(Duration::from_micros(skewed(random, LONGEST))),
        }
    }

    /// What the victim runs under.
    pub(crate) fn plan(self) -> Plan {
        match self {
            Self::Call(nth) => Plan::new().kills_at(nth),
            Self::Byte(way, bytes) => Plan::new().dies(way, bytes).kills(),
            Self::After(_) => Plan::new(),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(nth) => write!(f, "at its system call {nth}"),
            Self::Byte(Way::Out, bytes) => write!(f, "after {bytes} bytes that it sent"),
            Self::Byte(Way::In, bytes) => write!(f, "after {bytes} bytes that it took in"),
            Self::After(time) => write!(f, "{time:?} after the link was opened"),
        }
    }
}

/// A number below `most`, a small one as likely as a large one is.
pub(crate) fn skewed(random: &mut Rng, most: u64) -> u64 {
    let bits = random.u32(0..=most.max(1).ilog2());
    random.u64(0..1 << bits << 1).min(most.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skewed_numbers_stay_below() {
        let mut random = Rng::with_seed(1);
        for most in [1, 2, 3, 1000, 1 << 40] {
            for _ in 0..1000 {
                assert!(skewed(&mut random, most) < most);
            }
        }
    }
}
