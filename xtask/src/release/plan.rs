//! What a release changes, what it needs, and what stands in its way.

use super::edits::{changelog, follows, lock, manifest, Edit};
use crate::registry::{Entry, Owner};
use crate::verify::{published_in, quietly, Package};
use anyhow::{bail, Context as _, Result};
use semver::{Version, VersionReq};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How to ask what is published under a name.
type LookUp<'a> = &'a dyn Fn(&str) -> Result<Entry>;

pub(super) struct Plan {
    pub(super) package: String,
    old: Version,
    pub(super) new: Version,
    tag: String,
    edits: Vec<Edit>,
    /// A line for each crate of ours that this one needs.
    needs: Vec<String>,
    /// Those of them, and of what they need, that are not published.
    pub(super) unpublished: Vec<String>,
    /// What is worth to know, and holds up nothing.
    remarks: Vec<String>,
    pub(super) obstacles: Vec<String>,
}

impl Plan {
    /// Looks at a repository, and at what is published, and changes nothing.
    ///
    /// # Errors
    ///
    /// Where there is no such crate, or a file cannot be understood. Anything else that speaks against a release is in
    /// `obstacles`.
    pub(super) fn of(
        repository: &Path,
        name: &str,
        new: &Version,
        look_up: LookUp<'_>,
    ) -> Result<Self> {
        let packages = published_in(repository)?;
        let Some(package) = packages.iter().find(|package| package.name == name) else {
            let names: Vec<_> = packages.iter().map(|one| one.name.as_str()).collect();
            bail!(
                "{name} is none of the published crates: {}",
                names.join(", ")
            );
        };
        let mut plan = Self {
            package: name.to_owned(),
            old: package.version.parse().context("its version")?,
            new: new.clone(),
            tag: format!("{name}-v{new}"),
            edits: Vec::new(),
            needs: Vec::new(),
            unpublished: Vec::new(),
            remarks: Vec::new(),
            obstacles: Vec::new(),
        };
        plan.look_at_git(repository)?;
        plan.look_at_version(package, look_up)?;
        plan.look_at_needs(package, &packages, look_up)?;
        plan.look_at_dependants(&packages);
        plan.edit(repository, package)?;
        Ok(plan)
    }

    fn look_at_git(&mut self, repository: &Path) -> Result<()> {
        let changed = git(repository, &["status", "--porcelain"])?;
        if let Some(first) = changed.lines().next() {
            let more = changed.lines().count() - 1;
            let first = first.trim_start_matches(['?', ' ', 'M', 'A', 'D', 'R']);
            self.obstacles.push(format!(
                "the work tree has changes that are not committed: {first}{}",
                if more > 0 {
                    format!(" and {more} more")
                } else {
                    String::new()
                }
            ));
        }
        if !git(repository, &["tag", "--list", &self.tag])?.is_empty() {
            self.obstacles
                .push(format!("there is a tag {} already", self.tag));
        }
        Ok(())
    }

    fn look_at_version(&mut self, package: &Package, look_up: LookUp<'_>) -> Result<()> {
        let (old, new) = (&self.old, &self.new);
        if new != old && !follows(old, new) {
            self.obstacles.push(format!(
                "{new} does not follow {old}: one step is {}.{}.{}, {}.{}.0 or {}.0.0",
                old.major,
                old.minor,
                old.patch + 1,
                old.major,
                old.minor + 1,
                old.major + 1
            ));
        }
        match look_up(&self.package)? {
            Entry::Absent => {}
            Entry::Unknown(why) => self.remarks.push(format!(
                "crates.io could not be asked which versions are published: {why}"
            )),
            Entry::Release(release) => match release.owner(package.repository.as_deref()) {
                Owner::Others(why) => self.obstacles.push(format!(
                    "crates.io has a {} {}, but {why}",
                    self.package, release.version
                )),
                Owner::Us => {
                    let last: Version = release.version.parse().context(release.version)?;
                    if *new <= last {
                        self.obstacles
                            .push(format!("{last} is published already: {new} is not newer"));
                    }
                }
            },
        }
        if package.repository.is_none() {
            self.remarks.push(format!(
                "the manifest names no `repository`: once {} is published, nothing on crates.io tells that it is ours",
                self.package
            ));
        }
        Ok(())
    }

    fn look_at_needs(
        &mut self,
        package: &Package,
        packages: &[Package],
        look_up: LookUp<'_>,
    ) -> Result<()> {
        for needed in ours(package, packages) {
            let required = package
                .needs()
                .find(|dependency| dependency.name == needed.name)
                .map_or("*", |dependency| &dependency.req);
            let name = &needed.name;
            let requirement: VersionReq = required.parse().with_context(|| required.to_owned())?;
            let found = match look_up(&newest_of(name, &requirement))? {
                Entry::Absent => Err("no such version is published".to_owned()),
                Entry::Unknown(why) => Err(format!("crates.io could not be asked: {why}")),
                Entry::Release(release) => {
                    let version: Version = release.version.parse().context("a version")?;
                    match release.owner(needed.repository.as_deref()) {
                        Owner::Us if requirement.matches(&version) => Ok(version),
                        Owner::Us => Err(format!("the newest published one is {version}")),
                        Owner::Others(why) => {
                            Err(format!("there is a {name} {version}, but {why}"))
                        }
                    }
                }
            };
            match found {
                Ok(version) => self
                    .needs
                    .push(format!("{name} {required}: published as {version}")),
                Err(why) => {
                    self.needs.push(format!("{name} {required}: {why}"));
                    self.obstacles.push(format!(
                        "{name} {required} has to be published before it: `cargo xtask release {name} {}`",
                        needed.version
                    ));
                    self.come_along(needed, packages);
                }
            }
        }
        Ok(())
    }

    /// With all that it needs: what is not published needs what may not be either.
    fn come_along(&mut self, package: &Package, packages: &[Package]) {
        if !self.unpublished.contains(&package.name) {
            self.unpublished.push(package.name.clone());
            for needed in ours(package, packages) {
                self.come_along(needed, packages);
            }
        }
    }

    fn look_at_dependants(&mut self, packages: &[Package]) {
        let broken: Vec<_> = packages
            .iter()
            .filter(|other| {
                let mut needs = other.needs();
                needs.any(|needed| {
                    let taken = needed.req.parse::<VersionReq>();
                    needed.name == self.package && !taken.is_ok_and(|req| req.matches(&self.new))
                })
            })
            .map(|other| other.name.as_str())
            .collect();
        if !broken.is_empty() {
            self.remarks.push(format!(
                "as they are published, {} do not take {}: they need a release of their own after it",
                broken.join(", "),
                self.new
            ));
        }
    }

    fn edit(&mut self, repository: &Path, package: &Package) -> Result<()> {
        let tracked = git(repository, &["ls-files"])?;
        let tracked = BTreeSet::from_iter(tracked.lines().map(PathBuf::from));
        let named = |name: &'static str| {
            let files = tracked.iter().cloned();
            files.filter(move |file| file.file_name().is_some_and(|last| last == name))
        };
        for file in named("Cargo.toml") {
            self.change(repository, file, manifest)?;
        }
        for file in named("Cargo.lock") {
            self.change(repository, file, lock)?;
        }
        // Cargo gives real paths.
        let root = fs::canonicalize(repository)?;
        let directory = fs::canonicalize(package.directory())?;
        let log = directory.join("CHANGELOG.md");
        let file = log.strip_prefix(&root).context("it lies elsewhere")?;
        match fs::read_to_string(&log) {
            Err(error) => self.obstacles.push(format!("{}: {error}", file.display())),
            Ok(before) => match changelog(&before, &self.new) {
                Ok(after) => self.add(file.to_owned(), before, after),
                Err(why) => self.obstacles.push(format!("{} {why}", file.display())),
            },
        }
        Ok(())
    }

    fn change(
        &mut self,
        repository: &Path,
        file: PathBuf,
        edit: impl FnOnce(&str, &str, &Version) -> Result<String>,
    ) -> Result<()> {
        let before = fs::read_to_string(repository.join(&file))
            .with_context(|| file.display().to_string())?;
        let after = edit(&before, &self.package, &self.new)
            .with_context(|| format!("changing {}", file.display()))?;
        self.add(file, before, after);
        Ok(())
    }

    fn add(&mut self, file: PathBuf, before: String, after: String) {
        if before != after {
            self.edits.push(Edit {
                file,
                before,
                after,
            });
        }
    }

    /// Makes the changes in a work tree.
    pub(super) fn apply(&self, repository: &Path) -> Result<()> {
        for edit in &self.edits {
            let path = repository.join(&edit.file);
            fs::write(&path, &edit.after).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// What is left to do when the changes are made.
    pub(super) fn commands(&self) -> Vec<String> {
        let Self {
            package, new, tag, ..
        } = self;
        vec![
            format!("git commit --all --message \"Release {package} {new}\""),
            "cargo xtask verify".to_owned(),
            format!("cargo publish --locked --package {package}"),
            format!("git tag --annotate {tag} --message \"{package} {new}\""),
            format!("git push origin HEAD {tag}"),
        ]
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            package, old, new, ..
        } = self;
        if old == new {
            writeln!(f, "{package} {new}, its first release")?;
        } else {
            writeln!(f, "{package} {old} -> {new}")?;
        }
        writeln!(f, "Tag: {}", self.tag)?;
        writeln!(f, "\nIt needs:")?;
        for line in &self.needs {
            writeln!(f, "  {line}")?;
        }
        if self.needs.is_empty() {
            writeln!(f, "  no other crate of ours")?;
        }
        writeln!(f, "\nChanges:")?;
        for edit in &self.edits {
            for (number, before, after) in edit.lines() {
                writeln!(f, "  {}:{number}", edit.file.display())?;
                writeln!(f, "    - {before}\n    + {after}")?;
            }
        }
        for remark in &self.remarks {
            writeln!(f, "\nNote: {remark}")?;
        }
        Ok(())
    }
}

/// The crates of this workspace that a package needs.
fn ours<'a>(package: &Package, packages: &'a [Package]) -> Vec<&'a Package> {
    let needs: BTreeSet<_> = package.needs().map(|needed| needed.name.as_str()).collect();
    packages
        .iter()
        .filter(|other| needs.contains(other.name.as_str()))
        .collect()
}

/// How to ask for the newest version that a requirement could take: `name@0.3`, `name@1`.
fn newest_of(name: &str, requirement: &VersionReq) -> String {
    match requirement.comparators.first() {
        Some(first) if first.major == 0 => {
            format!("{name}@0.{}", first.minor.unwrap_or_default())
        }
        Some(first) => format!("{name}@{}", first.major),
        None => name.to_owned(),
    }
}

fn git(repository: &Path, arguments: &[&str]) -> Result<String> {
    quietly(Command::new("git").current_dir(repository).args(arguments))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::build::cargo;
    use crate::registry::Release;

    pub(crate) fn write(repository: &Path, file: &str, text: &str) {
        let path = repository.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Two crates, of which `high` needs `low`, committed.
    pub(crate) fn repository() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(
            root,
            "Cargo.toml",
            "[workspace]\nresolver = \"2\"\nmembers = [\"low\", \"high\"]\n",
        );
        for (name, dependencies) in [
            ("low", ""),
            ("high", "low = { path = \"../low\", version = \"0.1.0\" }\n"),
        ] {
            let manifest = format!(
                "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\ndescription = \"A crate\"\nlicense = \"Apache-2.0\"\nrepository = \"https://example.org/ours\"\n\n[dependencies]\n{dependencies}"
            );
            write(root, &format!("{name}/Cargo.toml"), &manifest);
            write(root, &format!("{name}/src/lib.rs"), "//! A crate.\n");
            let log = "# Changelog\n\n## Unreleased\n\nFirst.\n";
            write(root, &format!("{name}/CHANGELOG.md"), log);
        }
        let mut lock = cargo();
        quietly(
            lock.current_dir(root)
                .args(["generate-lockfile", "--offline"]),
        )
        .unwrap();
        git(root, &["init", "--quiet"]).unwrap();
        commit(root);
        directory
    }

    fn commit(root: &Path) {
        git(root, &["add", "--all"]).unwrap();
        let somebody = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
        let commit = ["commit", "--quiet", "--message=all"];
        git(root, &[&somebody[..], &commit[..]].concat()).unwrap();
    }

    /// The registry with these versions of `low`, from this repository.
    fn with(
        versions: &'static [&'static str],
        repository: &'static str,
    ) -> impl Fn(&str) -> Result<Entry> {
        move |spec: &str| {
            let (name, wanted) = spec.split_once('@').unwrap_or((spec, ""));
            let newest = versions.iter().rev().find(|one| one.starts_with(wanted));
            Ok(match newest {
                Some(version) if name == "low" => Entry::Release(Release {
                    version: (*version).to_owned(),
                    repository: Some(repository.to_owned()),
                }),
                _ => Entry::Absent,
            })
        }
    }

    const OURS: &str = "https://example.org/ours";

    fn plan(root: &Path, name: &str, version: &str, look_up: LookUp<'_>) -> Plan {
        Plan::of(root, name, &version.parse().unwrap(), look_up).unwrap()
    }

    fn holds_up(plan: &Plan, what: &str) {
        let all = &plan.obstacles;
        assert!(
            all.iter().any(|obstacle| obstacle.contains(what)),
            "{what}: {all:?}"
        );
    }

    #[test]
    fn a_release_changes_its_version_its_dependants_and_its_change_log() {
        let repository = repository();
        let root = repository.path();
        let plan = plan(root, "low", "0.2.0", &with(&["0.1.0"], OURS));
        assert_eq!(plan.obstacles, [""; 0]);
        assert!(plan.remarks[0].contains("high do not take 0.2.0"));
        assert_eq!(plan.tag, "low-v0.2.0");
        let shown = plan.to_string();
        assert!(
            shown
                .contains("low/Cargo.toml:3\n    - version = \"0.1.0\"\n    + version = \"0.2.0\""),
            "{shown}"
        );
        let untouched = git(root, &["status", "--porcelain"]).unwrap();
        assert_eq!(untouched, "", "looking changed something");
        plan.apply(root).unwrap();
        let changed = git(root, &["diff", "--name-only"]).unwrap();
        let files = [
            "Cargo.lock",
            "high/Cargo.toml",
            "low/CHANGELOG.md",
            "low/Cargo.toml",
        ];
        assert_eq!(Vec::from_iter(changed.lines()), files);
        // Cargo agrees with the lock file.
        assert_eq!(published_in(root).unwrap()[0].version, "0.2.0");
    }

    #[test]
    fn a_first_release_may_keep_its_version() {
        let repository = repository();
        let plan = plan(repository.path(), "low", "0.1.0", &with(&[], OURS));
        assert_eq!(plan.obstacles, [""; 0]);
        assert_eq!(plan.edits.len(), 1, "its change log alone");
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let repository = repository();
        let root = repository.path();
        let none = with(&[], OURS);
        holds_up(&plan(root, "low", "0.1.2", &none), "does not follow 0.1.0");
        holds_up(&plan(root, "low", "0.0.9", &none), "does not follow 0.1.0");
        let one = with(&["0.1.0"], OURS);
        holds_up(
            &plan(root, "low", "0.1.0", &one),
            "0.1.0 is published already",
        );
        let theirs = with(&["0.0.1"], "https://example.org/theirs");
        holds_up(
            &plan(root, "low", "0.1.0", &theirs),
            "crates.io has a low 0.0.1",
        );
        let waits = plan(root, "high", "0.1.0", &none);
        holds_up(&waits, "low ^0.1.0 has to be published before it");
        assert_eq!(waits.unpublished, ["low"]);
        assert_eq!(plan(root, "high", "0.1.0", &one).obstacles, [""; 0]);
        holds_up(
            &plan(root, "high", "0.1.0", &theirs),
            "low ^0.1.0 has to be published",
        );

        write(
            root,
            "low/CHANGELOG.md",
            "# Changelog\n\n## 0.1.0\n\nFirst.\n",
        );
        let both = plan(root, "low", "0.1.1", &one);
        holds_up(&both, "low/CHANGELOG.md has neither a section");
        holds_up(&both, "not committed: low/CHANGELOG.md");
        git(root, &["checkout", "--quiet", "."]).unwrap();
        git(root, &["tag", "low-v0.1.1"]).unwrap();
        holds_up(
            &plan(root, "low", "0.1.1", &one),
            "there is a tag low-v0.1.1",
        );
        let unknown = Plan::of(root, "middle", &Version::new(1, 0, 0), &one);
        assert!(unknown.is_err_and(|error| error.to_string().contains("low, high")));
    }
}
