//! Scales a raw picture (the layout of `picture`), keeping its proportions.
//!
//! The parameters `WIDTH` and `HEIGHT`, in pixels, say how large it becomes: with one of them the other side follows, with
//! both the picture becomes as large as fits in.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{ImageBufferError, PixelType, ResizeError, ResizeOptions, Resizer};
use picture::Size;
use roadrunner_guest::{function, Buffer};

function!(resize);

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither `WIDTH` nor `HEIGHT` is set.
    #[error(
        "how large shall the picture become? Set the parameter WIDTH, HEIGHT or both, in pixels"
    )]
    NoTarget,
    /// A parameter is not a number of pixels.
    #[error(
        "the parameter {name} is {value:?}, but must be a number of pixels from 1 to {}",
        u32::MAX
    )]
    Parameter {
        /// `WIDTH` or `HEIGHT`.
        name: &'static str,
        /// What it is.
        value: String,
    },
    /// The payload or the result is not a possible picture.
    #[error(transparent)]
    Picture(#[from] picture::Error),
    /// The resizer found a buffer unfit.
    #[error("the picture cannot be scaled: {0}")]
    Buffer(#[from] ImageBufferError),
    /// The resizer failed.
    #[error("the picture cannot be scaled: {0}")]
    Resize(#[from] ResizeError),
}

/// The handler.
///
/// # Errors
/// Any [`Error`].
pub fn resize(payload: Buffer) -> Result<Buffer, Error> {
    let (width, height) = (parameter("WIDTH")?, parameter("HEIGHT")?);
    let (size, _) = picture::parse(&payload)?;
    scale(payload, target(size, width, height)?)
}

fn parameter(name: &'static str) -> Result<Option<u32>, Error> {
    let Some(value) = std::env::var_os(name) else {
        return Ok(None);
    };
    let number = value.to_str().and_then(|value| value.trim().parse().ok());
    match number {
        Some(1..) => Ok(number),
        _ => Err(Error::Parameter {
            name,
            value: value.to_string_lossy().into_owned(),
        }),
    }
}

/// The size that a picture of `size` gets.
fn target(size: Size, width: Option<u32>, height: Option<u32>) -> Result<Size, Error> {
    let (from_width, from_height) = (u64::from(size.width()), u64::from(size.height()));
    // All factors have 32 bits, so no product overflows.
    let width_for = |height: u32| rounded(from_width * u64::from(height), from_height);
    let height_for = |width: u32| rounded(from_height * u64::from(width), from_width);
    let (width, height) = match (width, height) {
        (None, None) => return Err(Error::NoTarget),
        (Some(width), None) => (width, height_for(width)),
        (None, Some(height)) => (width_for(height), height),
        // The width is what limits where the picture is wider than the box.
        (Some(width), Some(height))
            if from_width * u64::from(height) >= from_height * u64::from(width) =>
        {
            (width, height_for(width))
        }
        (Some(_), Some(height)) => (width_for(height), height),
    };
    Ok(Size::new(width, height)?)
}

/// A side in whole pixels, at least one. What does not fit in 32 bits is too large whatever it is.
fn rounded(dividend: u64, divisor: u64) -> u32 {
    u32::try_from((dividend + divisor / 2) / divisor)
        .unwrap_or(u32::MAX)
        .max(1)
}

fn scale(payload: Buffer, target: Size) -> Result<Buffer, Error> {
    let (size, from) = picture::parse(&payload)?;
    if size == target {
        return Ok(payload);
    }
    let mut reply = picture::blank(target)?;
    let (_, to) = picture::parse_mut(&mut reply)?;
    // Colours count as much as they are opaque. Where all are, weighing them costs a copy of the picture for nothing.
    let translucent = from.chunks_exact(4).any(|pixel| pixel[3] != 255);
    Resizer::new().resize(
        &ImageRef::new(size.width(), size.height(), from, PixelType::U8x4)?,
        &mut Image::from_slice_u8(target.width(), target.height(), to, PixelType::U8x4)?,
        &ResizeOptions::new().use_alpha(translucent),
    )?;
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(width: u32, height: u32) -> Size {
        Size::new(width, height).expect("a size")
    }

    fn painted(size: Size, mut paint: impl FnMut(u32, u32) -> [u8; 4]) -> Buffer {
        let mut payload = picture::blank(size).expect("memory");
        let (_, pixels) = picture::parse_mut(&mut payload).expect("a picture");
        for (at, pixel) in (0..).zip(pixels.chunks_exact_mut(4)) {
            pixel.copy_from_slice(&paint(at % size.width(), at / size.width()));
        }
        payload
    }

    #[test]
    fn the_other_side_follows() {
        let from = size(400, 300);
        let cases = [
            (Some(200), None, (200, 150)),
            (None, Some(600), (800, 600)),
            (Some(200), Some(200), (200, 150)),
            (Some(1000), Some(150), (200, 150)),
            (Some(401), None, (401, 301)),
            (Some(1), None, (1, 1)),
        ];
        for (width, height, (expected_width, expected_height)) in cases {
            let to = target(from, width, height).expect("a target");
            assert_eq!(
                to,
                size(expected_width, expected_height),
                "{width:?} {height:?}"
            );
        }
        assert_eq!(
            target(size(1000, 1), Some(10), None).expect("a target"),
            size(10, 1)
        );
    }

    #[test]
    fn impossible_targets_are_errors() {
        assert!(matches!(
            target(size(4, 3), None, None),
            Err(Error::NoTarget)
        ));
        let too_large = target(size(1, 1 << 26), Some(u32::MAX), None);
        assert!(
            matches!(
                too_large,
                Err(Error::Picture(picture::Error::TooLarge { .. }))
            ),
            "{too_large:?}"
        );
    }

    /// The only test that sets parameters, as they belong to the whole process.
    #[test]
    fn parameters_are_read_and_checked() {
        let payload = || painted(size(8, 4), |_, _| [1, 2, 3, 255]);
        assert!(matches!(resize(payload()), Err(Error::NoTarget)));
        std::env::set_var("WIDTH", "4");
        let reply = resize(payload()).expect("a picture");
        assert_eq!(picture::parse(&reply).expect("a picture").0, size(4, 2));
        for wrong in ["", "0", "-1", "4px", "99999999999"] {
            std::env::set_var("WIDTH", wrong);
            let error = resize(payload()).expect_err("a wrong parameter");
            assert!(error.to_string().contains("WIDTH"), "{error}");
        }
        std::env::remove_var("WIDTH");
        let error = resize(Buffer::from(b"junk".to_vec())).expect_err("not a picture");
        assert!(
            matches!(error, Error::Picture(picture::Error::NoHeader(4))),
            "{error}"
        );
    }

    #[test]
    fn one_colour_stays_that_colour() {
        for colour in [[200, 100, 50, 255], [10, 20, 30, 128], [0, 0, 0, 0]] {
            for to in [size(3, 2), size(30, 20)] {
                let reply = scale(painted(size(9, 6), |_, _| colour), to).expect("a picture");
                for pixel in picture::parse(&reply).expect("a picture").1.chunks_exact(4) {
                    let near = pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 1);
                    assert!(near, "{pixel:?} instead of {colour:?}");
                }
            }
        }
    }

    #[test]
    fn an_invisible_colour_does_not_bleed() {
        let half_invisible = |x, _| {
            if x < 8 {
                [255, 0, 0, 255]
            } else {
                [0, 255, 0, 0]
            }
        };
        let reply = scale(painted(size(16, 4), half_invisible), size(4, 1)).expect("a picture");
        for pixel in picture::parse(&reply).expect("a picture").1.chunks_exact(4) {
            assert!(pixel[3] == 0 || pixel[1] <= 1, "green bled in: {pixel:?}");
        }
    }

    #[test]
    fn a_ramp_stays_a_ramp() {
        let reply = scale(
            painted(size(256, 8), |x, _| [x as u8, x as u8, x as u8, 255]),
            size(64, 2),
        );
        let reply = reply.expect("a picture");
        for (at, pixel) in (0..).zip(picture::parse(&reply).expect("a picture").1.chunks_exact(4)) {
            let middle = (at % 64) * 4 + 2;
            assert!(
                i32::from(pixel[0]).abs_diff(middle) <= 3,
                "{pixel:?} at {at}"
            );
        }
    }

    #[test]
    fn the_same_size_is_the_same_buffer() {
        let payload = painted(size(5, 4), |x, y| [x as u8, y as u8, 0, 255]);
        let address = payload.as_ptr();
        assert_eq!(
            scale(payload, size(5, 4)).expect("a picture").as_ptr(),
            address
        );
    }

    proptest! {
        #[test]
        fn any_target_is_made(from in (1..60_u32, 1..60_u32), to in (1..60_u32, 1..60_u32), alpha in any::<u8>()) {
            let payload = painted(size(from.0, from.1), |x, y| [x as u8, y as u8, 7, alpha]);
            let reply = scale(payload, size(to.0, to.1)).expect("a picture");
            prop_assert_eq!(picture::parse(&reply).expect("a picture").0, size(to.0, to.1));
        }

        #[test]
        fn a_target_keeps_proportions_and_the_box(
            from in (1..5000_u32, 1..5000_u32), fit in (1..5000_u32, 1..5000_u32),
        ) {
            let to = target(size(from.0, from.1), Some(fit.0), Some(fit.1)).expect("a target");
            prop_assert!(to.width() <= fit.0 && to.height() <= fit.1);
            prop_assert!(to.width() == fit.0 || to.height() == fit.1);
            // Within half a pixel of the exact side, or one pixel at least.
            let (exact_width, exact_height) =
                (from.0 as f64 * to.height() as f64 / from.1 as f64, from.1 as f64 * to.width() as f64 / from.0 as f64);
            let near = |side: u32, exact: f64| (side as f64 - exact).abs() <= 0.5 || (side == 1 && exact < 1.0);
            prop_assert!(near(to.width(), exact_width) || near(to.height(), exact_height));
        }
    }
}
