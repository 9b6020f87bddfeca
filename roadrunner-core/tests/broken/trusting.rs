//! A link over a byte stream that believes the lengths that its peer names.

use crate::wire::Sockets;
use roadrunner_core::testing::{ByHand, Case, Expected, Fixture, InFlight, Missing, Stranger};
use roadrunner_core::DEFAULT_LIMIT;

pub(crate) struct TrustsTheHeader;

impl Fixture for TrustsTheHeader {
    type Link = <Sockets as Fixture>::Link;

    fn name(&self) -> &str {
        "a link that trusts the header"
    }

    fn open(&self, limit: u64) -> (Self::Link, Self::Link) {
        Sockets.open(limit)
    }

    fn expected(&self, case: Case) -> Expected {
        Sockets.expected(case)
    }

    fn in_flight(&self) -> InFlight {
        Sockets.in_flight()
    }

    fn by_hand(&self, _limit: u64) -> Result<ByHand<Self::Link>, Missing> {
        Sockets.by_hand(DEFAULT_LIMIT)
    }

    fn strangers(&self) -> Result<Vec<Stranger<Self::Link>>, Missing> {
        Err(Missing::NotApplicable)
    }
}
