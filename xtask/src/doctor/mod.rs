//! What this machine offers. Probes are real calls; nothing is installed.

mod kernel;
mod machine;

use std::io::Write;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::setup;
use crate::talk::megabytes;

#[derive(Args)]
pub(crate) struct Options {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// How a line of the report stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Standing {
    /// Tried, and it works.
    Works,
    /// Tried or looked for, and it does not.
    Missing,
    /// A value to know, neither good nor bad.
    Fact,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    standing: Standing,
    value: String,
    /// What a missing thing costs, and what brings it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

impl Line {
    fn fact(name: &'static str, value: impl Into<String>) -> Line {
        Line {
            name,
            standing: Standing::Fact,
            value: value.into(),
            advice: None,
        }
    }

    /// The outcome of a probe; `advice` is shown where it failed.
    fn probe<E: std::fmt::Display>(
        name: &'static str,
        outcome: Result<String, E>,
        advice: &'static str,
    ) -> Line {
        match outcome {
            Ok(value) => Line {
                name,
                standing: Standing::Works,
                value,
                advice: None,
            },
            Err(error) => Line {
                name,
                standing: Standing::Missing,
                value: format!("{error:#}"),
                advice: Some(advice),
            },
        }
    }
}

#[derive(Debug, Serialize)]
struct Section {
    title: &'static str,
    lines: Vec<Line>,
}

/// The subcommand.
pub(crate) fn run(context: &Context, options: &Options) -> Result<()> {
    let sections = [
        Section {
            title: "Machine",
            lines: machine::lines(context),
        },
        Section {
            title: "Kernel",
            lines: kernel::lines(context),
        },
        Section {
            title: "Set-up",
            lines: set_up(context),
        },
    ];
    let text = if options.json {
        serde_json::to_string_pretty(&sections).context("doctor: writing JSON")? + "\n"
    } else {
        table(&sections)
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("doctor: writing the report")
}

fn set_up(context: &Context) -> Vec<Line> {
    let mut lines: Vec<_> = setup::look(context)
        .into_iter()
        .map(|thing| {
            let outcome = thing.found.ok_or("not found");
            Line::probe(thing.name, outcome, thing.cost)
        })
        .collect();
    let size = megabytes(setup::cache_size(context));
    lines.push(Line::fact(
        "cache",
        format!("{} ({size})", context.cache.display()),
    ));
    lines
}

fn table(sections: &[Section]) -> String {
    let lines = || sections.iter().flat_map(|section| &section.lines);
    let width = lines().map(|line| line.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for section in sections {
        text.push_str(section.title);
        text.push('\n');
        for line in &section.lines {
            let mark = match line.standing {
                Standing::Works => "ok",
                Standing::Missing => "NO",
                Standing::Fact => "",
            };
            text.push_str(&format!(
                "  {mark:2}  {:width$}  {}\n",
                line.name, line.value
            ));
            if let Some(advice) = line.advice {
                text.push_str(&format!("      {:width$}  {advice}\n", ""));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections() -> [Section; 1] {
        let missing: Result<String, &str> = Err("not found");
        [Section {
            title: "Part",
            lines: vec![
                Line::fact("a fact", "1"),
                Line::probe("here", Ok::<_, &str>("fine".to_owned()), "never shown"),
                Line::probe("not here", missing, "slower; type this"),
            ],
        }]
    }

    #[test]
    fn columns_are_aligned_and_a_missing_thing_says_what_to_do() {
        assert_eq!(
            table(&sections()),
            "Part\n      a fact    1\n  ok  here      fine\n  NO  not here  not found\n                slower; type this\n"
        );
    }

    #[test]
    fn json_says_the_same() {
        let value = serde_json::to_value(sections()).unwrap();
        assert_eq!(value[0]["lines"][1]["standing"], "works");
        assert_eq!(value[0]["lines"][1].get("advice"), None);
        assert_eq!(value[0]["lines"][2]["advice"], "slower; type this");
    }
}
