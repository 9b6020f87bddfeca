//! Which tests of a package hold for whatever input: what `proptest!` wraps, and the histories of the conformance suite.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::build::{cargo, root};

/// What `conformance!` calls the test that follows histories.
const HISTORIES: &str = "histories_follow_a_queue";
/// The package that is not built without WasmEdge.
const WITH_WASMEDGE: &str = "roadrunner-wasmedge";

/// The properties of one package.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) package: String,
    pub(super) manifest: PathBuf,
    /// Names of the test functions, without their modules.
    pub(super) properties: BTreeSet<String>,
}

impl Suite {
    pub(super) fn needs_wasmedge(&self) -> bool {
        self.package == WITH_WASMEDGE
    }

    /// Whether libtest's name of a test, modules and all, is one of these properties.
    pub(super) fn has(&self, test: &str) -> bool {
        let name = test.rsplit("::").next().unwrap_or(test);
        self.properties.contains(name)
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}

/// The packages of a workspace that have properties, in cargo's order.
pub(super) fn suites(manifest: &Path) -> Result<Vec<Suite>> {
    let mut metadata = cargo();
    metadata
        .args(["metadata", "--no-deps", "--format-version=1", "--locked"])
        .arg("--manifest-path")
        .arg(root().join(manifest));
    let output = metadata.output().context("starting cargo metadata")?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "reading cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let folders: Vec<_> = metadata
        .packages
        .iter()
        .filter_map(|package| package.manifest_path.parent())
        .map(Path::to_owned)
        .collect();
    let mut suites = Vec::new();
    for package in metadata.packages {
        let Some(folder) = package.manifest_path.parent() else {
            continue;
        };
        let mut properties = BTreeSet::new();
        for part in ["src", "tests"] {
            collect(&folder.join(part), &folders, &mut properties)?;
        }
        if !properties.is_empty() {
            suites.push(Suite {
                package: package.name,
                manifest: package.manifest_path,
                properties,
            });
        }
    }
    Ok(suites)
}

/// Adds the properties in the sources below `folder`, other packages left out.
fn collect(folder: &Path, packages: &[PathBuf], into: &mut BTreeSet<String>) -> Result<()> {
    if !folder.is_dir() || packages.iter().any(|package| package == folder) {
        return Ok(());
    }
    let entries = std::fs::read_dir(folder);
    for entry in entries.with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, packages, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path);
            into.extend(properties(
                &source.with_context(|| format!("reading {}", path.display()))?,
            ));
        }
    }
    Ok(())
}

/// The properties in one source, as rustfmt leaves it: a block ends where a brace stands under the line that opened it.
fn properties(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut end = None;
    for line in source.lines() {
        let code = line.trim_start();
        let indentation = line.len() - code.len();
        match end {
            None if code == "proptest! {" => end = Some(indentation),
            None if code.starts_with("conformance!(") => found.push(HISTORIES.to_owned()),
            Some(opened) if code == "}" && indentation == opened => end = None,
            Some(_) => found.extend(function(code)),
            None => {}
        }
    }
    found
}

/// The name in `fn name(`.
fn function(code: &str) -> Option<String> {
    let (name, _) = code.strip_prefix("fn ")?.split_once('(')?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_what_proptest_wraps_and_histories() {
        // Not under its real names, for this file is read too.
        let source = "\
#[test]
fn an_example() {}
CONFORMANCE(copy, Threads);
mod tests {
    PROPTEST {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Why.
        #[test]
        fn whatever_comes(a: u8,
            b in 0..4) {
            let inner = { 1 };
        }

        #[test]
        fn again(b: bool) { }
    }
    fn helper() {}
}
"
        .replace("CONFORMANCE", "conformance!")
        .replace("PROPTEST", "proptest!");
        let found = properties(&source);
        assert_eq!(found, [HISTORIES, "whatever_comes", "again"]);
    }

    #[test]
    fn a_test_is_known_by_the_last_part_of_its_name() {
        let suite = Suite {
            package: "p".to_owned(),
            manifest: PathBuf::new(),
            properties: BTreeSet::from(["again".to_owned()]),
        };
        assert!(suite.has("tests::inner::again") && suite.has("again"));
        assert!(!suite.has("tests::never_again") && !suite.has("again::other"));
    }

    #[test]
    fn this_repository_has_properties_of_frames_regions_and_links() {
        let suites = suites(Path::new("Cargo.toml")).unwrap();
        let of = |package: &str| {
            let suite = suites.iter().find(|suite| suite.package == package);
            &suite.unwrap_or_else(|| panic!("{package}")).properties
        };
        assert!(of("roadrunner-core").contains("a_header_survives_the_stream"));
        assert!(of("roadrunner-core").contains("a_region_fits_exactly_when_its_end_does"));
        for transport in ["roadrunner-mem", "roadrunner-uds", "roadrunner-splice"] {
            assert!(of(transport).contains(HISTORIES), "{transport}");
        }
    }
}
