//! Debian packages unpacked into a directory of our own: no root, and nothing of the machine's own packages changes.
//!
//! `apt-get` runs with private lists and caches and, for a newer suite, with an empty status file, so that it resolves a
//! whole closure down to libc. It checks signatures and hashes as always.

mod mirrors;

pub(crate) use mirrors::codename;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};

use crate::command;
use crate::context::Context;
use crate::talk::{megabytes, Step};
use mirrors::mirrors;

const RESOLVE_LIMIT: Duration = Duration::from_secs(120);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(3600);

/// Path patterns that nothing here ever needs.
pub(crate) const CHAFF: &[&str] = &["./usr/share", "./etc", "./var"];

/// A package and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// apt with state of its own, for one suite of one mirror.
pub(crate) struct Apt {
    dir: PathBuf,
    suite: String,
    status: PathBuf,
}

impl Apt {
    /// Fetches the package lists of `suite` into `dir`, from the first mirror of this machine that has them.
    ///
    /// `status` is the dpkg status that closures are resolved against: `/dev/null` for a closure down to libc, the machine's
    /// own for what the machine lacks.
    pub(crate) fn open(context: &Context, dir: PathBuf, suite: &str, status: &Path) -> Result<Apt> {
        let mirrors = mirrors(context)?;
        let mut last = None;
        for mirror in &mirrors {
            match Apt::fetch_lists(context, &dir, mirror, suite, status) {
                Ok(apt) => return Ok(apt),
                Err(error) => last = Some(error.context(format!("Debian {suite} from {mirror}"))),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("apt has no Debian mirror among its sources")))
    }

    fn fetch_lists(
        context: &Context,
        dir: &Path,
        mirror: &str,
        suite: &str,
        status: &Path,
    ) -> Result<Apt> {
        for part in ["lists/partial", "cache/archives/partial", "state"] {
            fs::create_dir_all(dir.join(part))
                .with_context(|| format!("cannot create {part} in {}", dir.display()))?;
        }
        let signed_by = ["archive-keyring.gpg", "archive-keyring.pgp"]
            .iter()
            .map(|name| format!("/usr/share/keyrings/debian-{name}"))
            .find(|path| context.machine(path).exists())
            .map(|path| format!("[signed-by={path}] "))
            .unwrap_or_default();
        fs::write(
            dir.join("sources.list"),
            format!("deb {signed_by}{mirror} {suite} main\n"),
        )
        .context("cannot write the private apt source list")?;
        let apt = Apt {
            dir: dir.to_owned(),
            suite: suite.to_owned(),
            status: status.to_owned(),
        };
        command::output(
            apt.get("update")
                .args(["-o", "APT::Update::Error-Mode=any"]),
            RESOLVE_LIMIT,
            || {},
        )?;
        Ok(apt)
    }

    /// `apt-get` told to use nothing but our own state.
    fn get(&self, task: &str) -> Command {
        self.with_own_state("apt-get", task)
    }

    fn with_own_state(&self, program: &str, task: &str) -> Command {
        let mut command = Command::new(program);
        command.args([task, "-q"]);
        let dir = |part: &str| self.dir.join(part).into_os_string();
        for (option, value) in [
            ("Dir::State", dir("state")),
            ("Dir::State::Lists", dir("lists")),
            ("Dir::State::status", self.status.clone().into_os_string()),
            ("Dir::Cache", dir("cache")),
            ("Dir::Etc::sourcelist", dir("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("Dir::Etc::preferences", "/dev/null".into()),
            ("Dir::Etc::preferencesparts", "/dev/null".into()),
        ] {
            let mut setting = std::ffi::OsString::from(option);
            setting.push("=");
            setting.push(value);
            command.arg("-o").arg(setting);
        }
        for setting in [
            // Lists that nobody reads here: translations, component metadata, file indexes, differences.
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
            "Acquire::PDiffs=false",
            "Acquire::GzipIndexes=true",
            "Acquire::Retries=1",
            "Acquire::http::Timeout=15",
            "Acquire::https::Timeout=15",
            // As root, apt would try to download as a user who cannot reach the cache.
            "APT::Sandbox::User=root",
            "APT::Install-Recommends=false",
            "APT::Get::AllowUnauthenticated=false",
        ] {
            command.args(["-o", setting]);
        }
        command.env("LC_ALL", "C");
        command
    }

    /// The suite that the lists are from.
    pub(crate) fn suite(&self) -> &str {
        &self.suite
    }

    /// The version of `package` that the suite carries.
    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let shown = command::output(
            self.with_own_state("apt-cache", "show")
                .args(["--no-all-versions", package]),
            RESOLVE_LIMIT,
            || {},
        )?;
        match field(&shown, "Version") {
            Some(version) => Ok(version.to_owned()),
            None => bail!("Debian {} has no package {package}", self.suite),
        }
    }

    /// What apt would have to install so that `packages` work.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<Vec<Package>> {
        let plan = command::output(
            self.get("install").arg("--simulate").args(packages),
            RESOLVE_LIMIT,
            || {},
        )?;
        let closure = parse_plan(&plan);
        ensure!(
            !closure.is_empty(),
            "apt plans to install nothing for {}",
            packages.join(", ")
        );
        Ok(closure)
    }

    /// The number in the name of the first package that `package` depends on and that is named `<before>N<after>`.
    pub(crate) fn major_of(&self, package: &str, before: &str, after: &str) -> Result<u32> {
        let shown = command::output(
            self.with_own_state("apt-cache", "show")
                .args(["--no-all-versions", package]),
            RESOLVE_LIMIT,
            || {},
        )?;
        let depends = field(&shown, "Depends").unwrap_or_default();
        let mut names = depends
            .split([',', '|'])
            .filter_map(|name| name.split_whitespace().next());
        names
            .find_map(|name| name.strip_prefix(before)?.strip_suffix(after)?.parse().ok())
            .with_context(|| {
                format!(
                    "{package} of Debian {} does not depend on {before}N{after}",
                    self.suite
                )
            })
    }

    /// The number in the name of the first package in the closure of `packages` that is named `<before>N`.
    pub(crate) fn major_of_closure(&self, packages: &[&str], before: &str) -> Result<u32> {
        let closure = self.closure(packages)?;
        closure
            .iter()
            .find_map(|package| package.name.strip_prefix(before)?.parse().ok())
            .with_context(|| {
                format!(
                    "{} of Debian {} needs no {before}N",
                    packages.join(", "),
                    self.suite
                )
            })
    }

    /// Downloads each package, unpacks it below `into` and removes the archive. Gives the number of bytes downloaded.
    ///
    /// Paths that match one of `excluded` (patterns of GNU tar, matched with their leading `./`) are not unpacked.
    pub(crate) fn unpack(
        &self,
        packages: &[Package],
        into: &Path,
        excluded: &[&str],
        step: &Step,
    ) -> Result<u64> {
        let archives = self.dir.join("archives");
        fs::create_dir_all(&archives)
            .with_context(|| format!("cannot create {}", archives.display()))?;
        let wanted = || {
            packages
                .iter()
                .map(|package| format!("{}={}", package.name, package.version))
        };
        let uris = command::output(
            self.get("download")
                .arg("--print-uris")
                .args(wanted())
                .current_dir(&archives),
            RESOLVE_LIMIT,
            || {},
        )?;
        let total = sum_of_sizes(&uris);
        let mut looks = 0_u32;
        command::output(
            self.get("download").args(wanted()).current_dir(&archives),
            DOWNLOAD_LIMIT,
            || {
                // Ten looks a second would be as good as fifty.
                looks = looks.wrapping_add(1);
                if looks.is_multiple_of(10) {
                    let so_far = super::cache::size_on_disk(&archives).min(total);
                    step.progress(&format!(
                        "downloaded {} of {}",
                        megabytes(so_far),
                        megabytes(total)
                    ));
                }
            },
        )?;
        let mut downloaded = 0;
        for entry in fs::read_dir(&archives)
            .with_context(|| format!("cannot list {}", archives.display()))?
        {
            let archive = entry.context("cannot list the downloaded packages")?;
            downloaded += archive.metadata().map_or(0, |metadata| metadata.len());
            let path = archive.path();
            step.progress(&format!(
                "unpacking {}",
                archive.file_name().to_string_lossy()
            ));
            unpack_one(&path, into, excluded)?;
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(downloaded)
    }
}

fn unpack_one(archive: &Path, into: &Path, excluded: &[&str]) -> Result<()> {
    let mut reader = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run `dpkg-deb`")?;
    let Some(contents) = reader.stdout.take() else {
        bail!("`dpkg-deb` has no output")
    };
    let written = Command::new("tar")
        .args([
            "--extract",
            "--file=-",
            "--no-same-owner",
            "--wildcards",
            "--touch",
        ])
        .args(
            excluded
                .iter()
                .map(|pattern| format!("--exclude={pattern}")),
        )
        .arg("--directory")
        .arg(into)
        .stdin(contents)
        .output()
        .context("cannot run `tar`")?;
    let read = reader.wait().context("cannot wait for `dpkg-deb`")?;
    let complaint = String::from_utf8_lossy(&written.stderr);
    ensure!(
        read.success() && written.status.success(),
        "cannot unpack {}: {}",
        archive.display(),
        complaint.lines().next().unwrap_or("`dpkg-deb` failed")
    );
    Ok(())
}

/// `Inst name [old] (version suite [architecture]) []` lines of a simulated installation.
fn parse_plan(plan: &str) -> Vec<Package> {
    plan.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("Inst ")?;
            let (name, rest) = rest.split_once(' ')?;
            let (_, rest) = rest.split_once('(')?;
            let (version, _) = rest.split_once(' ')?;
            Some(Package {
                name: name.to_owned(),
                version: version.to_owned(),
            })
        })
        .collect()
}

/// Sum of the sizes in `'uri' file size hash` lines.
fn sum_of_sizes(uris: &str) -> u64 {
    uris.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

fn field<'a>(shown: &'a str, name: &str) -> Option<&'a str> {
    shown
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A Debian version without epoch and without Debian's own revision.
pub(crate) fn upstream_version(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version
        .rsplit_once('-')
        .map_or(version, |(upstream, _)| upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_with_and_without_an_installed_version() {
        let plan = "NOTE: This is only a simulation!\n\
                    Inst libc6 (2.43-7 Debian:testing [amd64])\n\
                    Inst libgcc-s1 (16.2.0-3 Debian:testing [amd64]) []\n\
                    Inst zlib1g [1:1.2] (1:1.3.dfsg-3 Debian:testing [amd64])\n\
                    Conf libc6 (2.43-7 Debian:testing [amd64])\n";
        let names: Vec<_> = parse_plan(plan)
            .into_iter()
            .map(|p| (p.name, p.version))
            .collect();
        assert_eq!(
            names,
            [
                ("libc6".to_owned(), "2.43-7".to_owned()),
                ("libgcc-s1".to_owned(), "16.2.0-3".to_owned()),
                ("zlib1g".to_owned(), "1:1.3.dfsg-3".to_owned()),
            ]
        );
    }

    #[test]
    fn sizes_are_summed_and_other_lines_ignored() {
        let uris = "Reading package lists...\n\
                    'http://mirror.example/a.deb' a_1.deb 100 SHA256:00\n\
                    'http://mirror.example/b.deb' b_1.deb 23 SHA256:00\n";
        assert_eq!(sum_of_sizes(uris), 123);
    }

    #[test]
    fn upstream_versions_lose_epoch_and_revision() {
        assert_eq!(upstream_version("0.17.1-1+b1"), "0.17.1");
        assert_eq!(upstream_version("1:22.1.8-1+b2"), "22.1.8");
        assert_eq!(upstream_version("0.17.1"), "0.17.1");
    }
}
