//! What crates.io has of a crate, asked by way of cargo, wherever that looks for crates.io.

use std::process::{Command, Output};

use anyhow::{Context as _, Result};

use crate::command::last_line;

/// What there is under a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Absent,
    Release(Release),
    /// Cargo could not look; what it said.
    Unknown(String),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) version: String,
    pub(crate) repository: Option<String>,
}

/// The newest release of a crate, or of those versions that `name@1` or `name@0.3` leave.
pub(crate) fn look_up(spec: &str) -> Result<Entry> {
    // Elsewhere, or cargo tells what it finds in the workspace.
    let elsewhere = tempfile::tempdir()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(elsewhere.path())
        .args(["info", "--registry=crates-io", "--color=never", spec])
        .output()
        .context("cannot start `cargo info`")?;
    Ok(understand(&output))
}

fn understand(output: &Output) -> Entry {
    let (said, complaint) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key));
    if let (true, Some(version)) = (output.status.success(), value("version: ")) {
        return Entry::Release(Release {
            // Followed by the newest one in brackets, where that is another.
            version: version.split(' ').next().unwrap_or_default().to_owned(),
            repository: value("repository: ").map(str::to_owned),
        });
    }
    if complaint.contains("error: could not find `") {
        return Entry::Absent;
    }
    Entry::Unknown(last_line(&complaint).to_owned())
}

/// Whose a release is: ours if both name the same repository.
pub(crate) enum Owner {
    Us,
    Others(String),
}

impl Release {
    pub(crate) fn owner(&self, our_repository: Option<&str>) -> Owner {
        let plain = |url: &str| {
            let url = url.trim_end_matches('/').trim_end_matches(".git");
            url.to_lowercase()
        };
        match (our_repository, &self.repository) {
            (Some(ours), Some(theirs)) if plain(ours) == plain(theirs) => Owner::Us,
            (Some(ours), theirs) => Owner::Others(format!(
                "its repository is {}, and ours {ours}",
                theirs.as_deref().unwrap_or("not named")
            )),
            (None, _) => Owner::Others(
                "our manifest names no `repository` by which to tell that it is ours".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn said(code: i32, stdout: &str, stderr: &str) -> Entry {
        understand(&Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
    }

    #[test]
    fn what_cargo_says_is_understood() {
        let found = "thing #tag\nSomething\nversion: 1.0.5 (latest 1.2.0)\nrepository: https://example.org/thing\n";
        let release = Release {
            version: "1.0.5".to_owned(),
            repository: Some("https://example.org/thing".to_owned()),
        };
        assert_eq!(said(0, found, ""), Entry::Release(release));
        let absent = "    Updating index\nerror: could not find `thing@9` in registry `x`\n";
        assert_eq!(said(101, "", absent), Entry::Absent);
        let cut_off = "error: download of config.json failed\n\nCaused by:\n  [7] no server\n";
        let Entry::Unknown(why) = said(101, "", cut_off) else {
            panic!("an answer without a network");
        };
        assert_eq!(why, "[7] no server");
    }

    #[test]
    fn a_crate_of_the_same_name_is_not_ours() {
        let release = |repository: Option<&str>| Release {
            version: "1.0.0".to_owned(),
            repository: repository.map(str::to_owned),
        };
        let ours = Some("https://example.org/us/thing");
        let owner = |theirs, ours| release(theirs).owner(ours);
        assert!(matches!(owner(ours, ours), Owner::Us));
        let same = Some("https://example.org/us/Thing.git/");
        assert!(matches!(owner(same, ours), Owner::Us));
        let other = Some("https://example.org/them/thing");
        assert!(matches!(owner(other, ours), Owner::Others(_)));
        assert!(matches!(owner(None, ours), Owner::Others(_)));
        // As long as we say of none that it is ours, none is.
        assert!(matches!(owner(None, None), Owner::Others(_)));
        assert!(matches!(owner(ours, None), Owner::Others(_)));
    }
}
