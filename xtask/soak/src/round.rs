//! One death, as it is drawn from one number.

use crate::moment::{skewed, Moment};
use crate::ways::Carriage;
use crate::Part;
use anyhow::{ensure, Result};
use fastrand::Rng;
use roadrunner_core::testing::pattern;
use roadrunner_faults::Way;
use std::fmt;

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Sender,
    Receiver,
}

impl End {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Sender => Self::Receiver,
            Self::Receiver => Self::Sender,
        }
    }
}

/// Who dies when, in the midst of what.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) part: Part,
    pub(crate) seed: u64,
    pub(crate) carriage: Carriage,
    pub(crate) victim: End,
    /// Whether the victim listens, and the survivor connects.
    pub(crate) victim_listens: bool,
    /// Whether the two prove a secret to each other first, where there is such a thing.
    pub(crate) secret: bool,
    pub(crate) moment: Moment,
    lens: [u64; 4],
}

impl Round {
    pub(crate) fn new(part: Part, seed: u64) -> Self {
        let carriages = Carriage::of(part);
        // Each of them, and either end, equally often; everything else by lot.
        let turn = seed as usize;
        let carriage = carriages[turn % carriages.len()];
        let victim = if turn / carriages.len() % 2 == 0 {
            End::Sender
        } else {
            End::Receiver
        };
        let mut random = Rng::with_seed(seed);
        let (least, most) = carriage.lens();
        let lens = [(); 4].map(|()| least + skewed(&mut random, most - least));
        let way = match victim {
            End::Sender => Way::Out,
            End::Receiver => Way::In,
        };
        // Of a payload in a segment 40 bytes cross, of one in the ring now and then what wakes the other up.
        let bytes = if carriage.is_through_memory() {
            4096
        } else {
            4 * lens.iter().sum::<u64>()
        };
        Self {
            part,
            seed,
            carriage,
            victim,
            victim_listens: random.bool(),
            secret: random.bool(),
            moment: Moment::draw(&mut random, way, bytes.max(2)),
            lens,
        }
    }

    /// The payload of this number.
    pub(crate) fn payload(&self, number: u64) -> Vec<u8> {
        pattern(
            self.len(number),
            self.seed.wrapping_mul(31).wrapping_add(number) % (1 << 40),
        )
    }

    pub(crate) fn len(&self, number: u64) -> u64 {
        self.lens[number as usize % self.lens.len()]
    }

    /// Compares what arrived with what was sent.
    pub(crate) fn check(&self, number: u64, bytes: &[u8], when: &str) -> Result<()> {
        let expected = self.payload(number);
        let same = expected
            .iter()
            .zip(bytes)
            .take_while(|(a, b)| a == b)
            .count();
        ensure!(
            expected.len() == bytes.len(),
            "payload {number} has {} bytes instead of {}",
            bytes.len(),
            expected.len()
        );
        ensure!(
            same == bytes.len(),
            "payload {number} of {} bytes is wrong from byte {same} on, {when}",
            bytes.len()
        );
        Ok(())
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let victim = match self.victim {
            End::Sender => "sender",
            End::Receiver => "receiver",
        };
        let opens = if self.victim_listens {
            "listens"
        } else {
            "connects"
        };
        write!(
            f,
            "--only {} --seed {} --rounds 1: {} of {:?} bytes; the {victim}, which {opens}, is killed {}",
            self.part.name(),
            self.seed,
            self.carriage,
            self.lens,
            self.moment
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_number_always_draws_the_same() {
        for seed in 0..100 {
            let [one, other] = [(); 2].map(|()| Round::new(Part::Uds, seed).to_string());
            assert_eq!(one, other);
        }
    }

    #[test]
    fn every_carriage_dies_at_either_end() {
        for part in [Part::Uds, Part::Net] {
            let carriages = Carriage::of(part).len() as u64;
            let rounds = (0..2 * carriages).map(|seed| Round::new(part, seed));
            let kinds: HashSet<_> = rounds
                .map(|round| format!("{} {:?}", round.carriage, round.victim))
                .collect();
            assert_eq!(kinds.len() as u64, 2 * carriages);
        }
    }

    #[test]
    fn a_wrong_byte_is_told() {
        let round = Round::new(Part::Uds, 1);
        let mut bytes = round.payload(3);
        round.check(3, &bytes, "now").expect("as sent");
        *bytes.last_mut().expect("not empty") ^= 1;
        round.check(3, &bytes, "now").expect_err("changed");
        bytes.pop();
        round.check(3, &bytes, "now").expect_err("cut");
    }
}
