//! `cargo xtask prop`: every property, long and repeatably.

mod find;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{bail, Context as _, Result};

use crate::build::{cargo, root};
use crate::context::Context;
use crate::setup;
use find::Suite;

/// The workspaces whose properties are run.
const WORKSPACES: [&str; 2] = ["Cargo.toml", "roadrunner-wasmedge/functions/Cargo.toml"];
/// How long one failure is made smaller, in milliseconds.
const SHRINKING: &str = "120000";

/// Runs every property test with many inputs from one seed.
///
/// A property is what `proptest!` wraps, or the histories of the conformance suite. An input that fails is made smaller
/// and kept: in a file `*.proptest-regressions` beside the test, or `proptest-regressions/` beside `src`. Commit it: every
/// later run tries what is in there first.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Inputs for each property
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    cases: u32,
    /// What the inputs are drawn from; another one in each run if it is not given
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// The properties of this package only; may be repeated
    #[arg(long, value_name = "NAME")]
    package: Vec<String>,
}

/// What a package came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: Vec<String>,
    failed: Vec<String>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let seed = arguments.seed.unwrap_or_else(any_seed);
    let mut suites = Vec::new();
    for manifest in WORKSPACES {
        suites.extend(find::suites(Path::new(manifest))?);
    }
    let known: Vec<_> = suites.iter().map(|suite| suite.package.clone()).collect();
    if let Some(unknown) = arguments.package.iter().find(|name| !known.contains(name)) {
        bail!(
            "no properties in a package {unknown}; there are some in {}",
            known.join(", ")
        );
    }
    if !arguments.package.is_empty() {
        suites.retain(|suite| arguments.package.contains(&suite.package));
    }
    if suites.iter().any(Suite::needs_wasmedge) {
        setup::ensure(context)?;
    }

    let mut all = Tally::default();
    let began = Instant::now();
    for suite in &suites {
        println!("{}: {} cases each", suite.package, arguments.cases);
        let tally = run_suite(suite, arguments.cases, seed)?;
        all.passed.extend(tally.passed);
        all.failed.extend(tally.failed);
    }
    println!(
        "\n{} properties held for {} cases each, {} in all, seed {seed} ({:.0} s)",
        all.passed.len(),
        arguments.cases,
        all.passed.len() as u64 * u64::from(arguments.cases),
        began.elapsed().as_secs_f64()
    );
    if all.failed.is_empty() {
        return Ok(());
    }
    bail!(
        "{} failed. The inputs are kept (`git status` shows the files *proptest-regressions*): commit them with the \
         mend. Again: cargo xtask prop --cases {} --seed {seed}",
        all.failed.join(", "),
        arguments.cases
    )
}

fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |time| time.as_secs() ^ u64::from(time.subsec_nanos()))
}

fn run_suite(suite: &Suite, cases: u32, seed: u64) -> Result<Tally> {
    let mut child = command(suite, cases, seed)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            take(suite, &line?, &mut tally);
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed.is_empty() {
        bail!(
            "{}: cargo test ended with {status}: see above",
            suite.package
        );
    }
    let unseen = unseen(suite, &tally);
    if !unseen.is_empty() {
        bail!(
            "{}: no such test was run: {}",
            suite.package,
            unseen.join(", ")
        );
    }
    Ok(tally)
}

fn command(suite: &Suite, cases: u32, seed: u64) -> Command {
    let mut test = cargo();
    test.args([
        "test",
        "--locked",
        "--tests",
        "--all-features",
        "--no-fail-fast",
    ])
    .arg("--manifest-path")
    .arg(&suite.manifest)
    .args(["--package", &suite.package, "--"])
    .args(&suite.properties)
    .env("PROPTEST_CASES", cases.to_string())
    .env("PROPTEST_RNG_SEED", seed.to_string())
    // An input that an assumption turns away is not a case: let there be as many of those.
    .env("PROPTEST_MAX_GLOBAL_REJECTS", cases.max(1024).to_string())
    .env("PROPTEST_MAX_SHRINK_TIME", SHRINKING)
    .current_dir(root());
    test
}

/// Shows a line of libtest's, unless it says nothing, and counts what it tells of a property.
fn take(suite: &Suite, line: &str, tally: &mut Tally) {
    let outcome = line
        .strip_prefix("test ")
        .and_then(|rest| rest.split_once(" ... "))
        .filter(|(test, _)| suite.has(test));
    match outcome {
        Some((test, "ok")) => tally.passed.push(test.to_owned()),
        Some((test, "FAILED")) => tally.failed.push(test.to_owned()),
        _ => {}
    }
    let idle = line.trim().is_empty()
        || line.starts_with("running 0 tests")
        || line.starts_with("test result: ok. 0 passed");
    if !idle {
        println!("{line}");
    }
}

/// Properties that no test of the output was one of: where a source could not be read as it was meant.
fn unseen(suite: &Suite, tally: &Tally) -> Vec<String> {
    let seen: BTreeSet<_> = tally
        .passed
        .iter()
        .chain(&tally.failed)
        .filter_map(|test| test.rsplit("::").next())
        .collect();
    let missing = suite
        .properties
        .iter()
        .filter(|name| !seen.contains(name.as_str()));
    missing.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite() -> Suite {
        Suite {
            package: "p".to_owned(),
            manifest: "Cargo.toml".into(),
            properties: BTreeSet::from(["holds".to_owned(), "fails".to_owned()]),
        }
    }

    #[test]
    fn only_properties_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::holds ... ok",
            "test a::holds_too ... ok",
            "test fails ... FAILED",
        ] {
            take(&suite(), line, &mut tally);
        }
        let expected = Tally {
            passed: vec!["a::holds".to_owned()],
            failed: vec!["fails".to_owned()],
        };
        assert_eq!(tally, expected);
        assert!(unseen(&suite(), &tally).is_empty());
    }

    #[test]
    fn a_property_that_did_not_run_is_missed() {
        assert_eq!(unseen(&suite(), &Tally::default()), ["fails", "holds"]);
    }
}
