//! libclang, which the SDK's build uses to read WasmEdge's C headers.
//!
//! libclang alone does not know where the headers are that belong to a compiler (`stddef.h` and the like), and the clang
//! that does is usually not installed. The C compiler's serve as well: see [`compiler_headers`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use serde::{Deserialize, Serialize};

use super::attempts::Attempts;
use super::cache::{self, Locked, Manifest};
use super::debian::{self, Apt};
use super::files;
use super::probe::Probe;
use crate::command;
use crate::context::Context;
use crate::talk::megabytes;

const ENTRY: &str = "libclang";

/// The wheel of libclang that is known to work, and its SHA-256 for x86-64.
const WHEEL: &str = "libclang==18.1.1 --hash=sha256:c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b";

const LOCAL_LIMIT: Duration = Duration::from_secs(60);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(1800);

pub(crate) const THING: &str = "libclang";
pub(crate) const REMEDIES: &[&str] = &[
    "install it: `apt install libclang-dev`, or your distribution's package",
    "point LIBCLANG_PATH at the directory that holds libclang.so",
    "let this machine reach a Python package index (with pip) or a Debian mirror",
];

/// A libclang that can parse C headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Libclang {
    /// Holds `libclang*.so*`; may be linked to from a clone.
    pub(crate) dir: PathBuf,
    pub(crate) version: String,
    pub(crate) how: String,
}

/// A way to know that a libclang works, and its version.
type VersionOf<'a> = &'a dyn Fn(&Path) -> Result<String>;

/// The first usable libclang of the machine or of the cache.
pub(crate) fn find(
    context: &Context,
    version_of: VersionOf<'_>,
    attempts: &mut Attempts,
) -> Option<Libclang> {
    for (how, dir) in candidates(context) {
        let version = library_in(&dir).and_then(|library| version_of(&library));
        match version {
            Ok(version) => return Some(Libclang { dir, version, how }),
            Err(error) => attempts.failed(how, format!("{error:#}")),
        }
    }
    from_cache(context)
}

fn candidates(context: &Context) -> Vec<(String, PathBuf)> {
    let mut candidates = Vec::new();
    if let Some(path) = context.path_variable("LIBCLANG_PATH") {
        let dir = if path.is_file() {
            path.parent().map(Path::to_owned)
        } else {
            Some(path)
        };
        candidates.extend(dir.map(|dir| ("LIBCLANG_PATH".to_owned(), dir)));
    }
    let mut llvms: Vec<(u32, PathBuf)> = fs::read_dir(context.machine("/usr/lib"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry
                .file_name()
                .to_str()?
                .strip_prefix("llvm-")?
                .parse()
                .ok()?;
            Some((version, entry.path().join("lib")))
        })
        .collect();
    // The newest first.
    llvms.sort_by(|(one, _), (other, _)| other.cmp(one));
    candidates.extend(
        llvms
            .into_iter()
            .map(|(version, dir)| (format!("LLVM {version} of this machine"), dir)),
    );
    for dir in ["/usr/lib", "/usr/local/lib"] {
        candidates.push((dir.to_owned(), context.machine(dir)));
    }
    candidates
}

/// The library that the `clang-sys` crate would find in `dir`.
fn library_in(dir: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut names: Vec<_> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let plain = name == "libclang.so" || name.starts_with("libclang.so.");
            let versioned = name.strip_prefix("libclang-").is_some_and(|rest| {
                rest.starts_with(|c: char| c.is_ascii_digit())
                    && (rest.ends_with(".so") || rest.contains(".so."))
            });
            plain || versioned
        })
        .map(|entry| entry.path())
        .collect();
    names.sort();
    names
        .pop()
        .with_context(|| format!("no libclang in {}", dir.display()))
}

fn from_cache(context: &Context) -> Option<Libclang> {
    let (dir, manifest) = cache::entry(&context.cache, ENTRY)?;
    Some(Libclang {
        dir: dir.join("lib"),
        version: manifest.version,
        how: manifest.origin,
    })
}

/// The file name, which tells about the version without anything being run.
pub(crate) fn name_of(library: &Path) -> Result<String> {
    let name = library
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.with_context(|| format!("{} has no name", library.display()))
}

/// Fetches libclang into the cache.
pub(crate) fn install(
    context: &Context,
    locked: &Locked,
    probe: &Probe,
    headers: &[PathBuf],
    mut attempts: Attempts,
) -> Result<Libclang> {
    let step = context.talk.step("libclang: fetching the Python wheel");
    match install_wheel(locked, probe, headers) {
        Ok(done) => {
            step.done(&done);
            return from_cache(context).context("the libclang just unpacked is gone");
        }
        Err(error) => {
            step.done("not possible here");
            attempts.failed("the Python wheel", format!("{error:#}"));
        }
    }
    match install_debian(context, locked, probe, headers) {
        Ok(()) => from_cache(context).context("the libclang just unpacked is gone"),
        Err(error) => {
            attempts.failed(
                "packages of this machine's own Debian release in a private prefix",
                format!("{error:#}"),
            );
            Err(attempts.into_error(THING, REMEDIES))
        }
    }
}

fn install_wheel(locked: &Locked, probe: &Probe, headers: &[PathBuf]) -> Result<String> {
    let staged = locked.stage("libclang-wheel")?;
    let downloads = locked.stage("libclang-download")?;
    let requirements = downloads.join("requirements.txt");
    fs::write(&requirements, WHEEL).context("cannot write the requirements for pip")?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--retries=1",
    ])
    .args([
        "--disable-pip-version-check",
        "--quiet",
        "--no-cache-dir",
        "--requirement",
    ])
    .arg(&requirements)
    .arg("--dest")
    .arg(&downloads);
    command::output(&mut pip, DOWNLOAD_LIMIT, || {})?;
    let wheel = fs::read_dir(&downloads)
        .context("cannot list the downloads")?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    let downloaded = fs::metadata(&wheel).context("cannot read the wheel")?.len();
    let unpacked = downloads.join("unpacked");
    let mut unzip = Command::new("python3");
    unzip
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&unpacked);
    command::output(&mut unzip, LOCAL_LIMIT, || {}).context("unpacking the wheel")?;
    let Some(library) = find_file(&unpacked, "libclang.so") else {
        bail!("the wheel holds no libclang.so")
    };

    fs::create_dir(staged.join("lib")).context("cannot create lib")?;
    files::move_entry(&library, &staged.join("lib/libclang.so"))?;
    let version = probe.libclang(&staged.join("lib/libclang.so"), headers)?;
    let manifest = Manifest {
        version,
        origin: "Python wheel".to_owned(),
        downloaded,
        packages: vec!["libclang 18.1.1".into()],
    };
    let dir = locked.publish(&staged, ENTRY, &manifest)?;
    Ok(format!(
        "{} downloaded, {} on disk",
        megabytes(downloaded),
        megabytes(cache::size_on_disk(&dir))
    ))
}

fn find_file(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            find_file(&path, name)
        } else {
            (entry.file_name() == name).then_some(path)
        }
    })
}

/// The C compiler's own headers that a C library's public headers may use.
pub(crate) fn compiler_headers() -> Result<Vec<PathBuf>> {
    let printed = command::output(
        Command::new("cc").arg("-print-file-name=include"),
        LOCAL_LIMIT,
        || {},
    )
    .context("asking the C compiler for its headers")?;
    let dir = Path::new(printed.trim());
    let mut headers: Vec<_> = fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .trim_start_matches('_')
                .starts_with("std")
        })
        .map(|entry| entry.path())
        .collect();
    headers.sort();
    ensure!(
        headers.contains(&dir.join("stddef.h")),
        "the C compiler has no stddef.h in {}",
        dir.display()
    );
    Ok(headers)
}

/// From the release that the machine runs: its libclang works with the machine's own libc.
fn install_debian(
    context: &Context,
    locked: &Locked,
    probe: &Probe,
    headers: &[PathBuf],
) -> Result<()> {
    let suite = debian::codename(context).context("this machine does not run a Debian release")?;
    let step = context.talk.step(format!(
        "libclang: unpacking Debian {suite}'s packages into a private prefix"
    ));
    let status = context.machine("/var/lib/dpkg/status");
    let apt = Apt::open(context, locked.stage("libclang-apt")?, &suite, &status)?;
    let major = apt.major_of("libclang-dev", "libclang-", "-dev")?;
    let packages = apt.closure(&[&format!("libclang1-{major}")])?;
    let unpacked = locked.stage("libclang-unpacked")?;
    let downloaded = apt.unpack(&packages, &unpacked, debian::CHAFF, &step)?;

    let staged = locked.stage("libclang-debian")?;
    let lib = staged.join("lib");
    fs::create_dir(&lib).context("cannot create lib")?;
    files::gather_libraries(&unpacked, &lib)?;
    step.progress("trying it");
    let version = probe.libclang(&library_in(&lib)?, headers)?;
    let manifest = Manifest {
        version,
        origin: format!("Debian {suite} packages in a private prefix"),
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

#[cfg(test)]
mod tests {
    use super::super::tests::context;
    use super::*;

    #[test]
    fn the_users_variable_comes_first_then_the_newest_llvm() {
        let root = tempfile::tempdir().unwrap();
        let dirs = [
            "usr/lib/llvm-9/lib",
            "usr/lib/llvm-14/lib",
            "usr/lib/llvm-empty/lib",
            "named",
        ];
        for dir in dirs {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let find_with = |variables: &[(&str, &str)]| {
            find(
                &context(root.path(), variables),
                &name_of,
                &mut Attempts::default(),
            )
        };
        assert_eq!(find_with(&[]), None);

        fs::write(root.path().join("usr/lib/llvm-9/lib/libclang.so.1"), "").unwrap();
        assert_eq!(find_with(&[]).unwrap().how, "LLVM 9 of this machine");
        // libclang-cpp is another library.
        fs::write(
            root.path().join("usr/lib/llvm-14/lib/libclang-cpp.so.14"),
            "",
        )
        .unwrap();
        assert_eq!(find_with(&[]).unwrap().how, "LLVM 9 of this machine");
        fs::write(root.path().join("usr/lib/llvm-14/lib/libclang-14.so.1"), "").unwrap();
        let found = find_with(&[]).unwrap();
        assert_eq!(found.how, "LLVM 14 of this machine");
        assert_eq!(found.dir, root.path().join("usr/lib/llvm-14/lib"));

        let named = root.path().join("named");
        fs::write(named.join("libclang.so"), "").unwrap();
        let found = find_with(&[("LIBCLANG_PATH", named.to_str().unwrap())]).unwrap();
        assert_eq!((found.how.as_str(), found.dir), ("LIBCLANG_PATH", named));
    }

    #[test]
    fn a_libclang_that_does_not_work_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        for (dir, name) in [
            ("usr/lib/llvm-14/lib", "libclang.so"),
            ("usr/lib/llvm-9/lib", "libclang.so"),
        ] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
            fs::write(root.path().join(dir).join(name), "").unwrap();
        }
        let works = |library: &Path| {
            ensure!(!library.to_string_lossy().contains("llvm-14"), "too old");
            Ok("clang version 9".to_owned())
        };
        let mut attempts = Attempts::default();
        let found = find(&context(root.path(), &[]), &works, &mut attempts).unwrap();
        assert_eq!(found.version, "clang version 9");
        assert!(attempts
            .into_error(THING, REMEDIES)
            .to_string()
            .contains("LLVM 14 of this machine: too old"));
    }
}
