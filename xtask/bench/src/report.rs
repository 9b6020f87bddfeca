//! `report.html`: everything that a run came to, in one file that a person opens.

use crate::eval;
use crate::plots::Plot;
use crate::results::{time, Better, Results, Row};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const STYLE: &str = "
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.6em } h2 { margin-top: 2.2em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; font-size: 14px; margin: 1em 0 } th, td { padding: 3px 10px; border-bottom: 1px solid #e4e4e4; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.met { color: #00703c } .missed { color: #b00020; font-weight: 600 } .bar { height: 18px; display: flex; min-width: 420px }
svg { max-width: 100%; height: auto; display: block; margin: 1em 0 } details { margin: 1em 0 } p.note { color: #555 }
";

/// The parts of a round, in the order in which they happen, and their colours.
const PARTS: [(&str, &str); 4] = [
    ("produce", "#86b6dd"),
    (eval::HOP, "#d55e00"),
    ("consume", "#7fc8a9"),
    ("answer", "#c9c9c9"),
];

/// Writes it. Says where it is.
///
/// # Errors
/// If it cannot be drawn or written.
pub(crate) fn write(results: &Results, plots: &[Plot], directory: &Path) -> Result<PathBuf> {
    let file = directory.join("report.html");
    fs::write(&file, page(results, plots)?)
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

fn page(results: &Results, plots: &[Plot]) -> Result<String> {
    let machine = &results.machine;
    let mut page = String::new();
    write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Roadrunner: measurements</title><style>{STYLE}</style>\
         <h1>Roadrunner: measurements</h1><p>{}, {} cores, {:.0} GiB of memory, Linux {}; a {} run. Every payload was compared \
         with what was sent. Medians, unless it says otherwise; candidates took turns.</p>",
        escaped(&machine.cpu),
        machine.cores,
        machine.memory as f64 / f64::from(1 << 30),
        escaped(&machine.kernel),
        results.scale,
    )?;
    ratios(&mut page, results)?;
    breakdown(&mut page, results)?;
    if !plots.is_empty() {
        page.push_str("<h2>Curves</h2>");
        if plots.iter().any(|plot| plot.name == "eval-sequential-hop") {
            page.push_str(
                "<p class=note>Thin lines with hollow points are what was published of the prototype and its peers \
                 (Middleware 2025), on other machines.</p>",
            );
        }
    }
    for plot in plots {
        page.push_str(&plot.svg()?);
    }
    rows(&mut page, results)?;
    if !results.skipped.is_empty() {
        page.push_str("<h2>Not measured here</h2><ul>");
        for line in &results.skipped {
            write!(page, "<li>{}</li>", escaped(line))?;
        }
        page.push_str("</ul>");
    }
    page.push_str("</html>\n");
    Ok(page)
}

fn ratios(page: &mut String, results: &Results) -> Result<()> {
    if results.ratios.is_empty() {
        return Ok(());
    }
    page.push_str(
        "<h2>Goals</h2><table><tr><th>ratio<th class=n>value<th class=n>goal<th>and why not</tr>",
    );
    for ratio in &results.ratios {
        let sign = match ratio.better {
            Better::Higher => "≥",
            Better::Lower => "≤",
        };
        let (class, verdict) = if ratio.met {
            ("met", "met".to_owned())
        } else {
            let reason = ratio.reason.as_deref().unwrap_or("no reason was measured");
            ("missed", format!("missed: {}", escaped(reason)))
        };
        write!(
            page,
            "<tr><td>{}<td class=n>{}<td class=n>{sign} {}<td class={class}>{verdict}</tr>",
            escaped(&ratio.name),
            ratio.value,
            ratio.goal,
        )?;
    }
    page.push_str("</table>");
    Ok(())
}

/// Where the time goes, for the largest payload whose rounds were taken apart.
fn breakdown(page: &mut String, results: &Results) -> Result<()> {
    let apart = |row: &&Row| !row.phases.is_empty();
    let Some(bytes) = results.rows.iter().filter(apart).map(|row| row.bytes).max() else {
        return Ok(());
    };
    write!(
        page,
        "<h2>Where the time of a round goes</h2><p>Payloads of {:.0} MB: ",
        bytes as f64 / 1e6
    )?;
    for (name, colour) in PARTS {
        write!(page, "<span style=\"color:{colour}\">■</span> {name} ")?;
    }
    page.push_str(
        "</p><table><tr><th>candidate<th>method<th class=n>round<th class=n>hop<th>shares</tr>",
    );
    for row in results
        .rows
        .iter()
        .filter(apart)
        .filter(|row| row.bytes == bytes)
    {
        let part = |name: &str| row.phases.get(name).map_or(0.0, |phase| phase.p50_ns);
        write!(
            page,
            "<tr><td>{}<td>{}<td class=n>{}<td class=n>{}<td><div class=bar>",
            escaped(&row.candidate),
            escaped(&row.method),
            time(row.p50_ns),
            time(part(eval::HOP)),
        )?;
        let all: f64 = PARTS.iter().map(|(name, _)| part(name)).sum();
        for (name, colour) in PARTS {
            let share = 100.0 * part(name) / all.max(1.0);
            write!(
                page,
                "<div style=\"width:{share:.2}%;background:{colour}\" title=\"{name} {}\"></div>",
                time(part(name))
            )?;
        }
        page.push_str("</div></tr>");
    }
    page.push_str("</table>");
    Ok(())
}

fn rows(page: &mut String, results: &Results) -> Result<()> {
    page.push_str(
        "<h2>All rows</h2><details><summary>Show them</summary><table><tr><th>experiment<th>candidate<th>method<th class=n>bytes\
         <th class=n>receivers<th class=n>p50<th class=n>p95<th class=n>p99<th class=n>user<th class=n>kernel<th class=n>peak \
         MB<th class=n>rounds</tr>",
    );
    for row in &results.rows {
        write!(
            page,
            "<tr><td>{}<td>{}<td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td \
             class=n>{}<td class=n>{:.1}<td class=n>{}</tr>",
            escaped(&row.experiment),
            escaped(&row.candidate),
            escaped(&row.method),
            row.bytes,
            row.fanout,
            time(row.p50_ns),
            time(row.p95_ns),
            time(row.p99_ns),
            time(row.cpu_user_ns),
            time(row.cpu_sys_ns),
            row.peak_rss_bytes as f64 / 1e6,
            row.rounds,
        )?;
    }
    page.push_str("</table></details>");
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Scale;
    use crate::results::{Machine, Ratio};

    #[test]
    fn a_missed_goal_is_shown_with_its_reason() {
        let mut results = Results::new(Machine::this(), Scale::Quick);
        results.ratios.push(Ratio::at_least("kept", 2.0, 1.0));
        let missed = Ratio::at_least("lost", 1.0, 2.0).because(|| "1 < 2".to_owned());
        results.ratios.push(missed);
        let page = page(&results, &[]).expect("text");
        assert!(
            page.contains("kept") && page.contains("missed: 1 &lt; 2"),
            "{page}"
        );
        assert!(
            !page.contains("src=") && !page.contains("http"),
            "self-contained"
        );
    }
}
