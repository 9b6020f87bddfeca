//! Rows as pictures: a line for each candidate, over the size of the payload or the number of receivers, both axes
//! logarithmic. Each as SVG and as PNG.

use crate::eval;
use crate::results::{time, Results, Row};
use anyhow::{anyhow, Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{register_font, FontStyle};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Once;

const SIZE: (u32, u32) = (960, 600);
const FONT: &str = "sans-serif";
/// Told apart by those who see fewer colours, too (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(140, 140, 140),
];

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plot {
    /// The name of its files.
    pub(crate) name: String,
    pub(crate) title: String,
    x: &'static str,
    y: &'static str,
    unit: Unit,
    lines: BTreeMap<String, Vec<(f64, f64)>>,
}

/// What stands along the upright axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Nanoseconds,
    BytesPerSecond,
    Bytes,
    PerSecond,
}

/// What a row has to say.
type Value = fn(&Row) -> Option<f64>;

/// Every picture that the rows make: of each experiment that was measured at several sizes or fan-outs.
pub(crate) fn of(results: &Results) -> Vec<Plot> {
    let mut experiments: Vec<&str> = Vec::new();
    for row in &results.rows {
        if !experiments.contains(&row.experiment.as_str()) {
            experiments.push(&row.experiment);
        }
    }
    let mut plots = Vec::new();
    for experiment in experiments {
        let rows: Vec<&Row> = results
            .rows
            .iter()
            .filter(|row| row.experiment == experiment)
            .collect();
        let hop: Value = |row| row.phases.get(eval::HOP).map(|phase| phase.p50_ns);
        let views: [(&str, &str, Unit, Value); 4] = [
            ("hop", "latency of the hop", Unit::Nanoseconds, hop),
            ("time", "time of a round", Unit::Nanoseconds, |row| {
                Some(row.p50_ns)
            }),
            ("throughput", "throughput", Unit::BytesPerSecond, |row| {
                Some(row.bytes as f64 * f64::from(row.fanout) / row.p50_ns * 1e9)
            }),
            ("memory", "peak resident memory", Unit::Bytes, |row| {
                Some(row.peak_rss_bytes as f64)
            }),
        ];
        for (suffix, about, unit, value) in views {
            plots.extend(over_size(experiment, suffix, about, unit, value, &rows));
        }
        plots.extend(over_fanout(experiment, &rows));
    }
    for plot in &mut plots {
        if plot.name == "eval-sequential-hop" {
            let published = eval::tables::published_curves();
            plot.lines.extend(published.map(|(name, points)| {
                let nanoseconds = points.into_iter().map(|(x, y)| (x, y * 1e9));
                (name, nanoseconds.collect())
            }));
        }
    }
    plots
}

fn over_size(
    experiment: &str,
    suffix: &str,
    about: &str,
    unit: Unit,
    value: Value,
    rows: &[&Row],
) -> Option<Plot> {
    let fanout = rows.first()?.fanout;
    let rows = rows.iter().filter(|row| row.fanout == fanout);
    let lines = lines(rows.filter_map(|row| Some((row, row.bytes as f64, value(row)?))));
    Plot {
        name: format!("{}-{suffix}", experiment.replace('.', "-")),
        title: format!("{experiment}: {about}"),
        x: "bytes of a payload",
        y: unit.name(),
        unit,
        lines,
    }
    .if_worth_it()
}

fn over_fanout(experiment: &str, rows: &[&Row]) -> Option<Plot> {
    let most = |bytes: u64| rows.iter().filter(|row| row.bytes == bytes).count();
    let bytes = rows
        .iter()
        .map(|row| row.bytes)
        .max_by_key(|bytes| most(*bytes))?;
    let rows = rows.iter().filter(|row| row.bytes == bytes);
    let lines = lines(rows.map(|row| {
        let receivers = f64::from(row.fanout);
        (row, receivers, receivers / row.p50_ns * 1e9)
    }));
    Plot {
        name: format!("{}-receivers", experiment.replace('.', "-")),
        title: format!(
            "{experiment}: payloads of {:.0} MB to many",
            bytes as f64 / 1e6
        ),
        x: "receivers",
        y: Unit::PerSecond.name(),
        unit: Unit::PerSecond,
        lines,
    }
    .if_worth_it()
}

fn lines<'r>(
    points: impl Iterator<Item = (&'r &'r Row, f64, f64)>,
) -> BTreeMap<String, Vec<(f64, f64)>> {
    let mut lines: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (row, x, y) in points {
        lines.entry(row.candidate.clone()).or_default().push((x, y));
    }
    for points in lines.values_mut() {
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    lines
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "time",
            Self::BytesPerSecond => "bytes per second",
            Self::Bytes => "bytes",
            Self::PerSecond => "payloads per second",
        }
    }

    fn label(self, value: f64) -> String {
        match self {
            Self::Nanoseconds => time(value),
            Self::BytesPerSecond => format!("{}B/s", short(value)),
            Self::Bytes => format!("{}B", short(value)),
            Self::PerSecond => short(value),
        }
    }
}

fn short(value: f64) -> String {
    match value {
        ..1e3 => format!("{value:.0} "),
        ..1e6 => format!("{:.0} k", value / 1e3),
        ..1e9 => format!("{:.0} M", value / 1e6),
        _ => format!("{:.0} G", value / 1e9),
    }
}

impl Plot {
    /// A line needs two points.
    fn if_worth_it(self) -> Option<Self> {
        let several = self.lines.values().any(|points| points.len() > 1);
        several.then_some(self)
    }

    /// As SVG, to stand in a page.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub(crate) fn svg(&self) -> Result<String> {
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        self.draw(&area)?;
        drop(area);
        Ok(text)
    }

    /// Writes both files.
    ///
    /// # Errors
    /// If they cannot be drawn or written.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let file = |kind: &str| directory.join(&self.name).with_extension(kind);
        let svg = file("svg");
        fs::write(&svg, self.svg()?).with_context(|| format!("writing {}", svg.display()))?;
        self.draw(&BitMapBackend::new(&file("png"), SIZE).into_drawing_area())
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<()> {
        letters();
        self.draw_on(area)
            .map_err(|error| anyhow!("drawing {}: {error}", self.name))
    }

    fn draw_on<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let points = || self.lines.values().flatten();
        let range = |values: &mut dyn Iterator<Item = f64>| {
            let (least, most) = values
                .filter(|value| *value > 0.0)
                .fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
                    (least.min(value), most.max(value))
                });
            least / 1.5..most * 1.5
        };
        let xs = range(&mut points().map(|point| point.0));
        let ys = range(&mut points().map(|point| point.1));
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(SIZE.0 as i32 - 210);
        let mut chart = ChartBuilder::on(&left)
            .caption(&self.title, (FONT, 22))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(84)
            .build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(self.x)
            .y_desc(self.y)
            .label_style((FONT, 14))
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| self.unit.label(*value))
            .draw()?;
        for (number, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            // The second time around, and what was measured elsewhere, by thin lines.
            let thin = number >= COLOURS.len() || name.starts_with("published");
            let style = ShapeStyle::from(&colour).stroke_width(if thin { 1 } else { 3 });
            chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            let filled = ShapeStyle {
                filled: !thin,
                ..style
            };
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, filled)))?;
            let line = 30 + 24 * number as i32;
            right.draw(&PathElement::new(
                vec![(4, line + 8), (26, line + 8)],
                style,
            ))?;
            right.draw(&Text::new(
                name.as_str(),
                (32, line),
                (FONT, 14).into_font(),
            ))?;
        }
        area.present()
    }
}

/// Those that PNGs are written with.
fn letters() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Without them the pictures have no words, which is seen at once.
        let _ = register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot {
        Plot {
            name: "test".to_owned(),
            title: "a test".to_owned(),
            x: "bytes of a payload",
            y: "time",
            unit: Unit::Nanoseconds,
            lines: BTreeMap::from([
                ("one".to_owned(), vec![(1e6, 1e5), (1e8, 2e7)]),
                ("other".to_owned(), vec![(1e6, 3e6), (1e8, 4e9)]),
            ]),
        }
    }

    #[test]
    fn both_files_are_pictures() {
        let directory = tempfile::tempdir().expect("a directory");
        plot().write(directory.path()).expect("drawn");
        let svg = fs::read_to_string(directory.path().join("test.svg")).expect("there");
        assert!(svg.starts_with("<svg") && svg.contains("other"), "{svg}");
        let png = fs::read(directory.path().join("test.png")).expect("there");
        assert!(png.starts_with(b"\x89PNG"));
    }

    #[test]
    fn one_point_is_no_line() {
        let mut alone = plot();
        for points in alone.lines.values_mut() {
            points.truncate(1);
        }
        assert_eq!(alone.if_worth_it(), None);
        assert!(plot().if_worth_it().is_some());
    }
}
