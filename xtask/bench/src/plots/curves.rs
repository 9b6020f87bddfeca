//! A line for each candidate; both axes are logarithmic.

use super::{COLOURS, FONT};
use plotters::coord::Shift;
use plotters::prelude::*;

pub(super) const SIZE: (u32, u32) = (960, 560);
/// Where the names of the lines stand.
const LEGEND: u32 = 230;

/// A picture of lines.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curves {
    pub(super) title: String,
    pub(super) x: Unit,
    pub(super) y: Unit,
    pub(super) lines: Vec<Line>,
}

/// A line, or a point where there is only one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) kind: LineKind,
}

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineKind {
    Ours,
    Peer,
    /// Measured by others elsewhere.
    Published,
}

/// What stands along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Nanoseconds,
    BytesPerSecond,
    Payload,
    Memory,
    PerSecond,
    Receivers,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "time",
            Self::BytesPerSecond => "throughput",
            Self::Payload => "size of a payload",
            Self::Memory => "memory",
            Self::PerSecond => "payloads per second",
            Self::Receivers => "receivers",
        }
    }

    /// Only 1, 2 and 5 of a decade, as all ten do not fit.
    fn tick(self, value: f64) -> String {
        let first = value / 10_f64.powf((value * 1.001).log10().floor());
        let told = [1.0, 2.0, 5.0];
        if told.iter().any(|digit| (first - digit).abs() < 0.01) {
            self.label(value)
        } else {
            String::new()
        }
    }

    fn label(self, value: f64) -> String {
        match self {
            Self::Nanoseconds => scaled(
                value,
                &[(1e9, " s"), (1e6, " ms"), (1e3, " µs"), (1.0, " ns")],
            ),
            Self::BytesPerSecond => scaled(
                value,
                &[
                    (1e9, " GB/s"),
                    (1e6, " MB/s"),
                    (1e3, " kB/s"),
                    (1.0, " B/s"),
                ],
            ),
            Self::Payload | Self::Memory => scaled(
                value,
                &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")],
            ),
            Self::PerSecond | Self::Receivers => {
                scaled(value, &[(1e6, " M"), (1e3, " k"), (1.0, "")])
            }
        }
    }
}

/// In the largest of the units, all of whose values are 1 and more, without needless digits.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let unit = units.iter().find(|(scale, _)| value >= *scale * 0.999);
    let (scale, name) = unit.or(units.last()).copied().unwrap_or((1.0, ""));
    format!("{}{name}", (value / scale * 100.0).round() / 100.0)
}

impl Curves {
    /// A line needs two points.
    pub(super) fn if_worth_it(self) -> Option<Self> {
        let mut ours = self
            .lines
            .iter()
            .filter(|line| line.kind != LineKind::Published);
        ours.any(|line| line.points.len() > 1).then_some(self)
    }

    pub(super) fn draw_on<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let range = |values: &mut dyn Iterator<Item = f64>, margin: f64| {
            let (least, most) = values
                .filter(|value| *value > 0.0)
                .fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
                    (least.min(value), most.max(value))
                });
            least / margin..most * margin
        };
        let xs = range(&mut points().map(|point| point.0), 1.2);
        let ys = range(&mut points().map(|point| point.1), 1.5);
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(SIZE.0 - LEGEND);
        let mut chart = ChartBuilder::on(&left)
            .caption(&self.title, (FONT, 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(90)
            .build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(RGBColor(242, 242, 242))
            .bold_line_style(RGBColor(208, 208, 208))
            .x_desc(self.x.name())
            .y_desc(self.y.name())
            .label_style((FONT, 14))
            .x_label_formatter(&|value| self.x.tick(*value))
            .y_label_formatter(&|value| self.y.tick(*value))
            .draw()?;
        for (number, line) in self.lines.iter().enumerate() {
            let width = match line.kind {
                LineKind::Ours => 4,
                LineKind::Peer => 2,
                LineKind::Published => 1,
            };
            let style = ShapeStyle::from(&COLOURS[number % COLOURS.len()]).stroke_width(width);
            let at = 34 + 24 * number as i32;
            if line.kind == LineKind::Published {
                let points = line.points.iter().copied();
                chart.draw_series(DashedLineSeries::new(points, 6, 4, style))?;
                for dash in [4, 14, 24] {
                    let dash = [(dash, at + 8), (dash + 6, at + 8)];
                    right.draw(&PathElement::new(dash, style))?;
                }
            } else {
                chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
                right.draw(&PathElement::new([(4, at + 8), (30, at + 8)], style))?;
            }
            let marker = ShapeStyle {
                filled: line.kind == LineKind::Ours,
                ..style
            };
            let circle = |point: &(f64, f64)| Circle::new(*point, 4, marker);
            chart.draw_series(line.points.iter().map(circle))?;
            right.draw(&Circle::new((17, at + 8), 4, marker))?;
            right.draw(&Text::new(line.name.as_str(), (38, at), (FONT, 14)))?;
        }
        area.present()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        assert_eq!(Unit::Nanoseconds.label(1e8), "100 ms");
        assert_eq!(Unit::Nanoseconds.label(0.5), "0.5 ns");
        assert_eq!(Unit::BytesPerSecond.label(2.5e9), "2.5 GB/s");
        assert_eq!(Unit::Receivers.label(40.0), "40");
        assert_eq!(Unit::Receivers.tick(40.0), "");
        assert_eq!(Unit::Receivers.tick(99.999_999), "100");
        // As logarithms come out.
        assert_eq!(Unit::Payload.label(999_999.999), "1 MB");
    }
}
