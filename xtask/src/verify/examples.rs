//! The fixtures are real programs; the documentation shows a part of each.

use super::manifests::report;
use super::{Outcome, Scene};
use crate::build::root;
use anyhow::{Context as _, Result};
use std::fs;

/// A fixture, and the crate whose README shows it.
const SHOWN: [(&str, &str); 3] = [
    ("plain", "roadrunner-uds"),
    ("wasmi", "roadrunner-core"),
    ("wasmtime", "roadrunner-mem"),
];

pub(super) fn same(_scene: &Scene) -> Result<Outcome> {
    let mut wrong = Vec::new();
    for (fixture, package) in SHOWN {
        let read = |path: String| fs::read_to_string(root().join(&path)).context(path);
        let program = read(format!("xtask/fixtures/{fixture}/src/main.rs"))?;
        let readme = read(format!("{package}/README.md"))?;
        let example = between(&program, "// [example]\n", "// [/example]")
            .with_context(|| format!("fixture {fixture} does not mark its example"))?;
        if !readme.contains(example) {
            wrong.push(format!(
                "{package}/README.md does not show the example of xtask/fixtures/{fixture}/src/main.rs as it is"
            ));
        }
    }
    report(wrong, format!("{} examples", SHOWN.len()))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inner, _)| inner)
}
