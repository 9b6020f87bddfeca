//! WasmEdge 0.17: an installation of the machine, the official release, or Debian's packages, in this order.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};
use serde::{Deserialize, Serialize};

use super::attempts::Attempts;
use super::cache::{self, Locked, Manifest};
use super::debian::{self, Apt};
use super::probe::Probe;
use super::{files, release};
use crate::context::Context;
use crate::talk::megabytes;

/// What the WasmEdge Rust SDK in use is made for.
pub(crate) const SERIES: &str = "0.17.";

const RELEASE_ENTRY: &str = "wasmedge-release";
const DEBIAN_ENTRY: &str = "wasmedge-debian";

/// Where in an entry made from packages the loader and the libraries lie.
const RUN: &str = "run/lib";

/// The file beside `include` and `lib` that tells the build script of `roadrunner-wasmedge` how to link.
const LINK_ARGUMENTS: &str = "roadrunner-link-args";

/// Debian suites that may carry the series, the more settled one first.
pub(crate) const SUITES: &[&str] = &["forky", "sid"];

pub(crate) const THING: &str = "WasmEdge 0.17";
pub(crate) const REMEDIES: &[&str] = &[
    "install WasmEdge 0.17 (https://wasmedge.org/docs/start/install) into ~/.wasmedge or /usr/local",
    "point WASMEDGE_DIR at an installation (the directory with include/ and lib/ or lib64/)",
    "set WASMEDGE_INCLUDE_DIR and WASMEDGE_LIB_DIR",
    "let this machine reach the official release or a Debian mirror",
];

/// A WasmEdge that can be linked and run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WasmEdge {
    /// Holds `wasmedge/wasmedge.h`.
    pub(crate) include: PathBuf,
    /// Holds `libwasmedge.so` and, in a private prefix, nothing that could disturb a compiler.
    pub(crate) lib: PathBuf,
    /// Dynamic loader and all libraries, where the machine's own are too old.
    pub(crate) run: Option<PathBuf>,
    pub(crate) version: String,
    pub(crate) how: String,
}

/// A place where WasmEdge may be.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    how: String,
    include: PathBuf,
    lib: PathBuf,
}

/// A way to know the version of a candidate: by use, or, where nothing may be compiled, by its header.
type VersionOf<'a> = &'a dyn Fn(&Path, &Path) -> Result<String>;

/// The first usable installation of the machine or of the cache; why the others are not goes into `attempts`.
pub(crate) fn find(
    context: &Context,
    version_of: VersionOf<'_>,
    attempts: &mut Attempts,
) -> Option<WasmEdge> {
    for candidate in candidates(context) {
        match candidate.check(version_of) {
            Ok(version) => {
                let Candidate { how, include, lib } = candidate;
                return Some(WasmEdge {
                    include,
                    lib,
                    run: None,
                    version,
                    how,
                });
            }
            Err(error) => attempts.failed(candidate.how, format!("{error:#}")),
        }
    }
    [RELEASE_ENTRY, DEBIAN_ENTRY]
        .iter()
        .find_map(|key| from_cache(context, key))
}

/// Tells the version from the header, which costs nothing.
pub(crate) fn version_in_header(include: &Path, _lib: &Path) -> Result<String> {
    let header = include.join("wasmedge/version.h");
    let text =
        fs::read_to_string(&header).with_context(|| format!("cannot read {}", header.display()))?;
    let version = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("#define") && words.next() == Some("WASMEDGE_VERSION"))
            .then(|| words.next())?
    });
    let version = version.with_context(|| format!("{} names no version", header.display()))?;
    Ok(version.trim_matches('"').to_owned())
}

/// Tells the version by use. The header is asked first: it is quicker, and its answer says more than a linker error.
pub(crate) fn version_by_use(probe: &Probe, include: &Path, lib: &Path) -> Result<String> {
    let declared = version_in_header(include, lib)?;
    if !declared.starts_with(SERIES) {
        return Ok(declared);
    }
    probe.wasmedge(lib, &[format!("-Wl,-rpath,{}", lib.display())])
}

/// The places that the build script of wasmedge-sys searches, in its order, then those of Debian's packages.
fn candidates(context: &Context) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    let mut add = |how: String, include: PathBuf, lib: PathBuf| {
        candidates.push(Candidate { how, include, lib })
    };
    if let (Some(include), Some(lib)) = (
        context.path_variable("WASMEDGE_INCLUDE_DIR"),
        context.path_variable("WASMEDGE_LIB_DIR"),
    ) {
        add(
            "WASMEDGE_INCLUDE_DIR and WASMEDGE_LIB_DIR".into(),
            include,
            lib,
        );
    }
    if let Some(dir) = context.path_variable("WASMEDGE_DIR") {
        for lib in ["lib64", "lib"] {
            add(
                format!("WASMEDGE_DIR ({lib})"),
                dir.join("include"),
                dir.join(lib),
            );
        }
    }
    if let Some(dir) = context.path_variable("WASMEDGE_BUILD_DIR") {
        for lib in ["lib64/api", "lib/api"] {
            add(
                format!("WASMEDGE_BUILD_DIR ({lib})"),
                dir.join("include/api"),
                dir.join(lib),
            );
        }
    }
    let home = context.path_variable("HOME");
    let places = [
        home.as_ref()
            .map(|home| ("~/.wasmedge", home.join(".wasmedge"))),
        Some(("/usr/local", context.machine("/usr/local"))),
        home.as_ref().map(|home| ("~/.local", home.join(".local"))),
    ];
    for (name, dir) in places.into_iter().flatten() {
        for lib in ["lib64", "lib"] {
            add(
                format!("{name} ({lib})"),
                dir.join("include"),
                dir.join(lib),
            );
        }
    }
    add(
        "Debian package of this machine".into(),
        context.machine("/usr/include"),
        context.machine("/usr/lib/x86_64-linux-gnu"),
    );
    candidates
}

impl Candidate {
    fn check(&self, version_of: VersionOf<'_>) -> Result<String> {
        let header = self.include.join("wasmedge/wasmedge.h");
        ensure!(header.is_file(), "no {}", header.display());
        let library = self.lib.join("libwasmedge.so");
        ensure!(library.is_file(), "no {}", library.display());
        let version = version_of(&self.include, &self.lib)?;
        ensure!(
            version.starts_with(SERIES),
            "it is version {version}, {SERIES}x is needed"
        );
        Ok(version)
    }
}

fn from_cache(context: &Context, key: &str) -> Option<WasmEdge> {
    let (dir, manifest) = cache::entry(&context.cache, key)?;
    let run = dir.join(RUN);
    Some(WasmEdge {
        include: dir.join("include"),
        lib: dir.join("lib"),
        run: run.is_dir().then_some(run),
        version: manifest.version,
        how: manifest.origin,
    })
}

/// Fetches WasmEdge into the cache.
pub(crate) fn install(
    context: &Context,
    locked: &Locked,
    probe: &Probe,
    mut attempts: Attempts,
) -> Result<WasmEdge> {
    let step = context.talk.step("WasmEdge: fetching the official release");
    match install_release(locked, probe) {
        Ok(size) => {
            step.done(&format!("{} downloaded", megabytes(size)));
            return from_cache(context, RELEASE_ENTRY)
                .context("the WasmEdge just unpacked is gone");
        }
        Err(error) => {
            step.done("not possible here");
            attempts.failed("the official release", format!("{error:#}"));
        }
    }
    for suite in SUITES {
        match install_debian(context, locked, probe, suite) {
            Ok(()) => {
                return from_cache(context, DEBIAN_ENTRY)
                    .context("the WasmEdge just unpacked is gone")
            }
            Err(error) => attempts.failed(
                format!("packages of Debian {suite} in a private prefix"),
                format!("{error:#}"),
            ),
        }
    }
    Err(attempts.into_error(THING, REMEDIES))
}

fn install_release(locked: &Locked, probe: &Probe) -> Result<u64> {
    let staged = locked.stage("wasmedge-release")?;
    let downloaded = release::fetch(&staged)?;
    let lib = staged.join("lib");
    let version = probe.wasmedge(&lib, &[format!("-Wl,-rpath,{}", lib.display())])?;
    let manifest = Manifest {
        origin: format!("official release {version}"),
        version,
        downloaded,
        packages: Vec::new(),
    };
    locked.publish(&staged, RELEASE_ENTRY, &manifest)?;
    Ok(downloaded)
}

fn install_debian(context: &Context, locked: &Locked, probe: &Probe, suite: &str) -> Result<()> {
    let step = context.talk.step(format!(
        "WasmEdge: unpacking Debian {suite}'s packages into a private prefix"
    ));
    let apt = Apt::open(
        context,
        locked.stage("wasmedge-apt")?,
        suite,
        Path::new("/dev/null"),
    )?;
    let version = apt.version("libwasmedge-dev")?;
    let upstream = debian::upstream_version(&version);
    ensure!(
        upstream.starts_with(SERIES),
        "it carries {upstream}, {SERIES}x is needed"
    );
    let packages = apt.closure(&["libwasmedge-dev"])?;
    let unpacked = locked.stage("wasmedge-unpacked")?;
    let excluded: Vec<_> = debian::CHAFF
        .iter()
        .copied()
        .chain(["./usr/lib/*/gconv", "*.a", "./usr/libexec"])
        .collect();
    let downloaded = apt.unpack(&packages, &unpacked, &excluded, &step)?;

    let staged = locked.stage("wasmedge-debian")?;
    for part in ["include", "lib", RUN] {
        fs::create_dir_all(staged.join(part)).with_context(|| format!("cannot create {part}"))?;
    }
    files::move_entry(
        &unpacked.join("usr/include/wasmedge"),
        &staged.join("include/wasmedge"),
    )?;
    let run = staged.join(RUN);
    files::gather_libraries(&unpacked, &run)?;
    ensure!(
        run.join(files::LOADER).exists(),
        "the packages hold no dynamic loader"
    );
    files::link_libwasmedge(&run, &staged.join("lib"))?;

    step.progress("trying it");
    let found = probe.wasmedge(&staged.join("lib"), &link_arguments(&run)?)?;
    ensure!(
        found == upstream,
        "the program built with it reports version {found}, not {upstream}"
    );
    let arguments = link_arguments(&locked.dir().join(DEBIAN_ENTRY).join(RUN))?;
    fs::write(staged.join(LINK_ARGUMENTS), arguments.join("\n") + "\n")
        .context("cannot write the link arguments")?;
    let manifest = Manifest {
        version: found,
        origin: format!(
            "Debian {} packages ({version}) in a private prefix",
            apt.suite()
        ),
        downloaded,
        packages: packages
            .iter()
            .map(|package| format!("{} {}", package.name, package.version))
            .collect(),
    };
    let dir = locked.publish(&staged, DEBIAN_ENTRY, &manifest)?;
    let size = cache::size_on_disk(&dir);
    step.done(&format!(
        "{} downloaded, {} on disk",
        megabytes(downloaded),
        megabytes(size)
    ));
    Ok(())
}

/// How a program is linked so that it runs on the loader and the libraries in `run`.
///
/// - The loader has to be that of the libc in `run`, the machine's own is too old.
/// - `DT_RPATH` and not `DT_RUNPATH`: it also serves the libraries that carry neither, for what they need in turn. Those
///   of libwasmedge and libLLVM carry `$ORIGIN` and `$ORIGIN/../lib`, which is `run` itself as long as it is named `lib`.
/// - The machine's libc, linked against, lacks symbols that libwasmedge will find in the newer one.
fn link_arguments(run: &Path) -> Result<[String; 3]> {
    let run = run
        .to_str()
        .with_context(|| format!("{} is not valid UTF-8", run.display()))?;
    ensure!(
        !run.contains([',', '\n']),
        "{run} holds a comma or a line end, which cannot be handed to the linker: set XDG_CACHE_HOME to another directory"
    );
    Ok([
        format!("-Wl,--dynamic-linker={run}/{}", files::LOADER),
        format!("-Wl,--disable-new-dtags,-rpath,{run}"),
        "-Wl,--allow-shlib-undefined".to_owned(),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::tests::context;
    use super::*;

    fn installation(dir: &Path, lib: &str, version: &str) {
        let headers = dir.join("include/wasmedge");
        fs::create_dir_all(&headers).unwrap();
        fs::create_dir_all(dir.join(lib)).unwrap();
        fs::write(headers.join("wasmedge.h"), "").unwrap();
        fs::write(
            headers.join("version.h"),
            format!("#pragma once\n#define WASMEDGE_VERSION \"{version}\"\n"),
        )
        .unwrap();
        fs::write(dir.join(lib).join("libwasmedge.so"), "").unwrap();
    }

    fn find_in(root: &Path, variables: &[(&str, &str)]) -> (Option<WasmEdge>, String) {
        let mut attempts = Attempts::default();
        let found = find(&context(root, variables), &version_in_header, &mut attempts);
        (found, attempts.into_error(THING, REMEDIES).to_string())
    }

    #[test]
    fn places_are_searched_in_the_order_of_the_sdk() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let named = at("named");
        let (named_include, named_lib) = (named.join("include"), named.join("lib"));
        let home = at("home");
        let built = at("built");
        let variables = [
            ("WASMEDGE_INCLUDE_DIR", named_include.to_str().unwrap()),
            ("WASMEDGE_LIB_DIR", named_lib.to_str().unwrap()),
            (
                "WASMEDGE_DIR",
                at("dir").to_str().unwrap().to_owned().leak(),
            ),
            ("WASMEDGE_BUILD_DIR", built.to_str().unwrap()),
            ("HOME", home.to_str().unwrap()),
        ];
        // From last to first: each newly made installation wins over those made before it.
        let places = [
            (
                at("usr"),
                "lib/x86_64-linux-gnu",
                "Debian package of this machine",
            ),
            (home.join(".local"), "lib", "~/.local (lib)"),
            (at("usr/local"), "lib", "/usr/local (lib)"),
            (at("usr/local"), "lib64", "/usr/local (lib64)"),
            (home.join(".wasmedge"), "lib", "~/.wasmedge (lib)"),
            (home.join(".wasmedge"), "lib64", "~/.wasmedge (lib64)"),
            (at("dir"), "lib", "WASMEDGE_DIR (lib)"),
            (at("dir"), "lib64", "WASMEDGE_DIR (lib64)"),
            (named, "lib", "WASMEDGE_INCLUDE_DIR and WASMEDGE_LIB_DIR"),
        ];
        assert_eq!(find_in(root.path(), &variables).0, None);
        for (dir, lib, how) in places {
            installation(&dir, lib, "0.17.1");
            let found = find_in(root.path(), &variables).0.unwrap();
            assert_eq!((found.how.as_str(), found.lib), (how, dir.join(lib)));
        }
    }

    #[test]
    fn another_version_is_passed_over_and_named() {
        let root = tempfile::tempdir().unwrap();
        installation(&root.path().join("usr/local"), "lib", "0.14.1");
        let (found, message) = find_in(root.path(), &[]);
        assert_eq!(found, None);
        assert!(
            message.contains("/usr/local (lib): it is version 0.14.1, 0.17.x is needed"),
            "{message}"
        );
        assert!(message.contains("point WASMEDGE_DIR at"), "{message}");
    }

    #[test]
    fn a_complete_entry_of_the_cache_is_found_without_any_probe() {
        let root = tempfile::tempdir().unwrap();
        let context = context(root.path(), &[]);
        let dir = context.cache.join(DEBIAN_ENTRY);
        fs::create_dir_all(dir.join(RUN)).unwrap();
        let never = |_: &Path, _: &Path| -> Result<String> { panic!("nothing to probe") };
        assert_eq!(find(&context, &never, &mut Attempts::default()), None);
        let manifest = Manifest {
            version: "0.17.1".into(),
            origin: "Debian".into(),
            downloaded: 1,
            packages: Vec::new(),
        };
        fs::write(
            dir.join("manifest.json"),
            serde_json::to_vec(&manifest).unwrap(),
        )
        .unwrap();
        let found = find(&context, &never, &mut Attempts::default()).unwrap();
        assert_eq!(found.run, Some(dir.join(RUN)));
        assert_eq!(found.version, "0.17.1");
    }
}
