//! `cargo xtask release`: one crate gets its next version; publishing itself is done by hand.

mod edits;
mod plan;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{bail, Context as _, Result};
use semver::Version;

use crate::build::{cargo, root};
use crate::context::Context;
use crate::registry::look_up;
use crate::verify::quietly;
use plan::Plan;

/// Prepares the release of one crate: its version, what others require of it, its change log, its package.
///
/// Everything that stands in the way is named first, and then nothing is changed. What is left to do by hand, publishing
/// above all, is printed at the end.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The crate
    #[arg(value_name = "CRATE")]
    package: String,
    /// The version that it gets: one step after the last one, or the one it has if that was never released
    version: Version,
    /// Change nothing, and show what would be
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let Arguments {
        package,
        version,
        dry_run,
    } = arguments;
    let step = context.talk.step(format!(
        "looking at what a release of {package} {version} needs"
    ));
    let plan = Plan::of(root(), package, version, &look_up)?;
    step.done("known");
    println!("{plan}");
    let step = context
        .talk
        .step("packaging it from a clone of what is committed");
    let packaged = Packaged::of(root(), &plan)?;
    step.done("packaged");
    println!(
        "Its package: {} files, {} kB",
        packaged.files.len(),
        packaged.bytes.div_ceil(1000)
    );
    for file in &packaged.files {
        println!("  {file}");
    }
    if !plan.obstacles.is_empty() {
        println!("\nIn the way:");
        for obstacle in &plan.obstacles {
            println!("  {obstacle}");
        }
        bail!("{package} {version} cannot be released yet");
    }
    if !dry_run {
        plan.apply(root())?;
        println!("\nThese files are changed now; `git diff` shows how.");
    }
    println!(
        "\n{}, by hand:",
        if *dry_run {
            "Then, without --dry-run and"
        } else {
            "Now"
        }
    );
    for command in plan.commands() {
        println!("  {command}");
    }
    Ok(())
}

/// What cargo would upload.
struct Packaged {
    files: Vec<String>,
    bytes: u64,
}

impl Packaged {
    /// Packages the crate in a clone, where the changes are made and committed: the work tree stays as it is.
    fn of(repository: &Path, plan: &Plan) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let clone = scratch.path().join("clone");
        let mut command = Command::new("git");
        command
            .args(["clone", "--quiet", "--shared"])
            .arg(repository);
        quietly(command.arg(&clone))?;
        plan.apply(&clone)?;
        let somebody = [
            "-c",
            "user.name=xtask",
            "-c",
            "user.email=xtask@localhost",
            "-c",
            "commit.gpgsign=false",
        ];
        let mut commit = Command::new("git");
        commit.current_dir(&clone).args(somebody);
        quietly(commit.args([
            "commit",
            "--quiet",
            "--all",
            "--allow-empty",
            "--message=next",
        ]))?;

        let mut package = cargo();
        package
            .current_dir(&clone)
            // Built it is by `cargo xtask verify`, with all others.
            .args(["package", "--locked", "--no-verify", "--quiet"])
            .arg("--target-dir")
            .arg(scratch.path().join("target"));
        // Those that are not published yet have to come along for cargo to resolve what the crate needs.
        for name in plan.unpublished.iter().chain([&plan.package]) {
            package.args(["--package", name]);
        }
        quietly(&mut package)?;
        let name = format!("{}-{}", plan.package, plan.new);
        let file = scratch
            .path()
            .join("target/package")
            .join(format!("{name}.crate"));
        let listed = quietly(Command::new("tar").arg("-tzf").arg(&file))?;
        let inside = format!("{name}/");
        let mut files: Vec<_> = listed
            .lines()
            .map(|line| line.trim_start_matches(&inside).to_owned())
            .collect();
        files.sort();
        let bytes = fs::metadata(&file)
            .with_context(|| file.display().to_string())?
            .len();
        Ok(Self { files, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::plan::tests::{repository, write};
    use super::*;
    use crate::registry::Entry;

    #[test]
    fn a_package_has_the_next_version_and_the_work_tree_still_the_last() {
        let repository = repository();
        let next = Version::new(0, 1, 1);
        let plan = Plan::of(repository.path(), "low", &next, &|_: &str| {
            Ok(Entry::Absent)
        })
        .unwrap();
        let packaged = Packaged::of(repository.path(), &plan).unwrap();
        assert!(packaged.bytes > 0);
        for file in ["Cargo.toml", "CHANGELOG.md", "src/lib.rs"] {
            assert!(
                packaged.files.iter().any(|one| one == file),
                "{:?}",
                packaged.files
            );
        }
        let manifest = fs::read_to_string(repository.path().join("low/Cargo.toml")).unwrap();
        assert!(manifest.contains("version = \"0.1.0\""));
        // Neither does what is not committed get into it.
        write(repository.path(), "low/src/lib.rs", "not Rust");
        write(repository.path(), "low/src/more.rs", "");
        let again = Packaged::of(repository.path(), &plan).unwrap();
        assert_eq!(again.files, packaged.files);
    }
}
