//! Set-up: finds or fetches WasmEdge, libclang and the standard library for functions, and links them into this clone.
//!
//! What is fetched lives in a cache that all clones share; a clone holds links only. [`ensure`] is what every other
//! subcommand calls; when all is ready it costs a few file system calls.

mod attempts;
mod cache;
mod debian;
mod files;
mod guest;
mod libclang;
mod probe;
mod release;
mod wasmedge;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::talk::megabytes;
use attempts::Attempts;
use cache::Locked;
use guest::Guest;
use libclang::Libclang;
use probe::Probe;
use wasmedge::WasmEdge;

/// Raised when what set-up leaves behind changes its form.
const REVISION: u32 = 1;

/// Variables that decide what set-up finds.
const DECISIVE: &[&str] = &[
    "WASMEDGE_INCLUDE_DIR",
    "WASMEDGE_LIB_DIR",
    "WASMEDGE_DIR",
    "WASMEDGE_BUILD_DIR",
    "LIBCLANG_PATH",
    "HOME",
    "RUSTC",
    "RUSTUP_TOOLCHAIN",
];

/// All that building and running the workspace needs beyond Rust and a C compiler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Toolchain {
    pub(crate) wasmedge: WasmEdge,
    pub(crate) libclang: Libclang,
    pub(crate) guest: Guest,
    /// Headers of the C compiler that libclang needs.
    compiler_headers: Vec<PathBuf>,
}

impl Toolchain {
    /// `cargo`, set to build functions for wasm32-wasip1.
    pub(crate) fn guest_cargo(&self) -> std::process::Command {
        self.guest.cargo()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![
            self.wasmedge.include.join("wasmedge/wasmedge.h"),
            self.wasmedge.lib.join("libwasmedge.so"),
            self.libclang.dir.clone(),
            self.guest.std.clone(),
        ];
        files.extend(
            self.wasmedge
                .run
                .as_ref()
                .map(|run| run.join(files::LOADER)),
        );
        files.extend(self.guest.rustc.clone());
        files.extend(self.guest.linker.clone());
        files.extend_from_slice(&self.compiler_headers);
        files
    }
}

/// What a set-up found, kept in the clone so that the next one need not look again.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    revision: u32,
    cache: PathBuf,
    variables: BTreeMap<String, String>,
    toolchain: Toolchain,
}

/// The subcommand.
pub(crate) fn run(context: &Context) -> Result<()> {
    let toolchain = ensure(context)?;
    for (thing, version, how) in [
        (
            "WasmEdge",
            toolchain.wasmedge.version.as_str(),
            &toolchain.wasmedge.how,
        ),
        (
            "libclang",
            &toolchain.libclang.version,
            &toolchain.libclang.how,
        ),
        (guest::TARGET, "ready", &toolchain.guest.how),
    ] {
        context.talk.say(&format!("{thing}: {version} ({how})"));
    }
    let size = megabytes(cache_size(context));
    context.talk.say(&format!(
        "cache: {} ({size} on disk)",
        context.cache.display()
    ));
    Ok(())
}

/// Makes sure that everything is there; fetches what is missing.
///
/// # Errors
///
/// Names the step that failed. Where every way to get a thing failed: what was tried, why each failed, what to type.
pub(crate) fn ensure(context: &Context) -> Result<Toolchain> {
    if let Some(toolchain) = recorded(context) {
        return Ok(toolchain);
    }
    let locked = Locked::acquire(&context.cache, context.talk).context("set-up: the cache")?;
    let probe = Probe::new(locked.stage("probe").context("set-up: the cache")?);

    probe.host().context("set-up: the compilers")?;
    let compiler_headers = libclang::compiler_headers().context("set-up: the C compiler")?;

    let mut attempts = Attempts::default();
    let by_use = |include: &Path, lib: &Path| wasmedge::version_by_use(&probe, include, lib);
    let wasmedge = match wasmedge::find(context, &by_use, &mut attempts) {
        Some(found) => found,
        None => wasmedge::install(context, &locked, &probe, attempts)?,
    };
    let mut attempts = Attempts::default();
    let by_use = |library: &Path| probe.libclang(library, &compiler_headers);
    let libclang = match libclang::find(context, &by_use, &mut attempts) {
        Some(found) => found,
        None => libclang::install(context, &locked, &probe, &compiler_headers, attempts)?,
    };
    let mut attempts = Attempts::default();
    let guest = match guest::find(context, &mut attempts) {
        Some(found) => found,
        None => guest::install(context, &locked, &probe, attempts)?,
    };
    let toolchain = Toolchain {
        wasmedge,
        libclang,
        guest,
        compiler_headers,
    };
    link(context, &toolchain).context("set-up: linking into this clone")?;
    record(context, &toolchain).context("set-up: noting what was found")?;
    Ok(toolchain)
}

/// A thing that set-up provides, as found without installing or compiling anything.
pub(crate) struct Thing {
    pub(crate) name: &'static str,
    /// Version and where from.
    pub(crate) found: Option<String>,
    /// What getting it costs, and the command.
    pub(crate) cost: &'static str,
}

/// Looks for everything that set-up provides.
pub(crate) fn look(context: &Context) -> Vec<Thing> {
    let mut attempts = Attempts::default();
    let wasmedge = wasmedge::find(context, &wasmedge::version_in_header, &mut attempts);
    let libclang = libclang::find(context, &libclang::name_of, &mut attempts);
    let guest = guest::find(context, &mut attempts);
    vec![
        Thing {
            name: "WasmEdge",
            found: wasmedge.map(|found| format!("{} ({})", found.version, found.how)),
            cost: "`cargo xtask setup` brings it: at most 45 MB to download, 190 MB on disk",
        },
        Thing {
            name: "libclang",
            found: libclang.map(|found| format!("{} ({})", found.version, found.how)),
            cost: "`cargo xtask setup` brings it: 25 MB to download, 64 MB on disk",
        },
        Thing {
            name: guest::TARGET,
            found: guest.map(|found| found.how),
            cost: "`cargo xtask setup` brings it: 25 MB through rustup, or else 195 MB to download, 585 MB on disk",
        },
    ]
}

/// Bytes that the cache takes on disk.
pub(crate) fn cache_size(context: &Context) -> u64 {
    cache::size_on_disk(&context.cache)
}

/// Where each link of this clone points.
///
/// The directory of headers is the only one that bindgen is given, so the compiler's headers are linked into it as well.
fn targets(context: &Context, toolchain: &Toolchain) -> Vec<(PathBuf, PathBuf)> {
    let links = context.links();
    let include = links.join("wasmedge/include");
    let mut targets = vec![
        (
            include.join("wasmedge"),
            toolchain.wasmedge.include.join("wasmedge"),
        ),
        (links.join("wasmedge/lib"), toolchain.wasmedge.lib.clone()),
        (links.join("libclang"), toolchain.libclang.dir.clone()),
    ];
    let headers = toolchain.compiler_headers.iter();
    targets.extend(
        headers.filter_map(|header| Some((include.join(header.file_name()?), header.clone()))),
    );
    targets
}

fn link(context: &Context, toolchain: &Toolchain) -> Result<()> {
    let dir = context.links().join("wasmedge/include");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (link, target) in targets(context, toolchain) {
        files::replace_link(&target, &link)?;
    }
    Ok(())
}

fn record_path(context: &Context) -> PathBuf {
    context.links().join("toolchain.json")
}

fn variables(context: &Context) -> BTreeMap<String, String> {
    let known = |name: &&str| {
        Some((
            (*name).to_owned(),
            context.variable(name)?.to_string_lossy().into_owned(),
        ))
    };
    DECISIVE.iter().filter_map(known).collect()
}

fn record(context: &Context, toolchain: &Toolchain) -> Result<()> {
    let record = Record {
        revision: REVISION,
        cache: context.cache.clone(),
        variables: variables(context),
        toolchain: toolchain.clone(),
    };
    let path = record_path(context);
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    fs::write(&temporary, serde_json::to_vec_pretty(&record)?)
        .with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, &path).with_context(|| format!("cannot write {}", path.display()))
}

/// What the last set-up of this clone found, if it still holds.
fn recorded(context: &Context) -> Option<Toolchain> {
    let record: Record = serde_json::from_slice(&fs::read(record_path(context)).ok()?).ok()?;
    let toolchain = record.toolchain;
    let same = record.revision == REVISION
        && record.cache == context.cache
        && record.variables == variables(context);
    let there = toolchain.files().iter().all(|file| file.exists());
    let linked = targets(context, &toolchain)
        .iter()
        .all(|(link, target)| fs::read_link(link).is_ok_and(|present| present == *target));
    (same && there && linked).then_some(toolchain)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::talk::Talk;

    /// A context whose machine, clone and cache all lie below `root`.
    pub(crate) fn context(root: &Path, variables: &[(&str, &str)]) -> Context {
        let mut environment = BTreeMap::from([(
            "XDG_CACHE_HOME".to_owned(),
            root.join("cache").into_os_string(),
        )]);
        environment.extend(
            variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into())),
        );
        Context::new(&root.join("clone"), root, environment, Talk::silent()).unwrap()
    }

    fn toolchain(root: &Path) -> Toolchain {
        let toolchain = Toolchain {
            wasmedge: WasmEdge {
                include: root.join("w/include"),
                lib: root.join("w/lib"),
                run: Some(root.join("w/run")),
                version: "0.17.1".into(),
                how: "test".into(),
            },
            libclang: Libclang {
                dir: root.join("c/lib"),
                version: "18".into(),
                how: "test".into(),
            },
            guest: Guest {
                rustc: None,
                linker: None,
                std: root.join("std"),
                how: "test".into(),
            },
            compiler_headers: vec![root.join("cc/stddef.h")],
        };
        for file in toolchain.files() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        toolchain
    }

    #[test]
    fn a_second_set_up_finds_the_record_and_touches_nothing() {
        let root = tempfile::tempdir().unwrap();
        let context = context(root.path(), &[]);
        let toolchain = toolchain(root.path());
        link(&context, &toolchain).unwrap();
        record(&context, &toolchain).unwrap();
        assert_eq!(ensure(&context).unwrap(), toolchain);
        // Not even the lock file: the cache was never opened.
        assert!(!context.cache.exists());
    }

    #[test]
    fn a_record_that_no_longer_holds_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        let plain = context(root.path(), &[]);
        let toolchain = toolchain(root.path());
        link(&plain, &toolchain).unwrap();
        record(&plain, &toolchain).unwrap();
        assert!(recorded(&plain).is_some());

        assert_eq!(
            recorded(&context(root.path(), &[("WASMEDGE_DIR", "/elsewhere")])),
            None
        );
        for file in toolchain.files() {
            fs::remove_file(&file).unwrap();
            assert_eq!(recorded(&plain), None, "without {}", file.display());
            fs::write(&file, "").unwrap();
        }
        for (link, target) in targets(&plain, &toolchain) {
            files::replace_link(Path::new("/elsewhere"), &link).unwrap();
            assert_eq!(recorded(&plain), None, "with {} astray", link.display());
            files::replace_link(&target, &link).unwrap();
        }
        assert!(recorded(&plain).is_some());
    }

    #[test]
    fn links_point_where_the_cargo_configuration_looks() {
        let root = tempfile::tempdir().unwrap();
        let context = context(root.path(), &[]);
        link(&context, &toolchain(root.path())).unwrap();
        let configuration =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cargo/config.toml"))
                .unwrap();
        let values: Vec<_> = configuration
            .lines()
            .filter_map(|line| line.split_once("value = \"")?.1.split_once('"'))
            .map(|(value, _)| value)
            .collect();
        assert_eq!(values.len(), 3);
        for value in values {
            assert!(context.workspace.join(value).exists(), "{value}");
        }
    }
}
