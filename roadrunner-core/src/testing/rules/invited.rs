//! Rule 10: nobody uninvited.

use super::{skip, Rule};
use crate::testing::fixture::Fixture;
use crate::TransferError;

pub(super) fn check<F: Fixture>(fixture: &F) {
    let strangers = match fixture.strangers() {
        Ok(strangers) => strangers,
        Err(why) => return skip(fixture, Rule::Invited, "a stranger", why),
    };
    assert!(
        !strangers.is_empty(),
        "a fixture that can let strangers try has some"
    );
    for (who, outcome) in strangers {
        match outcome {
            Err(
                TransferError::Refused(_)
                | TransferError::Protocol(_)
                | TransferError::PeerClosed
                | TransferError::Truncated { .. },
            ) => {}
            Ok(_) => panic!("{who} was let in"),
            Err(error) => panic!("{who} was not turned away but failed: {error}"),
        }
    }
}
