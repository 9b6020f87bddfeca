//! Whether what users have still compiles with what comes next.

use super::{quietly, Outcome, Scene};
use crate::build::root;
use crate::registry::{look_up, Entry, Owner};
use crate::tools::SEMVER_CHECKS;
use anyhow::Result;

pub(super) fn last_release(scene: &Scene) -> Result<Outcome> {
    let (mut compared, mut left_out) = (Vec::new(), Vec::new());
    for package in &scene.packages {
        let name = &package.name;
        let release = match look_up(name)? {
            Entry::Release(release) => release,
            Entry::Absent => {
                left_out.push(format!("{name} was never published"));
                continue;
            }
            Entry::Unknown(why) => {
                left_out.push(format!("crates.io could not be asked for {name}: {why}"));
                continue;
            }
        };
        let version = &release.version;
        if let Owner::Others(why) = release.owner(package.repository.as_deref()) {
            left_out.push(format!("crates.io has a {name} {version}, but {why}"));
            continue;
        }
        if let (true, Some(why)) = (package.needs_wasmedge(), &scene.without_wasmedge) {
            left_out.push(format!("{name}: {why}"));
            continue;
        }
        let mut command = match scene.tools.command(&SEMVER_CHECKS) {
            Ok(command) => command,
            Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
        };
        command
            .current_dir(root())
            .args(["semver-checks", "--package", name])
            .args(["--baseline-version", version]);
        quietly(&mut command)?;
        compared.push(format!("{name} with {version}"));
    }
    Ok(Outcome::of(compared, left_out))
}
