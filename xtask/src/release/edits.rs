//! What changes in the files when one crate gets its next version.

use anyhow::{bail, Context as _, Result};
use semver::Version;
use std::path::PathBuf;
use toml_edit::{DocumentMut, Item, TableLike};

/// A file before and after; no line comes or goes.
pub(super) struct Edit {
    /// From the root of the repository.
    pub(super) file: PathBuf,
    pub(super) before: String,
    pub(super) after: String,
}

impl Edit {
    /// Number of each line that changes, and how.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        let both = self.before.lines().zip(self.after.lines());
        (1..)
            .zip(both)
            .filter(|(_, (before, after))| before != after)
            .map(|(number, (before, after))| (number, before, after))
    }
}

/// A `Cargo.toml`: the version if it is the package's own, and what it requires of the package.
pub(super) fn manifest(text: &str, package: &str, version: &Version) -> Result<String> {
    let mut document: DocumentMut = text.parse()?;
    if let Some(own) = document.get_mut("package") {
        if own.get("name").and_then(Item::as_str) == Some(package) {
            let place = own.get_mut("version").filter(|item| item.is_str());
            set(
                place.context("it does not say its version itself")?,
                &version.to_string(),
            );
        }
    }
    requirements(document.as_table_mut(), package, version);
    Ok(document.to_string())
}

/// Follows the tables down to those of dependencies, wherever they are: of a target, or of the workspace.
fn requirements(table: &mut dyn TableLike, package: &str, version: &Version) {
    for (key, item) in table.iter_mut() {
        let of_dependencies = key.ends_with("dependencies");
        let Some(inner) = item.as_table_like_mut() else {
            continue;
        };
        if !of_dependencies {
            requirements(inner, package, version);
            continue;
        }
        for (name, dependency) in inner.iter_mut() {
            let renamed = dependency.get("package").and_then(Item::as_str);
            if renamed.unwrap_or(name.get()) != package {
                continue;
            }
            if dependency.is_str() {
                require(dependency, version);
            } else if let Some(required) = dependency.get_mut("version") {
                require(required, version);
            }
        }
    }
}

/// Sets the version of a requirement, and leaves its operator.
fn require(item: &mut Item, version: &Version) {
    let old = item.as_str().unwrap_or_default();
    if let Some(digits) = old.find(|character: char| character.is_ascii_digit()) {
        let new = format!("{}{version}", &old[..digits]);
        set(item, &new);
    }
}

/// Another text in the place of this one, with the spaces and comments around it.
fn set(item: &mut Item, text: &str) {
    if let Some(value) = item.as_value_mut() {
        let around = value.decor().clone();
        *value = text.into();
        *value.decor_mut() = around;
    }
}

/// A `Cargo.lock`: the version of the package, where that is a member or taken from its directory.
pub(super) fn lock(text: &str, package: &str, version: &Version) -> Result<String> {
    let mut document: DocumentMut = text.parse()?;
    let packages = document
        .get_mut("package")
        .and_then(Item::as_array_of_tables_mut);
    for locked in packages.into_iter().flat_map(|tables| tables.iter_mut()) {
        let named = locked.get("name").and_then(Item::as_str) == Some(package);
        if named && !locked.contains_key("source") {
            if let Some(item) = locked.get_mut("version") {
                set(item, &version.to_string());
            }
        }
    }
    Ok(document.to_string())
}

const UNRELEASED: &str = "## Unreleased";

/// A `CHANGELOG.md`: what is unreleased becomes this version. An error is the reason why there is nothing to release.
pub(super) fn changelog(text: &str, version: &Version) -> Result<String> {
    let heading = format!("## {version}");
    let is = |line: &str, wanted: &str| line.trim_end() == wanted;
    let mut lines = text
        .lines()
        .skip_while(|line| !is(line, UNRELEASED) && !is(line, &heading));
    if lines.next().is_none() {
        bail!("has neither a section `{UNRELEASED}` nor `{heading}`");
    }
    let mut section = lines.take_while(|line| !line.starts_with("## "));
    if section.all(|line| line.trim().is_empty()) {
        bail!("says nothing of what changes in {version}");
    }
    let lines = text.split_inclusive('\n').map(|line| {
        if is(line, UNRELEASED) {
            line.replace(UNRELEASED, &heading)
        } else {
            line.to_owned()
        }
    });
    Ok(lines.collect())
}

/// Whether a version comes next: one step in one place, or on from a pre-release. A slip of the finger cannot be taken back.
pub(super) fn follows(old: &Version, new: &Version) -> bool {
    let step = |major, minor, patch| (new.major, new.minor, new.patch) == (major, minor, patch);
    let next = step(old.major, old.minor, old.patch + 1)
        || step(old.major, old.minor + 1, 0)
        || step(old.major + 1, 0, 0);
    let on = !old.pre.is_empty() && step(old.major, old.minor, old.patch);
    new > old && new.build.is_empty() && (next || on)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn a_manifest_changes_in_its_versions_alone() {
        let before = r#"# Kept.
[package]
name = "low" # the name
version = "0.1.0" # said here
edition = "2021"

[dependencies]
other = "0.1.0"
low = { path = "../low", version = "0.1.0" }
alias = { package = "low", version = "=0.1.0" }

[target.'cfg(unix)'.dev-dependencies]
low = "0.1"

[workspace.dependencies.low]
version = "^0.1.0"

[patch.crates-io]
low = { path = "low" }
"#;
        let after = r#"# Kept.
[package]
name = "low" # the name
version = "0.2.0" # said here
edition = "2021"

[dependencies]
other = "0.1.0"
low = { path = "../low", version = "0.2.0" }
alias = { package = "low", version = "=0.2.0" }

[target.'cfg(unix)'.dev-dependencies]
low = "0.2.0"

[workspace.dependencies.low]
version = "^0.2.0"

[patch.crates-io]
low = { path = "low" }
"#;
        assert_eq!(manifest(before, "low", &version("0.2.0")).unwrap(), after);
        let others = before.replace("name = \"low\"", "name = \"lower\"");
        let changed = manifest(&others, "low", &version("0.2.0")).unwrap();
        assert!(
            changed.contains("version = \"0.1.0\" # said here"),
            "{changed}"
        );
        let inherited = "[package]\nname = \"low\"\nversion.workspace = true\n";
        assert!(manifest(inherited, "low", &version("0.2.0")).is_err());
    }

    #[test]
    fn a_lock_file_changes_where_the_crate_is_our_own() {
        let text = "version = 4\n\n[[package]]\nname = \"low\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"low\"\nversion = \"0.1.0\"\nsource = \"registry\"\n";
        let after = text.replacen("0.1.0", "0.1.1", 1);
        assert_eq!(lock(text, "low", &version("0.1.1")).unwrap(), after);
        assert_eq!(lock(text, "other", &version("0.1.1")).unwrap(), text);
    }

    #[test]
    fn a_change_log_has_to_say_something() {
        let next = version("0.1.1");
        let good = "# Changelog\n\n## Unreleased\n\n- More.\n\n## 0.1.0\n\nFirst.\n";
        let after = good.replace("Unreleased", "0.1.1");
        assert_eq!(changelog(good, &next).unwrap(), after);
        // Written before.
        assert_eq!(changelog(&after, &next).unwrap(), after);
        for (bad, why) in [
            ("# Changelog\n\n## 0.1.0\n\nFirst.\n", "neither"),
            (
                "# Changelog\n\n## Unreleased\n\n\n## 0.1.0\n\nFirst.\n",
                "nothing",
            ),
            ("", "neither"),
        ] {
            let error = changelog(bad, &next).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_version_is_one_step_on() {
        let goes = |old, new| follows(&version(old), &version(new));
        for new in ["0.1.1", "0.2.0", "1.0.0", "0.2.0-alpha.1"] {
            assert!(goes("0.1.0", new), "{new}");
        }
        for new in [
            "0.1.0", "0.0.9", "0.1.2", "0.2.1", "0.3.0", "1.1.0", "2.0.0", "0.1.1+b",
        ] {
            assert!(!goes("0.1.0", new), "{new}");
        }
        assert!(goes("0.2.0-alpha.1", "0.2.0-alpha.2") && goes("0.2.0-alpha.1", "0.2.0"));
        assert!(!goes("0.2.0-alpha.2", "0.2.0-alpha.1"));
    }
}
