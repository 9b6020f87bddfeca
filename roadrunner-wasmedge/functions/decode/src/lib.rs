//! Decodes a JPEG or PNG picture to the raw layout of `picture`, straight into the reply.
//!
//! A picture that is cut short is an error, never a picture with a grey rest, and so is damage that the decoder can see:
//! all of it in PNG, some of it in JPEG, which has no checksums. Orientation (EXIF) and colour profiles are ignored; an
//! animation gives its first frame.

mod jpeg;
mod png;

use roadrunner_guest::{function, Buffer};

function!(decode);

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither format's signature.
    #[error("not a picture: the payload starts neither like a JPEG nor like a PNG file (its first bytes: {0:02x?})")]
    NotAPicture(Vec<u8>),
    /// The file ends too early.
    #[error(
        "a picture cut short: the {format} file ends after {len} bytes, before its own end mark"
    )]
    CutShort {
        /// JPEG or PNG.
        format: &'static str,
        /// The length of the payload.
        len: usize,
    },
    /// The decoder refused it.
    #[error("a damaged or unsupported picture: the {format} decoder says: {reason}")]
    Damaged {
        /// JPEG or PNG.
        format: &'static str,
        /// In the decoder's words.
        reason: String,
    },
    /// Too large, empty, or no memory.
    #[error(transparent)]
    Picture(#[from] picture::Error),
}

const JPEG: &[u8] = &[0xff, 0xd8, 0xff];
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The handler.
///
/// # Errors
/// Any [`Error`].
pub fn decode(payload: Buffer) -> Result<Buffer, Error> {
    if payload.starts_with(JPEG) {
        jpeg::decode(&payload)
    } else if payload.starts_with(PNG) {
        png::decode(&payload)
    } else {
        Err(match () {
            () if payload.is_empty() => Error::NotAPicture(Vec::new()),
            () if JPEG.starts_with(&payload) => Error::CutShort {
                format: "JPEG",
                len: payload.len(),
            },
            () if PNG.starts_with(&payload) => Error::CutShort {
                format: "PNG",
                len: payload.len(),
            },
            () => Error::NotAPicture(payload[..payload.len().min(8)].to_vec()),
        })
    }
}

/// Turns pixels of `N` bytes that fill the end of `pixels` into RGBA, from the front: each of them lies behind the pixel
/// that it becomes or is its end, so none is overwritten before its turn.
fn spread<const N: usize>(pixels: &mut [u8], rgba: impl Fn([u8; N]) -> [u8; 4]) {
    let count = pixels.len() / 4;
    let start = count * (4 - N);
    for pixel in 0..count {
        let mut narrow = [0; N];
        narrow.copy_from_slice(&pixels[start + N * pixel..][..N]);
        pixels[4 * pixel..][..4].copy_from_slice(&rgba(narrow));
    }
}

#[cfg(test)]
mod tests;
