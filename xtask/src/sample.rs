//! A picture to run the demo on: a desert road at dusk, drawn here so that nothing has to be shipped or downloaded.

use jpeg_encoder::{ColorType, Encoder, EncodingError};
use std::path::Path;

/// 12.2 megapixels, 48.8 MB as raw RGBA.
pub(crate) const WIDTH: u16 = 4032;
const HEIGHT: u16 = 3024;
const HORIZON: f32 = 0.62;

type Colour = [f32; 3];

/// Draws the picture into a JPEG file.
pub(crate) fn write(path: &Path) -> Result<(), EncodingError> {
    let mut pixels = Vec::with_capacity(usize::from(WIDTH) * usize::from(HEIGHT) * 3);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let grain = (noise(u32::from(x), u32::from(y)) - 0.5) * 0.03;
            let colour = colour(
                f32::from(x) / f32::from(WIDTH),
                f32::from(y) / f32::from(HEIGHT),
            );
            pixels.extend(colour.map(|part| ((part + grain).clamp(0.0, 1.0) * 255.0) as u8));
        }
    }
    Encoder::new_file(path, 90)?.encode(&pixels, WIDTH, HEIGHT, ColorType::Rgb)
}

/// The colour at a place, both coordinates from 0 to 1, from the top left.
fn colour(u: f32, v: f32) -> Colour {
    if v >= HORIZON {
        return ground(u, (v - HORIZON) / (1.0 - HORIZON));
    }
    // From the nearest ridge to the farthest, each paler.
    for (number, base) in [0.58_f32, 0.53, 0.47].into_iter().enumerate() {
        let frequency = 5.0 + 4.0 * number as f32;
        let height = (u * frequency + 2.0 * number as f32).sin() * 0.02
            + (u * frequency * 3.7).sin() * 0.008
            + ((u * frequency * 0.9).sin() * 3.0).tanh() * 0.02;
        if v > base - height {
            return mix([0.20, 0.10, 0.20], [0.62, 0.33, 0.38], number as f32 / 2.5);
        }
    }
    sky(u, v)
}

fn sky(u: f32, v: f32) -> Colour {
    let evening = mix(
        [0.09, 0.10, 0.32],
        [0.98, 0.60, 0.32],
        (v / HORIZON).powf(1.4),
    );
    let distance = ((u - 0.68).powi(2) + ((v - 0.40) * 0.75).powi(2)).sqrt();
    if distance < 0.055 {
        return [1.0, 0.93, 0.72];
    }
    mix(
        evening,
        [1.0, 0.80, 0.45],
        (-(distance - 0.055) * 9.0).exp() * 0.8,
    )
}

/// `depth` is 0 at the horizon and 1 at the feet.
fn ground(u: f32, depth: f32) -> Colour {
    let half_width = 0.004 + 0.26 * depth;
    let across = (u - 0.5 - 0.08 * (1.0 - depth) * (depth * 4.0).sin()) / half_width;
    if across.abs() < 1.0 {
        let dash = (1.0 / (depth + 0.06)).fract() < 0.45;
        return match across.abs() {
            x if x < 0.03 && dash => [0.95, 0.80, 0.30],
            x if x > 0.92 => [0.85, 0.82, 0.78],
            _ => mix([0.30, 0.22, 0.28], [0.16, 0.14, 0.18], depth),
        };
    }
    let ripple = ((u * 60.0 + depth * 8.0).sin() * (depth * 70.0).sin()) * 0.03 * depth;
    mix([0.80, 0.47, 0.30], [0.50, 0.26, 0.17], depth + ripple * 4.0)
}

fn mix(a: Colour, b: Colour, share: f32) -> Colour {
    let share = share.clamp(0.0, 1.0);
    [0, 1, 2].map(|part| a[part] + (b[part] - a[part]) * share)
}

/// The same pseudo-random number from 0 to 1 for the same place, on every machine.
fn noise(x: u32, y: u32) -> f32 {
    let mut bits = x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x2C1B_3C6D);
    (bits >> 8) as f32 / (1 << 24) as f32
}
