//! What the manifests promise.

use super::{Outcome, Package, Scene};
use anyhow::{bail, Result};

/// Which crates of this workspace each one may depend on.
const LAYERS: [(&str, &[&str]); 6] = [
    ("roadrunner-core", &[]),
    ("roadrunner-guest", &[]),
    ("roadrunner-mem", &["roadrunner-core"]),
    ("roadrunner-uds", &["roadrunner-core", "roadrunner-mem"]),
    ("roadrunner-splice", &["roadrunner-core", "roadrunner-mem"]),
    (
        "roadrunner-wasmedge",
        &[
            "roadrunner-core",
            "roadrunner-mem",
            "roadrunner-uds",
            "roadrunner-splice",
        ],
    ),
];

/// Who alone may know WasmEdge.
const ADAPTER: &str = "roadrunner-wasmedge";

pub(super) fn layers(scene: &Scene) -> Result<Outcome> {
    let mut wrong = Vec::new();
    for package in &scene.packages {
        let name = &package.name;
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| layer == name) else {
            bail!("{name} is published and has no layer; say in this check where it belongs");
        };
        for needed in package.needs() {
            let ours = LAYERS.iter().any(|(layer, _)| *layer == needed.name);
            if ours && !allowed.contains(&needed.name.as_str()) {
                wrong.push(format!("{name} depends on {}", needed.name));
            }
            if needed.name.contains("wasmedge") && name != ADAPTER {
                wrong.push(format!("{name} knows WasmEdge: {}", needed.name));
            }
        }
    }
    report(wrong, format!("{} crates", scene.packages.len()))
}

pub(super) fn complete(scene: &Scene) -> Result<Outcome> {
    let mut wrong = Vec::new();
    for package in &scene.packages {
        wrong.extend(
            missing(package)
                .into_iter()
                .map(|what| format!("{}: {what}", package.name)),
        );
    }
    report(wrong, format!("{} crates", scene.packages.len()))
}

fn missing(package: &Package) -> Vec<String> {
    let mut missing = Vec::new();
    let mut need = |there: bool, what: &str| {
        if !there {
            missing.push(what.to_owned());
        }
    };
    let file = |name: &str| package.directory().join(name).is_file();
    need(package.description.is_some(), "no description");
    need(
        package.license.as_deref() == Some("Apache-2.0"),
        "its licence is not Apache-2.0",
    );
    need(package.rust_version.is_some(), "no rust-version");
    need(
        !package.keywords.is_empty() && package.keywords.len() <= 5,
        "no keywords, or more than 5",
    );
    need(!package.categories.is_empty(), "no categories");
    need(
        package.readme.is_some() && file("README.md"),
        "no README.md",
    );
    need(
        file("LICENSE"),
        "no LICENSE in its directory, so none in its package",
    );
    let log = std::fs::read_to_string(package.directory().join("CHANGELOG.md")).unwrap_or_default();
    need(
        log.contains(&format!("## {}", package.version)) || log.contains("## Unreleased"),
        "no CHANGELOG.md with a heading for this version",
    );
    for dependency in package.dependencies.iter().filter(|one| one.path.is_some()) {
        let dev = dependency.kind.as_deref() == Some("dev");
        if dev != (dependency.req == "*") {
            missing.push(format!(
                "its {}dependency on {} has {} version",
                if dev { "development " } else { "" },
                dependency.name,
                if dev { "a" } else { "no" },
            ));
        }
    }
    missing
}

pub(super) fn report(wrong: Vec<String>, good: String) -> Result<Outcome> {
    if wrong.is_empty() {
        return Ok(Outcome::Good(good));
    }
    bail!("{}", wrong.join("; "))
}
