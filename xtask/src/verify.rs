//! `cargo xtask verify`: what a maintainer runs before a release.

mod build;
mod examples;
mod fixtures;
mod licences;
mod manifests;
mod published;
mod semver;
mod sources;
mod surface;

use anyhow::{bail, Context as _, Result};
use std::process::Command;
use std::time::Instant;

use crate::build::root;
use crate::context::Context;
use crate::setup;
use crate::tools::Tools;
pub(crate) use published::{published_in, Package};

/// Checks all that a release needs: packages, features, documentation, licences, the crates' promises to one another and to
/// their users.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// This check alone; may be repeated
    #[arg(long, value_name = "CHECK")]
    only: Vec<String>,
    /// Name the checks, and do nothing
    #[arg(long)]
    list: bool,
}

/// What a check came to, in a few words.
pub(crate) enum Outcome {
    Good(String),
    /// Why it could not be made here.
    Skipped(String),
    /// What is good, and which part of it could not be looked at.
    Partly(String, String),
}

impl Outcome {
    /// From what was looked at and found good, and what could not be.
    pub(crate) fn of(good: Vec<String>, left_out: Vec<String>) -> Self {
        let (text, why) = (good.join("; "), left_out.join("; "));
        match (good.is_empty(), left_out.is_empty()) {
            (_, true) => Self::Good(text),
            (true, false) => Self::Skipped(why),
            (false, false) => Self::Partly(text, why),
        }
    }
}

type Check = fn(&Scene) -> Result<Outcome>;

/// The checks, the quick ones first.
const CHECKS: [(&str, &str, Check); 14] = [
    (
        "layers",
        "dependencies point one way: core <- mem <- {uds, splice} <- wasmedge",
        manifests::layers,
    ),
    (
        "manifests",
        "README, CHANGELOG, licence, metadata and versions of every published crate",
        manifests::complete,
    ),
    (
        "unsafe",
        "unsafe code in `sys` modules only, each block with its proof",
        sources::unsafe_code,
    ),
    (
        "examples",
        "the fixtures are the examples of the documentation",
        examples::same,
    ),
    (
        "locks",
        "the lock files of the fixtures know what the crates depend on",
        fixtures::locks,
    ),
    (
        "packages",
        "every published crate is packaged, in dependency order, and built from its package",
        build::packages,
    ),
    (
        "documentation",
        "as docs.rs builds it, without a warning",
        build::documentation,
    ),
    (
        "features",
        "every combination of features compiles",
        build::features,
    ),
    (
        "msrv",
        "nothing newer than the promised Rust is used",
        build::oldest_rust,
    ),
    (
        "surface",
        "no type of a third party in a public signature",
        surface::third_parties,
    ),
    (
        "semver",
        "compatible with the last release",
        semver::last_release,
    ),
    (
        "licences",
        "licences and sources of all dependencies, and advisories",
        licences::dependencies,
    ),
    (
        "weight",
        "dependencies and clean build time of each transport crate",
        build::weight,
    ),
    (
        "fixtures",
        "other runtimes take the packaged crates",
        fixtures::run,
    ),
];

/// What the checks look at.
pub(crate) struct Scene {
    pub(crate) packages: Vec<Package>,
    /// Why nothing that needs WasmEdge can be built, if it cannot.
    pub(crate) without_wasmedge: Option<String>,
    pub(crate) tools: Tools,
}

impl Scene {
    /// The published packages that can be built here.
    pub(crate) fn buildable(&self) -> impl Iterator<Item = &Package> {
        let all = self.without_wasmedge.is_none();
        self.packages
            .iter()
            .filter(move |package| all || !package.needs_wasmedge())
    }

    /// What comes of a check of all that can be built here.
    pub(crate) fn outcome(&self, good: String) -> Outcome {
        let why = self.without_wasmedge.as_ref();
        let left_out = why.map(|why| format!("roadrunner-wasmedge: {why}"));
        Outcome::of(vec![good], left_out.into_iter().collect())
    }
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for (name, about, _) in CHECKS {
            println!("{name:14} {about}");
        }
        return Ok(());
    }
    let known = |name: &&String| CHECKS.iter().any(|(check, ..)| check == name);
    if let Some(unknown) = arguments.only.iter().find(|name| !known(name)) {
        bail!("there is no check {unknown}; `cargo xtask verify --list` names them");
    }
    let scene = Scene {
        packages: published_in(root())?,
        without_wasmedge: setup::ensure(context)
            .err()
            .map(|error| format!("{error:#}")),
        tools: Tools::of(context),
    };
    let mut counts = [0; 3];
    let chosen =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    for (name, about, check) in CHECKS.iter().filter(|(name, ..)| chosen(name)) {
        let step = context.talk.step(format!("{name}: {about}"));
        let began = Instant::now();
        let result = check(&scene);
        drop(step);
        let lines = match result {
            Ok(Outcome::Good(text)) => vec![(0, "ok", text)],
            Ok(Outcome::Skipped(why)) => vec![(1, "skipped", why)],
            Ok(Outcome::Partly(text, why)) => vec![(0, "ok", text), (1, "skipped", why)],
            Err(error) => vec![(2, "FAILED", format!("{error:#}"))],
        };
        let seconds = began.elapsed().as_secs_f64();
        for (place, word, text) in lines {
            counts[place] += 1;
            println!("{word:8} {name:14} {text} ({seconds:.1} s)");
        }
    }
    let [good, skipped, failed] = counts;
    println!("{good} passed, {failed} failed, {skipped} skipped");
    if failed > 0 {
        bail!("{failed} of the checks failed: not ready for a release");
    }
    Ok(())
}

/// Runs a command to its end and gives what it wrote to stdout; an error has all that it wrote.
pub(crate) fn quietly(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        let arguments: Vec<_> = command
            .get_args()
            .map(|text| text.to_string_lossy())
            .collect();
        bail!(
            "`{} {}` failed ({}):\n{}{}",
            command.get_program().to_string_lossy(),
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
