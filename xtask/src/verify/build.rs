//! The crates as their users build them.

use super::{quietly, Outcome, Package, Scene};
use crate::build::{cargo, root, target_directory};
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// The crates that transports are, whose weight every runtime pays.
const TRANSPORTS: [&str; 3] = ["roadrunner-mem", "roadrunner-uds", "roadrunner-splice"];

/// Where cargo leaves packages.
pub(super) fn package_directory() -> PathBuf {
    target_directory().join("package")
}

pub(super) fn packages(scene: &Scene) -> Result<Outcome> {
    let mut command = cargo();
    // All at once: each is built against the packages of the others, before any is published.
    command.args(["package", "--locked", "--allow-dirty", "--quiet"]);
    // Elsewhere each time: cargo takes a package of the same version at the same place for the same, and would build against
    // what an earlier run left.
    fs::create_dir_all(package_directory())?;
    let fresh = tempfile::tempdir_in(package_directory())?;
    command.arg("--target-dir").arg(fresh.path());
    for package in scene.buildable() {
        command.args(["--package", &package.name]);
    }
    quietly(&mut command)?;
    let mut sizes = Vec::new();
    for Package { name, version, .. } in scene.buildable() {
        let file = format!("{name}-{version}.crate");
        let made = fresh.path().join("package").join(&file);
        let bytes = fs::copy(&made, package_directory().join(file))
            .with_context(|| made.display().to_string())?;
        sizes.push(format!("{name} {} kB", bytes.div_ceil(1000)));
    }
    Ok(scene.outcome(sizes.join(", ")))
}

pub(super) fn documentation(scene: &Scene) -> Result<Outcome> {
    let mut command = cargo();
    command
        .args(["doc", "--locked", "--no-deps", "--all-features", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings --cfg docsrs")
        // docs.rs builds every crate for itself, offline and without what the machine happens to have.
        .env("DOCS_RS", "1");
    for package in scene.buildable() {
        command.args(["--package", &package.name]);
    }
    quietly(&mut command)?;
    Ok(scene.outcome("no warning".to_owned()))
}

pub(super) fn features(scene: &Scene) -> Result<Outcome> {
    let mut combinations = 0;
    for package in scene.buildable() {
        for chosen in subsets(package) {
            let mut command = cargo();
            command.args(["check", "--locked", "--quiet", "--no-default-features"]);
            command.args(["--package", &package.name, "--features", &chosen.join(",")]);
            command.env("RUSTFLAGS", "-D warnings");
            // Other flags than usual: kept apart, or all that was built before would be built again.
            command
                .arg("--target-dir")
                .arg(package_directory().join("features"));
            quietly(&mut command)?;
            combinations += 1;
        }
    }
    Ok(scene.outcome(format!("{combinations} combinations")))
}

fn subsets(package: &Package) -> Vec<Vec<String>> {
    let named = package.features.keys().filter(|name| *name != "default");
    let mut all = vec![Vec::new()];
    for feature in named {
        let with: Vec<Vec<String>> = all
            .iter()
            .map(|chosen: &Vec<String>| [chosen.as_slice(), std::slice::from_ref(feature)].concat())
            .collect();
        all.extend(with);
    }
    all
}

pub(super) fn oldest_rust(scene: &Scene) -> Result<Outcome> {
    let mut command = cargo();
    command.args(["clippy", "--locked", "--quiet", "--all-features"]);
    for package in scene.buildable() {
        command.args(["--package", &package.name]);
    }
    command.args(["--", "-D", "clippy::incompatible_msrv"]);
    quietly(&mut command)?;
    let versions: BTreeSet<_> = scene
        .packages
        .iter()
        .filter_map(|package| package.rust_version.as_deref())
        .collect();
    let (mut told, mut left_out) = (vec!["by clippy".to_owned()], Vec::new());
    left_out.extend(scene.without_wasmedge.clone());
    for version in versions {
        let installed = Command::new("rustup")
            .args(["run", version, "rustc", "--version"])
            .output()
            .is_ok_and(|output| output.status.success());
        if !installed {
            left_out.push(format!(
                "Rust {version} itself is not installed: `rustup toolchain install {version}`"
            ));
            continue;
        }
        let mut check = Command::new("rustup");
        check
            .current_dir(root())
            .args([
                "run",
                version,
                "cargo",
                "check",
                "--locked",
                "--quiet",
                "--target-dir",
            ])
            .arg(package_directory().join(version));
        for package in scene.buildable() {
            check.args(["--package", &package.name]);
        }
        // This program runs under another cargo, which says so to its children.
        check
            .env_remove("CARGO")
            .env_remove("RUSTC")
            .env_remove("RUSTUP_TOOLCHAIN");
        quietly(&mut check)?;
        told.push(format!("by Rust {version} itself"));
    }
    Ok(Outcome::of(told, left_out))
}

pub(super) fn weight(scene: &Scene) -> Result<Outcome> {
    let mut told = Vec::new();
    for package in scene
        .packages
        .iter()
        .filter(|one| TRANSPORTS.contains(&one.name.as_str()))
    {
        let name = &package.name;
        let tree = quietly(cargo().args([
            "tree",
            "--locked",
            "--package",
            name,
            "--edges=normal,build",
            "--prefix=none",
            "--format={p}",
        ]))?;
        let dependencies: BTreeSet<_> = tree
            .lines()
            .map(|line| line.trim_end_matches(" (*)"))
            .filter(|line| !line.is_empty())
            .collect();
        let empty = tempfile::tempdir()?;
        let began = Instant::now();
        let mut build = cargo();
        build.args([
            "build",
            "--locked",
            "--quiet",
            "--release",
            "--package",
            name,
        ]);
        quietly(build.arg("--target-dir").arg(empty.path()))?;
        told.push(format!(
            "{name} {} dependencies, {:.0} s",
            // The crate itself is the first of them.
            dependencies.len().saturating_sub(1),
            began.elapsed().as_secs_f64()
        ));
    }
    Ok(Outcome::Good(told.join("; ")))
}
