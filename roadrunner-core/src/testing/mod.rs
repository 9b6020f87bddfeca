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
/// histories, `conformance!(name, skipped: "why")` one whose only test says so. Beside the module is a function of the same
/// name, which its tests call.
///
/// The fixture is an expression, evaluated anew for each test, and sees what the place of the macro sees. A fixture that
/// this machine cannot make is an `Option`: `conformance!(name, if possible: fixture, else: "why")`.
#[macro_export]
macro_rules! conformance {
    ($name:ident, skipped: $why:expr) => {
        fn $name() {
            $crate::testing::skipped(stringify!($name), $why);
        }

        mod $name {
            #[test]
            fn skipped() {
                super::$name();
            }
        }
    };
    ($name:ident, if possible: $fixture:expr, else: $why:expr) => {
        fn $name(rule: Option<$crate::testing::Rule>) {
            match ($fixture, rule) {
                (Some(fixture), Some(rule)) => $crate::testing::prove(rule, fixture),
                (Some(fixture), None) => $crate::testing::follow(fixture),
                (None, _) => $crate::testing::skipped(stringify!($name), $why),
            }
        }

        $crate::conformance!(@tests $name);
    };
    ($name:ident, $fixture:expr) => {
        fn $name(rule: Option<$crate::testing::Rule>) {
            match rule {
                Some(rule) => $crate::testing::prove(rule, $fixture),
                None => $crate::testing::follow($fixture),
            }
        }

        $crate::conformance!(@tests $name);
    };
    (@tests $name:ident) => {
        mod $name {
            $crate::conformance!(@one $name rule_01_one_send_one_receive Order);
            $crate::conformance!(@one $name rule_02_safe_reuse Reuse);
            $crate::conformance!(@one $name rule_03_all_or_nothing Whole);
            $crate::conformance!(@one $name rule_04_only_the_payload_crosses Private);
            $crate::conformance!(@one $name rule_05_deadlines Deadlines);
            $crate::conformance!(@one $name rule_06_bounded Bounded);
            $crate::conformance!(@one $name rule_07_hostile_input_is_an_error Hostile);
            $crate::conformance!(@one $name rule_08_death_leaves_nothing_behind Death);
            $crate::conformance!(@one $name rule_09_honest_receipts Receipts);
            $crate::conformance!(@one $name rule_10_nobody_uninvited Invited);

            #[test]
            fn histories_follow_a_queue() {
                super::$name(None);
            }
        }
    };
    (@one $name:ident $function:ident $rule:ident) => {
        #[test]
        fn $function() {
            super::$name(Some($crate::testing::Rule::$rule));
        }
    };
}
