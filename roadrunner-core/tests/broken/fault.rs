//! What can be wrong with a transport, one way each.

use roadrunner_core::testing::Rule;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is: that it fails no rule shows that the wrapper around the reference transport breaks none by itself.
    None,
    /// Delivers the second of two waiting payloads first.
    Reorders,
    /// Delivers a long payload as two.
    Splits,
    /// Drops the odd end of a long payload.
    Truncates,
    /// Drops the end of a payload that is a little longer than a line of a cache.
    FillsOneLine,
    /// Takes payloads that are longer than the limit.
    IgnoresTheLimit,
    /// Sends on after it has closed.
    SendsAfterClose,
    /// Reads the source of a large payload when it is received.
    ReadsLate,
    /// Uses the place of a payload for the next one, which is as long, before the first has been read.
    ReusesThePlace,
    /// Does not release the destination of a payload that could not be delivered.
    KeepsTheDestination,
    /// Releases it twice.
    ReleasesTwice,
    /// Goes on saying that it is open when it is not.
    SaysItIsOpen,
    /// Wipes what was given away although it could not be sent.
    WipesWhatItDidNotSend,
    /// Writes beyond the end of the destination.
    WritesTooMuch,
    /// Wipes what the sender keeps.
    WipesKeptPayloads,
    /// Gives the sender the receiver's old pages for those that it gave away.
    ReturnsOldPages,
    /// Waits for a payload as long as it takes.
    Hangs,
    /// Gives up before the deadline.
    GivesUpEarly,
    /// Holds whatever is sent.
    HoldsEverything,
    /// Limits the bytes that it holds, and so not the empty payloads.
    HoldsAnyNumber,
    /// Panics when the end of a region does not fit 64 bits.
    PanicsOnOverflow,
    /// Takes a region that is too short for one that is not.
    TrustsTheSink,
    /// Forgets a descriptor when the peer has died.
    LeaksADescriptor,
    /// Forgets memory when the peer has died.
    LeaksMemory,
    /// Takes a death for an end.
    TakesDeathForTheEnd,
    /// Rounds up the bytes in its receipts.
    RoundsBytes,
    /// Says that nothing was copied.
    ClaimsNoCopies,
    /// Calls itself inline when it is not.
    NamesAnotherMethod,
    /// Opens a link with anybody.
    LetsAnybodyIn,
}

impl Fault {
    pub(crate) const ALL: [Self; 29] = [
        Self::None,
        Self::Reorders,
        Self::Splits,
        Self::Truncates,
        Self::FillsOneLine,
        Self::IgnoresTheLimit,
        Self::SendsAfterClose,
        Self::ReadsLate,
        Self::ReusesThePlace,
        Self::KeepsTheDestination,
        Self::ReleasesTwice,
        Self::SaysItIsOpen,
        Self::WipesWhatItDidNotSend,
        Self::WritesTooMuch,
        Self::WipesKeptPayloads,
        Self::ReturnsOldPages,
        Self::Hangs,
        Self::GivesUpEarly,
        Self::HoldsEverything,
        Self::HoldsAnyNumber,
        Self::PanicsOnOverflow,
        Self::TrustsTheSink,
        Self::LeaksADescriptor,
        Self::LeaksMemory,
        Self::TakesDeathForTheEnd,
        Self::RoundsBytes,
        Self::ClaimsNoCopies,
        Self::NamesAnotherMethod,
        Self::LetsAnybodyIn,
    ];

    /// The one rule whose check has to fail.
    pub(crate) fn breaks(self) -> Option<Rule> {
        Some(match self {
            Self::None => return None,
            Self::Reorders
            | Self::Splits
            | Self::Truncates
            | Self::FillsOneLine
            | Self::IgnoresTheLimit
            | Self::SendsAfterClose => Rule::Order,
            Self::ReadsLate | Self::ReusesThePlace => Rule::Reuse,
            Self::KeepsTheDestination
            | Self::ReleasesTwice
            | Self::SaysItIsOpen
            | Self::WipesWhatItDidNotSend => Rule::Whole,
            Self::WritesTooMuch | Self::WipesKeptPayloads | Self::ReturnsOldPages => Rule::Private,
            Self::Hangs | Self::GivesUpEarly => Rule::Deadlines,
            Self::HoldsEverything | Self::HoldsAnyNumber => Rule::Bounded,
            Self::PanicsOnOverflow | Self::TrustsTheSink => Rule::Hostile,
            Self::LeaksADescriptor | Self::LeaksMemory | Self::TakesDeathForTheEnd => Rule::Death,
            Self::RoundsBytes | Self::ClaimsNoCopies | Self::NamesAnotherMethod => Rule::Receipts,
            Self::LetsAnybodyIn => Rule::Invited,
        })
    }
}
