//! `cargo xtask demo`: the main job, from nothing to pictures.

use crate::context::Context;
use crate::{build, sample, setup};
use anyhow::{bail, Context as _, Result};

use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the picture workflow in all three modes and shows what every hop cost.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A JPEG or PNG of your own instead of the sample
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the pictures go
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    output: PathBuf,
    /// Write what the table says, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const MODES: [&str; 3] = ["user", "kernel", "network"];

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<()> {
    let toolchain = setup::ensure(context)?;
    build::run("building the functions", build::functions(&toolchain))?;
    let program = build::program()?;
    let input = match &arguments.input {
        Some(input) => input.clone(),
        None => sample_picture()?,
    };
    let output = std::path::absolute(&arguments.output)?;
    std::fs::create_dir_all(&output).with_context(|| format!("making {}", output.display()))?;
    let json = match &arguments.json {
        Some(json) => std::path::absolute(json)?,
        None => output.join("demo.json"),
    };
    let mut run = Command::new(&program);
    run.arg("run")
        .arg(build::root().join("roadrunner-wasmedge/functions/thumbnails.toml"))
        .arg("--input")
        .arg(std::path::absolute(&input)?)
        .arg("--output")
        .arg(&output)
        .arg("--json")
        .arg(&json)
        // What would run between two hosts; on loopback, left to itself, it would write, which was measured to be faster there.
        .args(["--network-method", "splice"]);
    for mode in MODES {
        run.args(["--mode", mode]);
    }
    let status = run
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    if !status.success() {
        bail!("the demo failed: see above");
    }
    compare(&json)?;
    println!(
        "\nThe same bytes in all three modes. Pictures: {}/{{{}}}\nFigures:  {}",
        output.display(),
        MODES.join(","),
        json.display()
    );
    Ok(())
}

/// The sample, drawn once.
fn sample_picture() -> Result<PathBuf> {
    let path = build::root().join("target/demo/sample.jpg");
    if !path.is_file() {
        eprintln!("drawing a sample picture of {} pixels width", sample::WIDTH);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let half = path.with_extension("half.jpg");
        sample::write(&half).with_context(|| format!("writing {}", half.display()))?;
        std::fs::rename(&half, &path)?;
    }
    Ok(path)
}

/// Every output must be the same in the three modes; the JSON says so if it is not.
fn compare(json: &Path) -> Result<()> {
    let text = std::fs::read_to_string(json)?;
    let mut report: Value = serde_json::from_str(&text)?;
    let different = different(&report);
    if different.is_empty() {
        return Ok(());
    }
    let message = format!("not the same in all modes: {}", different.join(", "));
    report["ok"] = json!(false);
    report["error"] = json!(message);
    std::fs::write(json, serde_json::to_string_pretty(&report)?)?;
    bail!(message)
}

/// The outputs that are not there with the same hash in every mode.
fn different(report: &Value) -> Vec<String> {
    let mut hashes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for output in report["outputs"].as_array().into_iter().flatten() {
        let (function, hash) = (output["function"].as_str(), output["sha256"].as_str());
        if let (Some(function), Some(hash)) = (function, hash) {
            hashes.entry(function).or_default().push(hash);
        }
    }
    hashes
        .into_iter()
        .filter(|(_, hashes)| {
            hashes.len() != MODES.len() || hashes.iter().any(|hash| *hash != hashes[0])
        })
        .map(|(function, _)| function.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_differs_or_is_missing_in_a_mode_is_found() {
        let outputs = |hashes: &[(&str, &str)]| {
            let rows: Vec<_> = hashes
                .iter()
                .map(|(function, hash)| json!({ "function": function, "sha256": hash }))
                .collect();
            different(&json!({ "outputs": rows }))
        };
        assert!(outputs(&[("a", "1"), ("a", "1"), ("a", "1")]).is_empty());
        assert_eq!(outputs(&[("a", "1"), ("a", "2"), ("a", "1")]), ["a"]);
        assert_eq!(outputs(&[("a", "1"), ("a", "1")]), ["a"]);
    }
}
