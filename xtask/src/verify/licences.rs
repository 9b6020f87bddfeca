//! What the dependencies may be: `deny.toml` says it, and cargo-deny looks.

use super::{quietly, Outcome, Scene};
use crate::build::root;
use crate::command::last_line;
use crate::tools::DENY;
use anyhow::{bail, Context as _, Result};
use std::process::Command;

/// What depends on others' crates: this workspace, and that of the functions.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "roadrunner-wasmedge/functions/Cargo.toml"];
/// What cargo-deny says where it cannot get the list of known faults.
const NO_DATABASE: &str = "failed to fetch advisory database";

pub(super) fn dependencies(scene: &Scene) -> Result<Outcome> {
    // Once, for its building takes long.
    if let Err(error) = scene.tools.command(&DENY) {
        return Ok(Outcome::Skipped(format!("{error:#}")));
    }
    let (mut good, mut left_out) = (Vec::new(), Vec::new());
    for manifest in MANIFESTS {
        let mut deny = deny(scene, manifest)?;
        quietly(deny.args(["--locked", "check", "licenses", "sources", "bans"]))?;
        good.push(format!("licences, sources and bans of {manifest}"));
        match advisories(scene, manifest)? {
            None => good.push(format!("advisories for {manifest}")),
            Some(why) => left_out.push(format!("advisories for {manifest}: {why}")),
        }
    }
    Ok(Outcome::of(good, left_out))
}

fn deny(scene: &Scene, manifest: &str) -> Result<Command> {
    let mut deny = scene.tools.command(&DENY)?;
    deny.current_dir(root())
        .args(["--color=never", "--config=deny.toml", "--manifest-path"])
        .arg(manifest);
    Ok(deny)
}

/// Looks for known faults; or says why it could not.
fn advisories(scene: &Scene, manifest: &str) -> Result<Option<String>> {
    let output = deny(scene, manifest)?
        .args(["check", "advisories"])
        .output()
        .context("cannot start cargo-deny")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(None);
    }
    if said.contains(NO_DATABASE) {
        let why = last_line(&said);
        return Ok(Some(format!("the advisory database cannot be had: {why}")));
    }
    bail!("advisories for {manifest}:\n{said}")
}
