//! Rows as pictures, each as SVG and as PNG.
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`views`] | which pictures the rows make |
//! | [`curves`] | a line for each candidate, over the size of the payload or the number of receivers |
//! | [`breakdown`] | a bar for each candidate, of the parts of its rounds |

mod breakdown;
mod curves;
mod views;

pub(crate) use views::of;

use anyhow::{anyhow, Context, Result};
use breakdown::Breakdown;
use curves::Curves;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{register_font, FontStyle};
use std::fs;
use std::path::Path;
use std::sync::Once;

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

/// A picture, with the heading that it stands under in a report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Picture {
    /// The name of its files.
    pub(crate) name: String,
    pub(crate) heading: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Curves(Curves),
    Breakdown(Breakdown),
}

impl Picture {
    fn size(&self) -> (u32, u32) {
        match &self.kind {
            Kind::Curves(_) => curves::SIZE,
            Kind::Breakdown(bars) => bars.size(),
        }
    }

    /// As SVG, to stand in a page.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub(crate) fn svg(&self) -> Result<String> {
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, self.size()).into_drawing_area();
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
        self.draw(&BitMapBackend::new(&file("png"), self.size()).into_drawing_area())
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<()> {
        letters();
        let drawn = match &self.kind {
            Kind::Curves(curves) => curves.draw_on(area),
            Kind::Breakdown(bars) => bars.draw_on(area),
        };
        drawn.map_err(|error| anyhow!("drawing {}: {error}", self.name))
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
