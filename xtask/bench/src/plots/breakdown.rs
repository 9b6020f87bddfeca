//! Where the time of a round goes: a bar for each candidate, of the parts that its median round consists of.

use super::FONT;
use crate::eval::{ALLOCATE, ANSWER, CONSUME, HOP, PRODUCE, SERIALIZE};
use crate::results::{time, Row};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: u32 = 960;
/// Of a bar, with what lies below it.
const STEP: i32 = 30;
const TOP: i32 = 74;
/// Where bars begin and end.
const LEFT: i32 = 160;
const RIGHT: i32 = 690;

const TRANSFER: &str = "transfer";
/// In the order in which they happen.
const PARTS: [(&str, RGBColor); 6] = [
    (PRODUCE, RGBColor(134, 182, 221)),
    (SERIALIZE, RGBColor(204, 121, 167)),
    (ALLOCATE, RGBColor(230, 159, 0)),
    (TRANSFER, RGBColor(213, 94, 0)),
    (CONSUME, RGBColor(127, 200, 169)),
    (ANSWER, RGBColor(201, 201, 201)),
];
const FAULTS: RGBColor = RGBColor(60, 60, 60);

/// Bars for the rounds of one size.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Breakdown {
    title: String,
    /// What a page fault takes, in nanoseconds.
    fault_ns: f64,
    bars: Vec<Bar>,
}

#[derive(Debug, Clone, PartialEq)]
struct Bar {
    name: String,
    /// Nanoseconds of each of the parts.
    parts: [f64; PARTS.len()],
    /// Page faults anywhere in the round.
    faults: f64,
    hop: f64,
}

impl Bar {
    /// `None` for a row whose rounds were not taken apart.
    fn of(row: &Row) -> Option<Self> {
        let hop = row.phases.get(HOP)?.p50_ns;
        let part = |name: &str| row.phases.get(name).map_or(0.0, |phase| phase.p50_ns);
        let parts = PARTS.map(|(name, _)| match name {
            TRANSFER => (hop - part(SERIALIZE) - part(ALLOCATE)).max(0.0),
            name => part(name),
        });
        Some(Self {
            name: row.candidate.clone(),
            parts,
            faults: row.phases.values().map(|phase| phase.faults).sum(),
            hop,
        })
    }
}

impl Breakdown {
    /// Of the rows of one size; `None` if none was taken apart.
    pub(super) fn of(title: String, fault_ns: f64, rows: &[&Row]) -> Option<Self> {
        let bars: Vec<_> = rows.iter().filter_map(|row| Bar::of(row)).collect();
        (!bars.is_empty()).then_some(Self {
            title,
            fault_ns,
            bars,
        })
    }

    pub(super) fn size(&self) -> (u32, u32) {
        (WIDTH, (TOP + STEP * self.bars.len() as i32 + 14) as u32)
    }

    pub(super) fn draw_on<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let words = |text: &str, at: (i32, i32), size: i32, side: HPos| {
            let style = TextStyle::from((FONT, size)).pos(Pos::new(side, VPos::Center));
            area.draw(&Text::new(text.to_owned(), at, style))
        };
        let block = |from: i32, to: i32, top: i32, height: i32, colour: RGBColor| {
            let corners = [(from, top), (to, top + height)];
            area.draw(&Rectangle::new(corners, colour.filled()))
        };
        words(&self.title, (WIDTH as i32 / 2, 18), 20, HPos::Center)?;
        let mut at = 12;
        for (name, colour) in PARTS {
            block(at, at + 12, 42, 12, colour)?;
            words(name, (at + 18, 48), 14, HPos::Left)?;
            at += 46 + 7 * name.len() as i32;
        }
        block(at, at + 12, 46, 4, FAULTS)?;
        let faults = format!(
            "page faults anywhere in the round, {:.2} µs each",
            self.fault_ns / 1e3
        );
        words(&faults, (at + 18, 48), 14, HPos::Left)?;
        for (number, bar) in self.bars.iter().enumerate() {
            let top = TOP + STEP * number as i32;
            let round: f64 = bar.parts.iter().sum();
            let x = |share: f64| LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32;
            words(&bar.name, (LEFT - 10, top + 9), 14, HPos::Right)?;
            let mut before = 0.0;
            for (part, (_, colour)) in bar.parts.iter().zip(PARTS) {
                let from = before / round.max(1.0);
                before += part;
                block(x(from), x(before / round.max(1.0)), top, 16, colour)?;
            }
            let share = (bar.faults * self.fault_ns / round.max(1.0)).min(1.0);
            block(LEFT, x(share), top + 18, 4, FAULTS)?;
            let told = format!(
                "hop {} of {}, {} faults",
                time(bar.hop),
                time(round),
                bar.faults
            );
            words(&told, (RIGHT + 12, top + 9), 14, HPos::Left)?;
        }
        area.present()
    }
}
