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

/// Where cargo builds, which the environment can say (`CARGO_TARGET_DIR`).
pub(crate) fn target_directory() -> PathBuf {
    let said = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    // As cargo, which runs there, understands it.
    root().join(said)
}

/// What compiles the example functions to WebAssembly.
pub(crate) fn functions(toolchain: &Toolchain) -> Command {
    modules(toolchain.guest_cargo(), "roadrunner-wasmedge/functions")
}

/// What compiles the programs that functions are compared with.
pub(crate) fn baselines(toolchain: &Toolchain) -> Command {
    modules(toolchain.guest_cargo(), "xtask/bench/baselines")
}

fn modules(mut build: Command, workspace: &str) -> Command {
    build
        .current_dir(root().join(workspace))
        .args(["build", "--release", "--locked"])
        // Wherever everything else goes: workflow files, tests and measurements name modules there.
        .args(["--target-dir", "target"]);
    build
}

/// The `roadrunner` program, with TLS: six crates more. Says where it is.
pub(crate) fn program() -> Result<PathBuf> {
    release("roadrunner-wasmedge", &["--features=cli,tls"])
        .map(|program| program.with_file_name("roadrunner"))
}

/// A package in release mode. Says where its program is, if that has the same name.
pub(crate) fn release(package: &str, arguments: &[&str]) -> Result<PathBuf> {
    let mut build = cargo();
    build
        .args(["build", "--release", "--locked", "--package", package])
        .args(arguments);
    run(&format!("building {package}"), build)?;
    Ok(target_directory().join("release").join(package))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_go_where_workflow_files_name_them() {
        let build = modules(Command::new("cargo"), "roadrunner-wasmedge/functions");
        let functions = build.get_current_dir().expect("said");
        let arguments: Vec<_> = build.get_args().collect();
        let at = arguments.iter().position(|word| *word == "--target-dir");
        let said = arguments[at.expect("whatever the environment says") + 1];
        let place = Path::new(said).join("wasm32-wasip1/release/decode.wasm");
        let workflow = std::fs::read_to_string(functions.join("thumbnails.toml"));
        let line = format!("module = {:?}", place.display().to_string());
        assert!(workflow.expect("it is there").contains(&line), "{line}");
    }
}
