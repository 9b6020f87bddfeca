//! The standard library for wasm32-wasip1: of the toolchain, through rustup, or Debian's compiler in a private prefix.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use serde::{Deserialize, Serialize};

use super::attempts::Attempts;
use super::cache::{self, Locked, Manifest};
use super::debian::{self, Apt, Package};
use super::probe::{self, Probe};
use super::{files, wasmedge};
use crate::command;
use crate::context::Context;
use crate::talk::megabytes;

const ENTRY: &str = "guest-rust-debian";

/// What the example functions are compiled to.
pub(crate) const TARGET: &str = "wasm32-wasip1";

const ASK_LIMIT: Duration = Duration::from_secs(60);
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);

pub(crate) const THING: &str = "the Rust standard library for wasm32-wasip1";
pub(crate) const REMEDIES: &[&str] = &[
    "`rustup target add wasm32-wasip1`, where rustup can reach its server",
    "install your distribution's package of it for the rustc in use (Debian: libstd-rust-dev-wasm32)",
    "let this machine reach a Debian mirror",
];

/// A compiler for functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Guest {
    /// `None`: the toolchain's own.
    pub(crate) rustc: Option<PathBuf>,
    /// `None`: the compiler's own choice.
    pub(crate) linker: Option<PathBuf>,
    /// A directory that is there as long as this compiler is.
    pub(crate) std: PathBuf,
    pub(crate) how: String,
}

impl Guest {
    /// `cargo`, set to build functions for wasm32-wasip1.
    ///
    /// Build scripts and procedural macros are built for the host as usual, by the same compiler.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.env("CARGO_BUILD_TARGET", TARGET);
        if let Some(rustc) = &self.rustc {
            cargo.env("RUSTC", rustc);
        }
        if let Some(linker) = &self.linker {
            cargo.env("CARGO_TARGET_WASM32_WASIP1_LINKER", linker);
        }
        cargo
    }
}

/// What the toolchain has, or the cache.
pub(crate) fn find(context: &Context, attempts: &mut Attempts) -> Option<Guest> {
    match of_the_toolchain() {
        Ok(guest) => Some(guest),
        Err(error) => {
            attempts.failed("the Rust toolchain in use", format!("{error:#}"));
            from_cache(context)
        }
    }
}

fn of_the_toolchain() -> Result<Guest> {
    let rustc = probe::rustc();
    let mut command = Command::new(&rustc);
    command.args(["--print=target-libdir", "--target", TARGET]);
    let printed = command::output(&mut command, ASK_LIMIT, || {})?;
    let std = PathBuf::from(printed.trim());
    let has_std = fs::read_dir(&std)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"));
    ensure!(has_std, "no standard library in {}", std.display());
    Ok(Guest {
        rustc: None,
        linker: None,
        std,
        how: "Rust toolchain in use".to_owned(),
    })
}

fn from_cache(context: &Context) -> Option<Guest> {
    let (dir, manifest) = cache::entry(&context.cache, ENTRY)?;
    Some(Guest {
        rustc: Some(dir.join("bin/rustc")),
        linker: Some(dir.join("bin/lld")),
        std: dir.join("usr/lib/rustlib").join(TARGET),
        how: manifest.origin,
    })
}

/// Adds the target to the toolchain, or fetches a compiler that has it into the cache.
pub(crate) fn install(
    context: &Context,
    locked: &Locked,
    probe: &Probe,
    mut attempts: Attempts,
) -> Result<Guest> {
    let step = context.talk.step(format!("{TARGET}: rustup target add"));
    match add_with_rustup(probe) {
        Ok(guest) => {
            step.done("added to the toolchain in use");
            return Ok(guest);
        }
        Err(error) => {
            step.done("not possible here");
            attempts.failed(
                format!("`rustup target add {TARGET}`"),
                format!("{error:#}"),
            );
        }
    }
    for suite in wasmedge::SUITES {
        match install_debian(context, locked, probe, suite) {
            Ok(()) => return from_cache(context).context("the compiler just unpacked is gone"),
            Err(error) => attempts.failed(
                format!("packages of Debian {suite} in a private prefix"),
                format!("{error:#}"),
            ),
        }
    }
    Err(attempts.into_error(THING, REMEDIES))
}

fn add_with_rustup(probe: &Probe) -> Result<Guest> {
    command::output(
        Command::new("rustup").args(["target", "add", TARGET]),
        RUSTUP_LIMIT,
        || {},
    )?;
    let guest = of_the_toolchain()?;
    probe.guest(&probe::rustc(), None)?;
    Ok(guest)
}

fn install_debian(context: &Context, locked: &Locked, probe: &Probe, suite: &str) -> Result<()> {
    let step = context.talk.step(format!(
        "{TARGET}: unpacking Debian {suite}'s compiler into a private prefix"
    ));
    let apt = Apt::open(
        context,
        locked.stage("guest-apt")?,
        suite,
        Path::new("/dev/null"),
    )?;
    let version = apt.version("rustc")?;
    let llvm = apt.major_of_closure(&["libstd-rust-dev"], "libllvm")?;
    let mut packages = apt.closure(&[
        "libstd-rust-dev",
        "libstd-rust-dev-wasm32",
        &format!("lld-{llvm}"),
    ])?;
    // Without what it depends on: a C compiler and linker for the host are here already.
    packages.push(Package {
        name: "rustc".to_owned(),
        version: version.clone(),
    });
    let staged = locked.stage("guest-debian")?;
    let excluded: Vec<_> = debian::CHAFF
        .iter()
        .copied()
        .chain([
            "./usr/bin/rustdoc",
            "./usr/libexec",
            "./usr/lib/*/gconv",
            "./usr/lib/rustlib/wasm32-unknown-unknown",
            "./usr/lib/rustlib/wasm32-wasip2",
            "./usr/lib/debug",
        ])
        .collect();
    let downloaded = apt.unpack(&packages, &staged, &excluded, &step)?;

    let lib = staged.join("lib-run");
    fs::create_dir(&lib).context("cannot create lib-run")?;
    // Not those of rustlib, which the compiler looks up by path.
    for part in [
        "usr/lib/x86_64-linux-gnu",
        &format!("usr/lib/llvm-{llvm}/lib"),
        "usr/lib64",
    ] {
        let part = staged.join(part);
        if part.is_dir() {
            files::gather_libraries(&part, &lib)?;
        }
    }
    let bin = staged.join("bin");
    fs::create_dir(&bin).context("cannot create bin")?;
    script(
        &bin.join("rustc"),
        "usr/bin/rustc",
        "--sysroot \"$prefix/usr\"",
    )?;
    script(
        &bin.join("lld"),
        &format!("usr/lib/llvm-{llvm}/bin/lld"),
        "",
    )?;
    step.progress("trying it");
    probe.guest(&bin.join("rustc"), Some(&bin.join("lld")))?;
    let manifest = Manifest {
        origin: format!(
            "Debian {} packages (rustc {version}) in a private prefix",
            apt.suite()
        ),
        version,
        downloaded,
        packages: packages
            .iter()
            .map(|package| format!("{} {}", package.name, package.version))
            .collect(),
    };
    let dir = locked.publish(&staged, ENTRY, &manifest)?;
    step.done(&format!(
        "{} downloaded, {} on disk",
        megabytes(downloaded),
        megabytes(cache::size_on_disk(&dir))
    ));
    Ok(())
}

/// A script that runs a program of the prefix on the prefix's own loader and libraries.
///
/// Nothing is exported, so programs that it starts in turn (the host's linker) run as always.
fn script(path: &Path, program: &str, arguments: &str) -> Result<()> {
    let text = format!(
        "#!/bin/sh\nprefix=${{0%/bin/*}}\nlib=$prefix/lib-run\n\
         exec \"$lib/{}\" --library-path \"$lib\" \"$prefix/{program}\" {arguments} \"$@\"\n",
        files::LOADER
    );
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(command: &Command, name: &str) -> Option<PathBuf> {
        command
            .get_envs()
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value)
            .map(PathBuf::from)
    }

    #[test]
    fn the_toolchains_own_compiler_needs_no_variables_but_the_target() {
        let guest = Guest {
            rustc: None,
            linker: None,
            std: "/std".into(),
            how: String::new(),
        };
        let cargo = guest.cargo();
        assert_eq!(variable(&cargo, "CARGO_BUILD_TARGET"), Some(TARGET.into()));
        assert_eq!(variable(&cargo, "RUSTC"), None);
    }

    #[test]
    fn the_prefixs_compiler_brings_its_linker() {
        let guest = Guest {
            rustc: Some("/p/rustc".into()),
            linker: Some("/p/ld".into()),
            std: "/std".into(),
            how: String::new(),
        };
        let cargo = guest.cargo();
        assert_eq!(variable(&cargo, "RUSTC"), Some("/p/rustc".into()));
        assert_eq!(
            variable(&cargo, "CARGO_TARGET_WASM32_WASIP1_LINKER"),
            Some("/p/ld".into())
        );
    }

    #[test]
    fn a_script_runs_its_program_through_the_loader_of_its_own_prefix() {
        let prefix = tempfile::tempdir().unwrap();
        for part in ["bin", "lib-run"] {
            fs::create_dir(prefix.path().join(part)).unwrap();
        }
        // Stands in for the loader: prints what it is called with.
        let loader = prefix.path().join("lib-run").join(files::LOADER);
        fs::write(&loader, "#!/bin/sh\nprintf '%s|' \"$@\"\n").unwrap();
        fs::set_permissions(&loader, fs::Permissions::from_mode(0o755)).unwrap();
        let path = prefix.path().join("bin/tool");
        script(&path, "usr/bin/tool", "--sysroot \"$prefix/usr\"").unwrap();
        let printed = command::output(Command::new(&path).arg("a b"), ASK_LIMIT, || {}).unwrap();
        let at = prefix.path().display();
        assert_eq!(
            printed,
            format!("--library-path|{at}/lib-run|{at}/usr/bin/tool|--sysroot|{at}/usr|a b|")
        );
    }
}
