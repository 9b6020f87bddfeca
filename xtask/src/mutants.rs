//! `cargo xtask mutants`: whether the tests notice when the code does something else.

mod verdict;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{bail, Context as _, Result};
use serde::Deserialize;
use toml_edit::DocumentMut;

use crate::build::{root, target_directory};
use crate::context::Context;
use crate::setup;
use crate::test::SEED;
use crate::tools::{Tools, MUTANTS};
use crate::verify::quietly;
use verdict::{key, Ended, Survivor, Verdict};

/// Changes the code in small ways, one at a time, and looks whether a test fails.
///
/// Prints for each part which share of the changes was noticed. A change that no test notices, a survivor, is an error,
/// unless `xtask/mutants.toml` lists it with the reason why it may live; so is an entry there that is no longer true. The
/// quick tests are asked about all changes, the others about those that the quick ones miss and nobody has listed. On two
/// cores a change takes about four seconds in the part `core`, half an hour for all of it; `--shard` does some of a part.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// This part only; may be repeated
    #[arg(long, value_enum, default_values_t = [Part::Core, Part::Sys])]
    part: Vec<Part>,
    /// Of each part, the K-th of N shards only, counted from 0
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// How many at a time: the tests of links mostly wait
    #[arg(long, value_name = "N", default_value_t = 4)]
    jobs: u32,
    /// Of the part `sys`, this package only; may be repeated
    #[arg(long, value_name = "NAME")]
    package: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// roadrunner-core but for its test suites
    Core,
    /// What of it reads and writes frames, and the regions
    Frame,
    /// The unsafe code of the other crates
    Sys,
}

/// Code that is changed, and the package whose tests have to notice.
struct Target {
    part: Part,
    package: &'static str,
    /// Files, and directories that end in `/`, from the root of the repository.
    code: &'static [&'static str],
    but: Option<&'static str>,
    /// The tests that are soon over, as `cargo test` is told: what they notice, the others are not asked about.
    quick: &'static [&'static str],
}

const TARGETS: [Target; 6] = [
    Target {
        part: Part::Core,
        package: "roadrunner-core",
        code: &["roadrunner-core/src/"],
        but: Some("roadrunner-core/src/testing/"),
        quick: &[
            "--lib",
            "--test=types",
            "--test=conformance",
            "--",
            SKIP,
            MANY,
        ],
    },
    Target {
        part: Part::Frame,
        package: "roadrunner-core",
        code: &[
            "roadrunner-core/src/frame.rs",
            "roadrunner-core/src/region.rs",
            "roadrunner-core/src/stream.rs",
            "roadrunner-core/src/stream/",
        ],
        but: None,
        quick: &["--lib", "--test=conformance", "--", SKIP, MANY],
    },
    Target {
        part: Part::Sys,
        package: "roadrunner-mem",
        code: &["roadrunner-mem/src/sys/"],
        but: Some("roadrunner-mem/src/sys/tests.rs"),
        quick: &[
            "--lib",
            "--test=edges",
            "--",
            "--skip=pages_are_taken_out_of_the_threads_hands",
            "--skip=a_memory_in_a_reservation_stays_whole_and_can_grow",
            MANY,
        ],
    },
    Target {
        part: Part::Sys,
        package: "roadrunner-uds",
        code: &["roadrunner-uds/src/sys.rs", "roadrunner-uds/src/sys/"],
        but: None,
        quick: &["--lib", "--test=ring", "--test=hostile", "--", MANY],
    },
    Target {
        part: Part::Sys,
        package: "roadrunner-splice",
        code: &["roadrunner-splice/src/sys.rs", "roadrunner-splice/src/sys/"],
        // What takes the other's place where that is left out.
        but: Some("roadrunner-splice/src/sys/no_uring.rs"),
        quick: &["--lib"],
    },
    Target {
        part: Part::Sys,
        package: WASMEDGE,
        code: &["roadrunner-wasmedge/src/sys/"],
        but: None,
        quick: &["--lib", "--test=functions", "--test=function_compile"],
    },
];
const WASMEDGE: &str = "roadrunner-wasmedge";

/// Takes longer than all other tests of the quick ones together, and is about the suites themselves.
const SKIP: &str = "--skip=histories_find_each_fault";
/// Tests at a time: those of links mostly wait.
const MANY: &str = "--test-threads=8";

/// Where survivors are listed.
const LIST: &str = "xtask/mutants.toml";
/// A test that runs this many seconds after a change is taken to hang, which is noticed too.
const HANGS: &str = "120";

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let tools = Tools::of(context);
    let listed = listed(&root().join(LIST))?;
    let mut complaints = 0;
    let chosen = TARGETS.iter().filter(|target| {
        let package = target.part != Part::Sys
            || arguments.package.is_empty()
            || arguments.package.iter().any(|name| name == target.package);
        arguments.part.contains(&target.part) && package
    });
    for target in chosen {
        if target.package == WASMEDGE {
            if let Err(error) = setup::ensure(context) {
                println!("{}: skipped: {error:#}", target.name());
                continue;
            }
        }
        let all = target.all(&tools)?;
        let covered: Vec<_> = listed
            .iter()
            .filter(|survivor| target.covers(&survivor.mutant))
            .cloned()
            .collect();
        let outcomes = target.run(&tools, arguments, &covered)?;
        let verdict = Verdict::of(&all, &outcomes, &covered);
        print!("{}: {verdict}", target.name());
        complaints += verdict.complaints();
    }
    if complaints > 0 {
        bail!("{complaints} survivors are not as {LIST} lists them: write a test, or the reason");
    }
    Ok(())
}

impl Target {
    fn name(&self) -> String {
        match self.part {
            Part::Core => "core".to_owned(),
            Part::Frame => "frame".to_owned(),
            Part::Sys => format!("sys of {}", self.package),
        }
    }

    /// Whether a mutant is one of this target's, by the file that its name begins with.
    fn covers(&self, mutant: &str) -> bool {
        let file = mutant.split(": ").next().unwrap_or_default();
        let below = |code: &&str| file == *code || (code.ends_with('/') && file.starts_with(*code));
        self.code.iter().any(below) && !self.but.iter().any(below)
    }

    fn command(&self, tools: &Tools) -> Result<std::process::Command> {
        let glob = |code: &str| {
            if code.ends_with('/') {
                format!("{code}**")
            } else {
                code.to_owned()
            }
        };
        let mut command = tools.command(&MUTANTS)?;
        command
            .current_dir(root())
            .args(["mutants", "--package", self.package, "--no-config"]);
        for code in self.code {
            command.args(["--file", &glob(code)]);
        }
        if let Some(code) = self.but {
            command.args(["--exclude", &glob(code)]);
        }
        Ok(command)
    }

    /// Every change that there is to make, by its name without the line.
    fn all(&self, tools: &Tools) -> Result<Vec<String>> {
        let names = quietly(self.command(tools)?.args(["--list", "--colors=never"]))?;
        Ok(names.lines().map(key).collect())
    }

    /// What came of each change: by the quick tests, and by all of them where those noticed nothing and it is not listed.
    fn run(
        &self,
        tools: &Tools,
        arguments: &Arguments,
        listed: &[Survivor],
    ) -> Result<Vec<(String, Ended)>> {
        let shard = arguments.shard.iter().flat_map(|shard| ["--shard", shard]);
        let shard: Vec<_> = shard.map(str::to_owned).collect();
        let mut outcomes = self.try_all(tools, arguments, &shard, self.quick)?;
        let doubtful = verdict::unlisted(&outcomes, listed);
        let again: Vec<_> = doubtful
            .iter()
            .flat_map(|name| ["--re".to_owned(), format!("^{}$", literally(name))])
            .collect();
        if !again.is_empty() {
            outcomes.retain(|(name, _)| !doubtful.contains(name));
            let by_all = self.try_all(tools, arguments, &again, &[])?;
            // cargo-mutants tries some that no pattern names (fields left out).
            outcomes.extend(
                by_all
                    .into_iter()
                    .filter(|(name, _)| doubtful.contains(name)),
            );
        }
        Ok(outcomes)
    }

    /// Has cargo-mutants try the changes that `chosen` names, with these tests; with all if none are named.
    fn try_all(
        &self,
        tools: &Tools,
        arguments: &Arguments,
        chosen: &[String],
        tests: &[&str],
    ) -> Result<Vec<(String, Ended)>> {
        let output = target_directory()
            .join("mutants")
            .join(self.name().replace(' ', "-"));
        fs::create_dir_all(&output).with_context(|| output.display().to_string())?;
        let mut command = self.command(tools)?;
        command
            .arg("--output")
            .arg(&output)
            // Of code that is left out every change survives.
            .args([
                "--no-times",
                "--all-features",
                "--minimum-test-timeout",
                HANGS,
            ])
            .args(["--jobs", &arguments.jobs.to_string()])
            .args(chosen)
            // The same cases for each.
            .env(SEED.0, SEED.1)
            // Nobody looks at it, and it takes a third of the time.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // A change is of one function, and the next build starts from this one.
            .env("CARGO_INCREMENTAL", "1")
            // Each job works on a copy of its own. Cargo takes copies for the same packages: in one target directory they
            // would run each other's tests.
            .env_remove("CARGO_TARGET_DIR");
        if !tests.is_empty() {
            command.arg("--").args(tests);
        }
        // stdout is for what comes of it all.
        let status = command
            .stdout(Stdio::from(std::io::stderr()))
            .status()
            .context("cannot start cargo-mutants")?;
        // 2 and 3: some survived, or hung.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            bail!("cargo-mutants failed ({status}): see above");
        }
        outcomes(&output.join("mutants.out/outcomes.json"))
    }
}

/// A regular expression for this text and nothing else.
fn literally(text: &str) -> String {
    let escaped = |c: char| match c.is_alphanumeric() || c == ' ' {
        true => c.to_string(),
        false => format!("\\x{{{:x}}}", u32::from(c)),
    };
    text.chars().map(escaped).collect()
}

/// Names, with the line, and what came of each.
fn outcomes(file: &PathBuf) -> Result<Vec<(String, Ended)>> {
    #[derive(Deserialize)]
    struct All {
        outcomes: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        /// The word `Baseline`, or what was changed.
        scenario: serde_json::Value,
        summary: String,
    }
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let all: All = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let mut outcomes = Vec::new();
    for One { scenario, summary } in all.outcomes {
        let Some(name) = scenario["Mutant"]["name"].as_str() else {
            continue;
        };
        let ended = match summary.as_str() {
            "CaughtMutant" => Ended::Caught,
            "Timeout" => Ended::Hung,
            "MissedMutant" => Ended::Survived,
            "Unviable" => Ended::NoCode,
            other => bail!("{name}: cargo-mutants says {other}, which is not known here"),
        };
        outcomes.push((name.to_owned(), ended));
    }
    Ok(outcomes)
}

/// Reads the list: tables `survivor` with `mutant`, `reason`, and `count` where several bear one name.
fn listed(file: &Path) -> Result<Vec<Survivor>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    understand(&text).with_context(|| file.display().to_string())
}

fn understand(text: &str) -> Result<Vec<Survivor>> {
    let document: DocumentMut = text.parse()?;
    let mut survivors = BTreeMap::new();
    let tables = document
        .get("survivor")
        .and_then(|all| all.as_array_of_tables());
    for table in tables.into_iter().flatten() {
        let text = |key: &str| {
            let value = table.get(key).and_then(|value| value.as_str());
            value
                .filter(|text| !text.trim().is_empty())
                .map(str::to_owned)
        };
        let mutant = text("mutant").context("a survivor without its `mutant`")?;
        let reason = text("reason").with_context(|| format!("no reason for {mutant}"))?;
        let count = table.get("count").and_then(|count| count.as_integer());
        let survivor = Survivor {
            mutant: mutant.clone(),
            reason,
            count: usize::try_from(count.unwrap_or(1)).context("a count below 0")?,
        };
        if survivors.insert(mutant.clone(), survivor).is_some() {
            bail!("{mutant} is listed twice; `count` says how often it may survive");
        }
    }
    Ok(survivors.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_this_repository_is_in_order() {
        for survivor in listed(&root().join(LIST)).unwrap() {
            let covered = TARGETS.iter().any(|target| target.covers(&survivor.mutant));
            assert!(covered, "{} belongs to no part", survivor.mutant);
            let file = survivor.mutant.split(": ").next().unwrap();
            assert!(root().join(file).is_file(), "{file} is gone");
        }
    }

    #[test]
    fn a_survivor_needs_a_reason() {
        let entry = "[[survivor]]\nmutant = \"a.rs: replace f with ()\"\n";
        assert!(understand(entry).is_err());
        let full = entry.to_owned() + "reason = \"It does nothing.\"\n";
        assert_eq!(understand(&full).unwrap()[0].count, 1);
        assert!(understand(&full.repeat(2)).is_err(), "twice the same");
        assert!(understand("").unwrap().is_empty());
    }

    #[test]
    fn the_quick_tests_are_there() {
        for target in &TARGETS {
            let tests = root().join(target.package).join("tests");
            let named = target.quick.iter();
            for name in named.filter_map(|argument| argument.strip_prefix("--test=")) {
                let is_there = tests.join(format!("{name}.rs")).is_file()
                    || tests.join(name).join("main.rs").is_file();
                assert!(is_there, "{}: no test {name}", target.package);
            }
        }
    }

    #[test]
    fn a_name_is_no_pattern() {
        assert_eq!(literally("a.rs:1: x"), r"a\x{2e}rs\x{3a}1\x{3a} x");
    }

    #[test]
    fn a_part_is_told_by_its_files() {
        let [core, frame, mem, ..] = &TARGETS;
        assert!(core.covers("roadrunner-core/src/frame.rs: replace f with ()"));
        assert!(frame.covers("roadrunner-core/src/frame.rs: replace f with ()"));
        assert!(!core.covers("roadrunner-core/src/testing/mod.rs: replace f with ()"));
        assert!(!frame.covers("roadrunner-core/src/frames.rs: replace f with ()"));
        assert!(mem.covers("roadrunner-mem/src/sys/view.rs: replace f with ()"));
        assert!(!mem.covers("roadrunner-mem/src/system.rs: replace f with ()"));
    }
}
