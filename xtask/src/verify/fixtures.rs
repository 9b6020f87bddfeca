//! Other runtimes, built against the packaged crates.

use super::build::package_directory;
use super::manifests::report;
use super::{quietly, Outcome, Package, Scene};
use crate::build::{cargo, root};
use anyhow::{bail, Context as _, Result};
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use toml_edit::DocumentMut;

/// Programs under `xtask/fixtures`, each with a lock file of its own, and what they say in the end.
const PROGRAMS: [(&str, &str); 3] = [
    ("plain", ""),
    ("wasmi", "by copy, 1 copy"),
    ("wasmtime", "100000000 bytes by exchange, 0 copies"),
];

/// What their manifests patch. A patch more would be one that their lock files do not know.
const PATCHED: [&str; 3] = ["roadrunner-core", "roadrunner-mem", "roadrunner-uds"];

pub(super) fn run(scene: &Scene) -> Result<Outcome> {
    let unpacked = unpack(scene)?;
    let mut told = Vec::new();
    for (name, last_words) in PROGRAMS {
        let said = quietly(&mut fixture(name, &unpacked))?;
        if !said.contains(last_words) {
            bail!("fixture {name} said {said:?}, which does not contain {last_words:?}");
        }
        told.push(match said.trim() {
            "" => format!("{name} runs"),
            words => words.to_owned(),
        });
    }
    let mut left_out = Vec::new();
    match &scene.without_wasmedge {
        None => told.push(to_wasmedge(&unpacked)?),
        Some(why) => left_out.push(format!("the hop from wasmtime to WasmEdge: {why}")),
    }
    Ok(Outcome::of(told, left_out))
}

/// Whether the lock files of the programs know what the crates depend on now: cargo changes those of a workspace by itself, but
/// nobody builds the programs from day to day.
pub(super) fn locks(scene: &Scene) -> Result<Outcome> {
    let mut wrong = Vec::new();
    for (name, _) in PROGRAMS {
        let manifest = format!("xtask/fixtures/{name}/Cargo.toml");
        let lock = root().join(&manifest).with_file_name("Cargo.lock");
        let text = fs::read_to_string(&lock).with_context(|| lock.display().to_string())?;
        let stale = stale(&text, &scene.packages).with_context(|| lock.display().to_string())?;
        if !stale.is_empty() {
            wrong.push(format!(
                "the lock file of fixture {name} does not know what {} depends on now: \
                 run `cargo update --workspace --manifest-path {manifest}` and commit what it changes",
                stale.join(", ")
            ));
        }
    }
    report(wrong, format!("{} lock files", PROGRAMS.len()))
}

/// The packages whose dependencies a lock file has otherwise than they are.
fn stale(lock: &str, packages: &[Package]) -> Result<Vec<String>> {
    let document: DocumentMut = lock.parse()?;
    let locked = document
        .get("package")
        .and_then(|all| all.as_array_of_tables());
    let mut stale = Vec::new();
    for table in locked.into_iter().flatten() {
        let text = |key: &str| table.get(key).and_then(|value| value.as_str());
        let Some(package) = packages.iter().find(|one| Some(&*one.name) == text("name")) else {
            continue;
        };
        let listed = table.get("dependencies").and_then(|all| all.as_array());
        let listed: BTreeSet<_> = listed
            .into_iter()
            .flatten()
            // Followed by the version, where there are several.
            .filter_map(|one| one.as_str()?.split(' ').next())
            .collect();
        let needed = package.needs().filter(|needed| !needed.optional);
        let needed: BTreeSet<_> = needed.map(|needed| needed.name.as_str()).collect();
        if listed != needed || text("version") != Some(&package.version) {
            stale.push(package.name.clone());
        }
    }
    Ok(stale)
}

/// Options by which cargo takes the packages in place of the checkout.
fn unpack(scene: &Scene) -> Result<Vec<String>> {
    let into = package_directory().join("unpacked");
    if into.exists() {
        fs::remove_dir_all(&into).with_context(|| into.display().to_string())?;
    }
    fs::create_dir_all(&into).with_context(|| into.display().to_string())?;
    let mut options = Vec::new();
    let patched = |package: &&Package| PATCHED.contains(&package.name.as_str());
    for package in scene.packages.iter().filter(patched) {
        let name = format!("{}-{}", package.name, package.version);
        let file = package_directory().join(format!("{name}.crate"));
        if !file.is_file() {
            bail!(
                "{} is not there; the check `packages` makes it",
                file.display()
            );
        }
        quietly(
            Command::new("tar")
                // As of now: by the times in the archive, which are always the same, cargo would see no change.
                .arg("-xmzf")
                .arg(&file)
                .arg("-C")
                .arg(&into),
        )?;
        // A lock file of its own, and a workspace: not what a dependency has.
        options.push("--config".to_owned());
        options.push(format!(
            "patch.crates-io.{}.path={:?}",
            package.name,
            into.join(name)
        ));
    }
    Ok(options)
}

fn fixture(name: &str, unpacked: &[String]) -> Command {
    let mut command = cargo();
    command
        .args(["run", "--release", "--locked", "--quiet"])
        .args(unpacked)
        .arg("--manifest-path")
        .arg(root().join("xtask/fixtures").join(name).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(package_directory().join("fixtures"));
    command
}

/// 100 MB from a function on wasmtime to one on WasmEdge, in another process.
fn to_wasmedge(unpacked: &[String]) -> Result<String> {
    let address = format!("@roadrunner-verify-{}", std::process::id());
    let receiver = |verb| {
        let mut command = cargo();
        command
            .args([verb, "--release", "--locked", "--quiet"])
            .args(["--package=roadrunner-wasmedge", "--features=cli"])
            .arg("--example=receive");
        command
    };
    // First, because the sender does not wait for as long as that may take.
    quietly(&mut receiver("build"))?;
    let mut receiver = receiver("run")
        .args(["--", &address])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the receiver on WasmEdge")?;
    let sent = quietly(fixture("wasmtime", unpacked).args(["--", &address]));
    if sent.is_err() {
        // Nobody comes any more; that it has ended by itself is as well.
        let _ = receiver.kill();
    }
    let output = receiver.wait_with_output()?;
    let received = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let sent = sent?;
    let sum = |text: &str| text.split("sum ").nth(1).map(str::trim).map(str::to_owned);
    if !output.status.success() || sum(&sent).is_none() || sum(&sent) != sum(&received) {
        bail!(
            "wasmtime said {sent:?}, and WasmEdge {received:?} ({})",
            output.status
        );
    }
    Ok(format!("wasmtime to WasmEdge: {received}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::published_in;

    #[test]
    fn a_dependency_that_a_lock_file_does_not_know_is_named() {
        let packages = published_in(root()).unwrap();
        let lock = root().join("xtask/fixtures/plain/Cargo.lock");
        let lock = fs::read_to_string(lock).unwrap();
        assert_eq!(
            stale(&lock, &packages).unwrap(),
            [""; 0],
            "see the other test"
        );
        let without = lock.replacen(" \"roadrunner-core\",\n", "", 1);
        assert_ne!(lock, without);
        let stale = stale(&without, &packages).unwrap();
        assert!(stale.contains(&"roadrunner-mem".to_owned()), "{stale:?}");
    }

    /// So that whoever changes a dependency learns at once what else to do.
    #[test]
    fn lock_files_of_all_programs_are_up_to_date() {
        let packages = published_in(root()).unwrap();
        for (name, _) in PROGRAMS {
            let manifest = format!("xtask/fixtures/{name}/Cargo.toml");
            let lock = root().join(&manifest).with_file_name("Cargo.lock");
            let stale = stale(&fs::read_to_string(lock).unwrap(), &packages).unwrap();
            assert_eq!(
                stale, [""; 0],
                "run `cargo update --workspace --manifest-path {manifest}`"
            );
        }
    }
}
