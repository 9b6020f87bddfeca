//! The raw picture that the example functions pass to each other.
//!
//! | offset | bytes | content |
//! | --- | --- | --- |
//! | 0 | 8 | `RAWRGBA1` |
//! | 8 | 4 | width in pixels, little-endian |
//! | 12 | 4 | height in pixels, little-endian |
//! | 16 | 48 | zero |
//! | 64 | width * height * 4 | the rows from top to bottom, each pixel red, green, blue, alpha (not premultiplied) |
//!
//! Nothing follows the last row. The header fills a cache line, so that the pixels of an aligned payload are aligned for
//! vector instructions.

use roadrunner_guest::{loan, Buffer, OutOfMemory};

/// The length of the header in bytes.
pub const HEADER: usize = 64;

/// The most pixels that a picture may have: 2^27, which is 512 MiB of them. It bounds what a small compressed picture can
/// make a decoder allocate, and leaves room in a memory of 4 GiB for a picture, its result and what lies between.
pub const MAX_PIXELS: u64 = 1 << 27;

const MAGIC: [u8; 8] = *b"RAWRGBA1";

/// Why bytes are not a raw picture, or a picture cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Shorter than the header.
    #[error("a raw picture starts with {HEADER} bytes of header, but the payload has only {0}")]
    NoHeader(usize),
    /// Other bytes where the header should be.
    #[error("the payload is not a raw picture: it does not start with RAWRGBA1")]
    NotAPicture,
    /// The reserved part of the header is in use.
    #[error("the header of the raw picture has bytes that are not zero after the height")]
    UnknownHeader,
    /// A width or height of 0.
    #[error("the picture has no pixels: it is {width} x {height}")]
    NoPixels {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
    /// More than [`MAX_PIXELS`].
    #[error("the picture is too large: {width} x {height} is more than {MAX_PIXELS} pixels")]
    TooLarge {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
    /// The payload is shorter or longer than its header says.
    #[error(
        "a raw picture of {width} x {height} has {expected} bytes, but the payload has {actual}"
    )]
    Length {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
        /// In bytes, with the header.
        expected: usize,
        /// In bytes, with the header.
        actual: usize,
    },
    /// No memory for another picture.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// The dimensions of a picture that is neither empty nor too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    width: u32,
    height: u32,
}

impl Size {
    /// Dimensions in pixels.
    ///
    /// # Errors
    /// [`Error::NoPixels`] or [`Error::TooLarge`].
    pub fn new(width: u32, height: u32) -> Result<Self, Error> {
        match u64::from(width) * u64::from(height) {
            0 => Err(Error::NoPixels { width, height }),
            1..=MAX_PIXELS => Ok(Self { width, height }),
            _ => Err(Error::TooLarge { width, height }),
        }
    }

    /// In pixels, at least 1.
    pub fn width(self) -> u32 {
        self.width
    }

    /// In pixels, at least 1.
    pub fn height(self) -> u32 {
        self.height
    }

    /// The length of one row in bytes.
    pub fn row(self) -> usize {
        self.width as usize * 4
    }

    /// The length of all rows in bytes, at most 512 MiB.
    pub fn pixels(self) -> usize {
        self.row() * self.height as usize
    }
}

/// The size and the pixels of the picture in `payload`.
///
/// # Errors
/// Any [`Error`] but [`Error::OutOfMemory`].
pub fn parse(payload: &[u8]) -> Result<(Size, &[u8]), Error> {
    let size = check(payload)?;
    Ok((size, &payload[HEADER..]))
}

/// As [`parse`], to change the pixels.
///
/// # Errors
/// As [`parse`].
pub fn parse_mut(payload: &mut [u8]) -> Result<(Size, &mut [u8]), Error> {
    let size = check(payload)?;
    Ok((size, &mut payload[HEADER..]))
}

fn check(payload: &[u8]) -> Result<Size, Error> {
    let (header, pixels) = payload
        .split_first_chunk::<HEADER>()
        .ok_or(Error::NoHeader(payload.len()))?;
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if !header.starts_with(&MAGIC) {
        return Err(Error::NotAPicture);
    }
    if header[16..].iter().any(|byte| *byte != 0) {
        return Err(Error::UnknownHeader);
    }
    let size = Size::new(number(8), number(12))?;
    if pixels.len() != size.pixels() {
        return Err(Error::Length {
            width: size.width,
            height: size.height,
            expected: HEADER + size.pixels(),
            actual: payload.len(),
        });
    }
    Ok(size)
}

/// A picture whose pixels are all zero (transparent black), as a payload.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn blank(size: Size) -> Result<Buffer, Error> {
    let mut payload = Buffer::zeroed(HEADER + size.pixels())?;
    write_header(&mut payload, size);
    Ok(payload)
}

/// A picture on loan from the host, as a payload, every pixel of which is still to be painted: what they are is
/// unspecified.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn unpainted(size: Size) -> Result<Buffer, Error> {
    let mut payload = loan(HEADER + size.pixels())?;
    write_header(&mut payload, size);
    Ok(payload)
}

fn write_header(payload: &mut [u8], size: Size) {
    payload[..HEADER].fill(0);
    payload[..8].copy_from_slice(&MAGIC);
    payload[8..12].copy_from_slice(&size.width.to_le_bytes());
    payload[12..16].copy_from_slice(&size.height.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn picture(width: u32, height: u32) -> Buffer {
        blank(Size::new(width, height).expect("a size")).expect("memory")
    }

    #[test]
    fn a_blank_picture_is_one() {
        let mut payload = picture(3, 2);
        assert_eq!(payload.len(), HEADER + 24);
        let (size, pixels) = parse(&payload).expect("a picture");
        assert_eq!(
            (size.width(), size.height(), size.row(), pixels),
            (3, 2, 12, &[0; 24][..])
        );
        parse_mut(&mut payload).expect("a picture").1.fill(9);
        assert_eq!(parse(&payload).expect("a picture").1, [9; 24]);
    }

    #[test]
    fn an_unpainted_picture_has_a_header_whatever_was_there_before() {
        let size = Size::new(700, 500).expect("a size");
        for _ in 0..3 {
            let mut payload = unpainted(size).expect("memory");
            assert_eq!(parse(&payload).expect("a picture").0, size);
            payload.fill(0xff);
        }
    }

    #[test]
    fn each_fault_has_its_error() {
        let good = picture(3, 2);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            parse(&bytes).expect_err("a fault")
        };
        assert_eq!(changed(0, b'X'), Error::NotAPicture);
        assert_eq!(changed(7, b'2'), Error::NotAPicture);
        assert_eq!(changed(16, 1), Error::UnknownHeader);
        assert_eq!(changed(63, 1), Error::UnknownHeader);
        assert_eq!(
            changed(8, 0),
            Error::NoPixels {
                width: 0,
                height: 2
            }
        );
        assert_eq!(
            changed(12, 0),
            Error::NoPixels {
                width: 3,
                height: 0
            }
        );
        assert_eq!(
            changed(11, 0xff),
            Error::TooLarge {
                width: 0xff00_0003,
                height: 2
            }
        );
        assert_eq!(
            changed(8, 4),
            Error::Length {
                width: 4,
                height: 2,
                expected: 96,
                actual: 88
            }
        );
        for len in 0..good.len() {
            let error = parse(&good[..len]).expect_err("cut short");
            match len {
                0..HEADER => assert_eq!(error, Error::NoHeader(len)),
                _ => assert_eq!(
                    error,
                    Error::Length {
                        width: 3,
                        height: 2,
                        expected: 88,
                        actual: len
                    }
                ),
            }
        }
        let longer = [&*good, &[0]].concat();
        assert!(matches!(
            parse(&longer),
            Err(Error::Length { actual: 89, .. })
        ));
    }

    #[test]
    fn sizes_do_not_overflow() {
        assert!(Size::new(u32::MAX, u32::MAX).is_err());
        assert!(Size::new(1 << 16, 1 << 16).is_err());
        assert_eq!(Size::new(1 << 27, 1).map(Size::pixels), Ok(512 << 20));
        assert!(Size::new((1 << 27) + 1, 1).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_after_the_magic_are_judged_without_a_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&MAGIC[..], &tail].concat();
            if let Ok((size, pixels)) = parse(&bytes) {
                prop_assert_eq!(size.pixels(), pixels.len());
            }
        }
    }
}
