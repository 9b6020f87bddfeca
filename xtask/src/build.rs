//! What has to be built before something can be run.

use crate::setup::Toolchain;
use anyhow::{bail, Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// What compiles the example functions to WebAssembly.
pub(crate) fn functions(toolchain: &Toolchain) -> Command {
    let mut build = toolchain.guest_cargo();
    build
        .current_dir(root().join("roadrunner-wasmedge/functions"))
        .args(["build", "--release", "--locked"]);
    build
}

/// What compiles the programs that functions are compared with.
pub(crate) fn baselines(toolchain: &Toolchain) -> Command {
    let mut build = toolchain.guest_cargo();
    build
        .current_dir(root().join("xtask/bench/baselines"))
        .args(["build", "--release", "--locked"]);
    build
}

/// The `roadrunner` program. Says where it is.
pub(crate) fn program() -> Result<PathBuf> {
    release("roadrunner-wasmedge", &["--features=cli"])
        .map(|program| program.with_file_name("roadrunner"))
}

/// A package in release mode. Says where its program is, if that has the same name.
pub(crate) fn release(package: &str, arguments: &[&str]) -> Result<PathBuf> {
    let mut build = cargo();
    build
        .args(["build", "--release", "--locked", "--package", package])
        .args(arguments);
    run(&format!("building {package}"), build)?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("release").join(package))
}

/// Runs a command, whose output is the user's to see.
pub(crate) fn run(what: &str, mut command: Command) -> Result<()> {
    eprintln!("{what}");
    let status = command
        .status()
        .with_context(|| format!("{what}: cannot start {command:?}"))?;
    if !status.success() {
        bail!("{what} failed ({status}): see above");
    }
    Ok(())
}
