//! Cargo's tools that the runner needs now and then: built from crates.io once, into the cache that all clones share.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::command;
use crate::context::Context;
use crate::talk::Talk;

/// A program that `cargo install` builds. The version is fixed, so that everybody gets the same answers.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
}

pub(crate) const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
};
pub(crate) const MUTANTS: Tool = Tool {
    name: "cargo-mutants",
    version: "27.1.0",
};
pub(crate) const SEMVER_CHECKS: Tool = Tool {
    name: "cargo-semver-checks",
    version: "0.51.0",
};

/// How long a build may take, on a machine that is slow and busy.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Where tools are.
pub(crate) struct Tools {
    directory: PathBuf,
    talk: Talk,
}

impl Tools {
    pub(crate) fn of(context: &Context) -> Self {
        Self {
            directory: context.cache.join("tools"),
            talk: context.talk,
        }
    }

    /// The tool, ready to be given arguments. Builds it if neither the machine nor the cache has this version.
    ///
    /// # Errors
    ///
    /// Where it cannot be built: most often, because the registry is out of reach.
    pub(crate) fn command(&self, tool: &Tool) -> Result<Command> {
        let Tool { name, version } = tool;
        let said = Command::new(name).arg("--version").output();
        let has = |output: std::process::Output| {
            String::from_utf8_lossy(&output.stdout).trim() == format!("{name} {version}")
        };
        if said.is_ok_and(has) {
            return Ok(Command::new(name));
        }
        let root = self.directory.join(format!("{name}-{version}"));
        let program = root.join("bin").join(name);
        if !program.is_file() {
            self.install(tool, &root)
                .with_context(|| format!("cannot install {name} {version}"))?;
        }
        Ok(Command::new(program))
    }

    fn install(&self, Tool { name, version }: &Tool, root: &PathBuf) -> Result<()> {
        std::fs::create_dir_all(&self.directory)
            .with_context(|| self.directory.display().to_string())?;
        let step = self.talk.step(format!(
            "building {name} {version}, some minutes and only once"
        ));
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut install = Command::new(cargo);
        install
            // Outside of the clone: its cargo configuration is not for tools.
            .current_dir(&self.directory)
            .args(["install", "--locked", "--quiet", "--root"])
            .arg(root)
            .arg(format!("{name}@{version}"));
        command::output(&mut install, PATIENCE, || {})?;
        step.done("ready");
        Ok(())
    }
}
