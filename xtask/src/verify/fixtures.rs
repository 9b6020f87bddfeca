//! Other runtimes, built against the packaged crates.

use super::build::package_directory;
use super::{quietly, Outcome, Scene};
use crate::build::{cargo, root};
use anyhow::{bail, Context as _, Result};
use std::fs;
use std::process::{Command, Stdio};

/// Programs under `xtask/fixtures`, each with a lock file of its own, and what they say in the end.
const PROGRAMS: [(&str, &str); 3] = [
    ("plain", ""),
    ("wasmi", "by copy, 1 copy"),
    ("wasmtime", "100000000 bytes by exchange, 0 copies"),
];

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

/// Options by which cargo takes the packages in place of the checkout.
fn unpack(scene: &Scene) -> Result<Vec<String>> {
    let into = package_directory().join("unpacked");
    if into.exists() {
        fs::remove_dir_all(&into).with_context(|| into.display().to_string())?;
    }
    fs::create_dir_all(&into).with_context(|| into.display().to_string())?;
    let mut options = Vec::new();
    for package in scene.packages.iter().filter(|one| !one.needs_wasmedge()) {
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
                .arg("-xzf")
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
    let mut receiver = cargo();
    receiver
        .args([
            "run",
            "--release",
            "--locked",
            "--quiet",
            "--package=roadrunner-wasmedge",
        ])
        .args(["--features=cli", "--example=receive", "--", &address])
        .stdout(Stdio::piped());
    let receiver = receiver
        .spawn()
        .context("cannot start the receiver on WasmEdge")?;
    let sent = quietly(fixture("wasmtime", unpacked).args(["--", &address]));
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
