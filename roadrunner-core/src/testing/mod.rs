//! What every transport is tested with (feature `testing`).
//!
//! The [contract](crate::Transfer) has ten rules; [`Rule`] names them, and [`prove`] holds a transport against one. The
//! author of a transport writes a [`Fixture`], which says how to open a link and what to expect of it, and instantiates
//! the suite with one line for each method. The line becomes a module with one `#[test]` for each rule, and one for
//! random [histories](follow) of sending, receiving, closing and dying, which are compared with a queue.
//!
//! # Example
//!
//! The [reference transport](Memory) stands for the one to be tested:
//!
//! ```
//! use roadrunner_core::conformance;
//! use roadrunner_core::testing::{follow, prove, Memory, Rule};
//!
//! conformance!(copy, Memory::default());
//! conformance!(exchange, skipped: "a plain buffer has no pages that could change hands");
//!
//! // What the tests of the first line do:
//! for rule in Rule::ALL {
//!     prove(rule, Memory::default());
//! }
//! follow(Memory::default());
//! ```
//!
//! Instantiations belong into a test file of their own, because rule 8 counts the descriptors and mappings of the whole
//! process. Within the suite it runs alone; the suite knows nothing of other tests.
//!
//! # What is not tested is seen
//!
//! A method that does not exist yet, and a rule that a fixture has no way to try, say so on stderr:
//! `skipped: <method>: <why>`. If the environment variable `ROADRUNNER_SKIPPED` names a file, the same line is appended
//! to it.
//!
//! # By hand
//!
//! For tests of a transport's own there are [`pattern`]s to send, a [`CountingSink`] to receive into, and a peer for
//! byte streams that speaks the frames by hand ([`say_hello`], [`data_frame`]).

mod by_hand;
mod ends;
mod fixture;
mod history;
mod payloads;
mod places;
mod process;
mod reference;
mod rules;

pub use by_hand::{
    data_frame, death_at_every_byte, hostile_frames, read_header, reuse_with_full_buffers,
    say_hello,
};
pub use ends::Conformance;
pub use fixture::{ByHand, Case, Expected, Fixture, InFlight, Missing, Stranger, Stream};
pub use history::follow;
pub use payloads::{
    fill, host_memory, pattern, receive, send, soon, CountingSink, NewMemory, LENGTHS,
};
pub use process::skipped;
pub use reference::{Memory, MemoryLink};
pub use rules::{prove, Rule};

/// Instantiates the suite: `conformance!(name, fixture)` is a module `name` with one test for each [`Rule`] and one for
/// histories, `conformance!(name, skipped: "why")` one whose only test says so.
///
/// The fixture is an expression, evaluated anew for each test, and sees what the place of the macro sees. A fixture that
/// this machine cannot make is an `Option`: `conformance!(name, if possible: fixture, else: "why")`.
#[macro_export]
macro_rules! conformance {
    ($name:ident, skipped: $why:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[test]
            fn skipped() {
                $crate::testing::skipped(stringify!($name), $why);
            }
        }
    };
    ($name:ident, if possible: $fixture:expr, else: $why:expr) => {
        $crate::conformance!(@tests $name, |test| match $fixture {
            Some(fixture) => test(fixture),
            None => $crate::testing::skipped(stringify!($name), $why),
        });
    };
    ($name:ident, $fixture:expr) => {
        $crate::conformance!(@tests $name, |test| test($fixture));
    };
    (@tests $name:ident, |$test:ident| $run:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::conformance!(@one rule_01_one_send_one_receive, |$test| $run, Order);
            $crate::conformance!(@one rule_02_safe_reuse, |$test| $run, Reuse);
            $crate::conformance!(@one rule_03_all_or_nothing, |$test| $run, Whole);
            $crate::conformance!(@one rule_04_only_the_payload_crosses, |$test| $run, Private);
            $crate::conformance!(@one rule_05_deadlines, |$test| $run, Deadlines);
            $crate::conformance!(@one rule_06_bounded, |$test| $run, Bounded);
            $crate::conformance!(@one rule_07_hostile_input_is_an_error, |$test| $run, Hostile);
            $crate::conformance!(@one rule_08_death_leaves_nothing_behind, |$test| $run, Death);
            $crate::conformance!(@one rule_09_honest_receipts, |$test| $run, Receipts);
            $crate::conformance!(@one rule_10_nobody_uninvited, |$test| $run, Invited);

            #[test]
            fn histories_follow_a_queue() {
                let $test = |fixture| $crate::testing::follow(fixture);
                $run
            }
        }
    };
    (@one $function:ident, |$test:ident| $run:expr, $rule:ident) => {
        #[test]
        fn $function() {
            let $test = |fixture| $crate::testing::prove($crate::testing::Rule::$rule, fixture);
            $run
        }
    };
}
