//! The crates that are published, as cargo sees them.

use super::quietly;
use crate::build::cargo;
use anyhow::{bail, Context as _, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A crate of this workspace that is published.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) features: BTreeMap<String, Vec<String>>,
    pub(crate) description: Option<String>,
    pub(crate) license: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) readme: Option<PathBuf>,
    pub(crate) rust_version: Option<String>,
    pub(crate) keywords: Vec<String>,
    pub(crate) categories: Vec<String>,
    publish: Option<Vec<String>>,
    /// What the manifest says to other tools.
    metadata: Option<Metadata>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    cargo_check_external_types: Option<ExternalTypes>,
}

/// The form of the tool cargo-check-external-types, which others use for the same.
#[derive(Debug, Deserialize)]
struct ExternalTypes {
    allowed_external_types: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev`, `build`, or nothing for an ordinary one.
    pub(crate) kind: Option<String>,
    /// `*` where the manifest says no version.
    pub(crate) req: String,
    pub(crate) path: Option<PathBuf>,
    pub(crate) optional: bool,
}

impl Package {
    /// Where its manifest lies.
    pub(crate) fn directory(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }

    /// Dependencies that users get: not those of tests alone.
    pub(crate) fn needs(&self) -> impl Iterator<Item = &Dependency> {
        self.dependencies
            .iter()
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
    }

    /// What its library is called in code.
    pub(crate) fn library(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Types of third parties that its manifest allows in its public signatures.
    pub(crate) fn allowed_external_types(&self) -> &[String] {
        let types = self.metadata.as_ref();
        types
            .and_then(|metadata| metadata.cargo_check_external_types.as_ref())
            .map_or(&[], |types| &types.allowed_external_types)
    }

    pub(crate) fn needs_wasmedge(&self) -> bool {
        self.needs()
            .any(|dependency| dependency.name == "wasmedge-sys")
    }
}

/// Every package of a workspace that is published, each after those that it depends on.
pub(crate) fn published_in(workspace: &Path) -> Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Workspace {
        packages: Vec<Package>,
    }
    let mut metadata = cargo();
    metadata.current_dir(workspace);
    let text = quietly(metadata.args(["metadata", "--format-version=1", "--no-deps", "--locked"]))?;
    let workspace: Workspace = serde_json::from_str(&text).context("what `cargo metadata` said")?;
    let unpublished = |package: &Package| package.publish.as_deref() == Some(&[]);
    let mut rest = workspace.packages;
    rest.retain(|package| !unpublished(package));
    let mut ordered: Vec<Package> = Vec::new();
    while !rest.is_empty() {
        let waits = |package: &Package| {
            package
                .needs()
                .any(|needed| rest.iter().any(|other| other.name == needed.name))
        };
        let Some(next) = rest.iter().position(|package| !waits(package)) else {
            bail!("the published crates depend on each other in a circle");
        };
        ordered.push(rest.remove(next));
    }
    Ok(ordered)
}
