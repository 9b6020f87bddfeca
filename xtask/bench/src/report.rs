//! `report.html`: everything that a run came to, in one file that a person opens.

use crate::eval;
use crate::plots::Picture;
use crate::results::{time, Better, Results};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const STYLE: &str = "
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.6em } h2 { margin-top: 2.2em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; font-size: 14px; margin: 1em 0 } th, td { padding: 3px 10px; border-bottom: 1px solid #e4e4e4; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.met { color: #00703c } .missed { color: #b00020; font-weight: 600 } 
svg { max-width: 100%; height: auto; display: block; margin: 1em 0 } details { margin: 1em 0; overflow-x: auto } p.note { color: #555 }
";

/// What one has to know of the evaluation to read it.
const EVALUATION: &str = "
<p>One function produces a payload, another reads every byte of it and answers with their sum. That is a <b>round</b>. Its \
<b>hop</b> is what lies between the payload in the one function's memory and the payload in the other's, serialization \
included: the transfer alone. Of many receivers, hops are the mean of theirs.</p>
<table>
<tr><td>user, kernel, network<td>Roadrunner in one process, between two of one host, and over TCP (here on loopback), with functions on WasmEdge; \
the function has its payload anywhere
<tr><td>…-loaned<td>the same with a function that writes its payload into a buffer on loan
<tr><td>…-trusted<td>and with two functions of one owner, whose operator lets mappings stay
<tr><td>wasmedge-http-json, -raw<td>two functions on WasmEdge that talk HTTP over WASI sockets; the body is JSON (with Base64), or the bytes
<tr><td>prototype-user, -kernel, -network<td>the ways of the published prototype, written anew
<tr><td>native-unix, -tcp<td>two native processes and a stream tuned by hand
<tr><td>native-http<td>two native processes and HTTP by hyper: what containers do
<tr><td>redis<td>two native processes and a Redis server between them
<tr><td>host-copy<td>the host copies from one WasmEdge instance to another, once
<tr><td>memcpy<td>one copy between two buffers: the limit of everything that copies
</table>
<p class=note>Thick lines with filled points are Roadrunner's. Dashed lines are what was published of the prototype and its \
peers (Middleware 2025): total latencies on other machines, to be compared with rounds. Memory counts each page once, \
however many processes have it mapped.</p>
";

/// Writes it. Says where it is.
///
/// # Errors
/// If it cannot be drawn or written.
pub(crate) fn write(results: &Results, pictures: &[Picture], directory: &Path) -> Result<PathBuf> {
    let file = directory.join("report.html");
    fs::write(&file, page(results, pictures)?)
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

fn page(results: &Results, pictures: &[Picture]) -> Result<String> {
    let mut page = String::new();
    write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Roadrunner: measurements</title><style>{STYLE}</style>\
         <h1>Roadrunner: measurements</h1><p>{}; a {} run. Every payload was compared \
         with what was sent. Medians, unless it says otherwise; candidates took turns \
         (payloads above 100 MB: those of one mode).</p>",
        escaped(&results.machine.to_string()),
        results.scale,
    )?;
    if results
        .rows
        .iter()
        .any(|row| row.experiment == eval::SEQUENTIAL)
    {
        page.push_str(EVALUATION);
    }
    lines(&mut page, "Failed", &results.failed)?;
    ratios(&mut page, results)?;
    let mut heading = "";
    for picture in pictures {
        if picture.heading != heading {
            heading = &picture.heading;
            write!(page, "<h2>{}</h2>", escaped(heading))?;
        }
        page.push_str(&picture.svg()?);
    }
    rows(&mut page, results)?;
    lines(&mut page, "Not measured here", &results.skipped)?;
    page.push_str("</html>\n");
    Ok(page)
}

fn lines(page: &mut String, heading: &str, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    write!(page, "<h2>{heading}</h2><ul>")?;
    for line in lines {
        write!(page, "<li>{}</li>", escaped(line))?;
    }
    page.push_str("</ul>");
    Ok(())
}

fn ratios(page: &mut String, results: &Results) -> Result<()> {
    if results.ratios.is_empty() {
        return Ok(());
    }
    page.push_str(
        "<h2>Goals</h2><table><tr><th>ratio<th class=n>value<th class=n>goal<th><th>why not</tr>",
    );
    for ratio in &results.ratios {
        let sign = match ratio.better {
            Better::Higher => "≥",
            Better::Lower => "≤",
        };
        let goal = ratio.goal.map(|goal| format!("{sign} {goal}"));
        let (class, verdict, reason) = if goal.is_none() {
            ("", "", "")
        } else if ratio.met {
            ("met", "met", "")
        } else {
            let reason = ratio.reason.as_deref().unwrap_or("no reason was measured");
            ("missed", "missed", reason)
        };
        write!(
            page,
            "<tr><td>{}<td class=n>{}<td class=n>{}<td class=\"{class}\">{verdict}<td>{}</tr>",
            escaped(&ratio.name),
            ratio.value,
            goal.unwrap_or_default(),
            escaped(reason),
        )?;
    }
    page.push_str("</table>");
    Ok(())
}

fn rows(page: &mut String, results: &Results) -> Result<()> {
    page.push_str("<h2>All rows</h2><details><summary>Show them</summary><table><tr>");
    for head in ["experiment", "candidate", "method"] {
        write!(page, "<th>{head}")?;
    }
    for head in [
        "MB",
        "receivers",
        "hop p50",
        "p95",
        "p99",
        "round p50",
        "p95",
        "p99",
        "requests/s",
        "GB/s",
        "user",
        "kernel",
        "peak RSS, MB",
        "memory, MB",
        "rounds",
    ] {
        write!(page, "<th class=n>{head}")?;
    }
    page.push_str("</tr>");
    for row in &results.rows {
        write!(
            page,
            "<tr><td>{}<td>{}<td>{}",
            escaped(&row.experiment),
            escaped(&row.candidate),
            escaped(&row.method),
        )?;
        let hop = row.phases.get(eval::HOP);
        let hop = hop.map_or([const { String::new() }; 3], |hop| {
            [hop.p50_ns, hop.p95_ns, hop.p99_ns].map(time)
        });
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        let numbers = [(row.bytes as f64 / 1e6).to_string(), row.fanout.to_string()]
            .into_iter()
            .chain(hop)
            .chain([row.p50_ns, row.p95_ns, row.p99_ns].map(time))
            .chain([
                format!("{:.1}", row.requests_per_s),
                format!("{:.2}", row.bytes_per_s / 1e9),
                time(row.cpu_user_ns),
                time(row.cpu_sys_ns),
                megabytes(row.peak_rss_bytes),
                row.footprint_bytes.map_or_else(String::new, megabytes),
                row.rounds.to_string(),
            ]);
        for number in numbers {
            write!(page, "<td class=n>{number}")?;
        }
        page.push_str("</tr>");
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
            page.contains("kept") && page.contains("missed<td>1 &lt; 2"),
            "{page}"
        );
        assert!(
            !page.contains("src=") && !page.contains("http"),
            "self-contained"
        );
    }
}
