//! What a subcommand may know of the machine. Tests build one with an environment and a file system root of their own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{bail, Result};

use crate::talk::Talk;

/// The link directory inside a clone; git ignores it.
const LINKS: &str = ".roadrunner";

/// The clone, the cache, the environment, and where to talk.
pub(crate) struct Context {
    /// Root of this clone.
    pub(crate) workspace: PathBuf,
    /// Where downloads live, shared by all clones of this user.
    pub(crate) cache: PathBuf,
    /// `/`, except in tests.
    pub(crate) root: PathBuf,
    pub(crate) talk: Talk,
    environment: BTreeMap<String, OsString>,
}

impl Context {
    pub(crate) fn of_this_machine() -> Result<Context> {
        // As cargo says now: clones that share a target directory share this program too.
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let Some(workspace) = package.parent() else {
            bail!("the xtask directory has no parent directory");
        };
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect();
        Context::new(workspace, Path::new("/"), environment, Talk::to_stderr())
    }

    pub(crate) fn new(
        workspace: &Path,
        root: &Path,
        mut environment: BTreeMap<String, OsString>,
        talk: Talk,
    ) -> Result<Context> {
        let links = workspace.join(LINKS);
        // Cargo hands `[env]` of .cargo/config.toml to this program too: those values are ours, not the user's.
        environment.retain(|_, value| !value.is_empty() && !Path::new(value).starts_with(&links));
        let absolute = |name: &str| {
            environment
                .get(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let cache = match (absolute("XDG_CACHE_HOME"), absolute("HOME")) {
            (Some(cache), _) => cache,
            (None, Some(home)) => home.join(".cache"),
            (None, None) => bail!("no place for the cache: set HOME or XDG_CACHE_HOME"),
        };
        Ok(Context {
            workspace: workspace.to_owned(),
            cache: cache.join("roadrunner"),
            root: root.to_owned(),
            talk,
            environment,
        })
    }

    /// A variable that the user set, never one that comes from this repository's own cargo configuration.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsString> {
        self.environment.get(name)
    }

    /// The same for a variable that names a path.
    pub(crate) fn path_variable(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from)
    }

    /// The place in this clone that `.cargo/config.toml` points to.
    pub(crate) fn links(&self) -> PathBuf {
        self.workspace.join(LINKS)
    }

    /// An absolute path of the machine, below the root of this context.
    pub(crate) fn machine(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_our_own_cargo_configuration_do_not_count_as_the_users() {
        let environment = BTreeMap::from([
            ("HOME".to_owned(), OsString::from("/home/u")),
            (
                "LIBCLANG_PATH".to_owned(),
                OsString::from("/clone/.roadrunner/libclang/lib"),
            ),
            ("WASMEDGE_DIR".to_owned(), OsString::from("/opt/wasmedge")),
            ("WASMEDGE_LIB_DIR".to_owned(), OsString::new()),
        ]);
        let context = Context::new(
            Path::new("/clone"),
            Path::new("/"),
            environment,
            Talk::silent(),
        )
        .unwrap();
        assert_eq!(context.variable("LIBCLANG_PATH"), None);
        assert_eq!(context.variable("WASMEDGE_LIB_DIR"), None);
        assert_eq!(
            context.path_variable("WASMEDGE_DIR"),
            Some("/opt/wasmedge".into())
        );
        assert_eq!(context.cache, Path::new("/home/u/.cache/roadrunner"));
    }

    #[test]
    fn a_relative_cache_home_is_ignored_as_the_xdg_specification_asks() {
        let environment = BTreeMap::from([
            ("HOME".to_owned(), OsString::from("/home/u")),
            ("XDG_CACHE_HOME".to_owned(), OsString::from("cache")),
        ]);
        let context = Context::new(
            Path::new("/clone"),
            Path::new("/"),
            environment,
            Talk::silent(),
        )
        .unwrap();
        assert_eq!(context.cache, Path::new("/home/u/.cache/roadrunner"));
    }
}
