//! The suite against transports that each break one rule: every one fails the check of that rule and no other.
//!
//! The only test of this file, because it silences the panic hook, and because the suite counts what the process has.

mod fault;
mod link;
mod trusting;
#[path = "../wire/mod.rs"]
mod wire;

use fault::Fault;
use link::Broken;
use roadrunner_core::testing::{prove, Fixture, Rule};
use std::panic::{catch_unwind, set_hook, take_hook, RefUnwindSafe};
use std::sync::Mutex;
use std::thread;
use trusting::TrustsTheHeader;

const WORKERS: usize = 4;

#[test]
fn each_broken_transport_fails_the_rule_that_it_breaks_and_no_other() {
    let hook = take_hook();
    set_hook(Box::new(|_| ()));
    // The checks spend most of their time waiting.
    let todo = Mutex::new(Fault::ALL.into_iter());
    let next = || todo.lock().expect("no panic").next();
    let work = || -> Vec<_> {
        std::iter::from_fn(next)
            .map(|fault| (fault, failed(|| Broken(fault))))
            .collect()
    };
    let outcomes: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("panics are caught"))
            .collect()
    });
    let trusting = failed(|| TrustsTheHeader);
    set_hook(hook);

    let mut unbroken = Rule::ALL.to_vec();
    let mut wrong = Vec::new();
    for (fault, failed) in outcomes {
        let expected: Vec<Rule> = fault.breaks().into_iter().collect();
        unbroken.retain(|rule| !expected.contains(rule));
        if failed != expected {
            wrong.push(format!(
                "{fault:?} failed {failed:?} instead of {expected:?}"
            ));
        }
    }
    assert_eq!(trusting, [Rule::Hostile], "{}", TrustsTheHeader.name());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(unbroken.is_empty(), "nothing breaks {unbroken:?}");
}

fn failed<F: Fixture>(fixture: impl Fn() -> F + RefUnwindSafe) -> Vec<Rule> {
    let fails = |rule: &Rule| catch_unwind(|| prove(*rule, fixture())).is_err();
    Rule::ALL.into_iter().filter(fails).collect()
}
