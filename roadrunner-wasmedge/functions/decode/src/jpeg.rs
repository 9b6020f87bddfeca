use crate::{spread, Error};
use picture::Size;
use roadrunner_guest::Buffer;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

const FORMAT: &str = "JPEG";

/// The sides of a JPEG picture are 16-bit numbers.
const MAX_SIDE: usize = 65_535;

fn damaged(reason: impl ToString) -> Error {
    Error::Damaged {
        format: FORMAT,
        reason: reason.to_string(),
    }
}

pub(crate) fn decode(file: &[u8]) -> Result<Buffer, Error> {
    let file = guarded(file).ok_or(Error::CutShort {
        format: FORMAT,
        len: file.len(),
    })?;
    let mut decoder = open(&file, ColorSpace::RGBA)?;
    // From printing colours the decoder makes RGB, but no RGBA: it leaves alpha to chance.
    let printing = matches!(
        decoder.input_colorspace(),
        Some(ColorSpace::CMYK | ColorSpace::YCCK)
    );
    if printing {
        decoder = open(&file, ColorSpace::RGB)?;
    }
    let info = decoder.info().ok_or_else(|| damaged("no header"))?;
    let size = Size::new(info.width.into(), info.height.into())?;
    let mut reply = picture::unpainted(size)?;
    let (_, pixels) = picture::parse_mut(&mut reply)?;
    let start = if printing { pixels.len() / 4 } else { 0 };
    if decoder.output_buffer_size() != Some(pixels.len() - start) {
        return Err(damaged("its colours cannot be turned into RGB"));
    }
    decoder.decode_into(&mut pixels[start..]).map_err(damaged)?;
    if printing {
        spread(pixels, |[red, green, blue]| [red, green, blue, 255]);
    }
    Ok(reply)
}

/// A decoder that has read the header.
fn open(file: &[u8], colours: ColorSpace) -> Result<JpegDecoder<ZCursor<&[u8]>>, Error> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(colours);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(damaged)?;
    Ok(decoder)
}

/// The end mark.
const END: u8 = 0xd9;

/// A file up to its end mark, with one bits added to the compressed data before it. `None` without an end mark.
///
/// The decoder, even a strict one, goes on with zeros where the compressed data ends before the picture does, and paints
/// the rest grey. No code consists of ones only (ITU-T T.81, annex C), so with enough of them it notices, and a complete
/// picture never gets to them.
fn guarded(file: &[u8]) -> Option<Vec<u8>> {
    /// A one byte is 0xff, escaped by a zero. Enough for the extra bits of a coefficient and the longest code.
    const ONES: [u8; 16] = [
        0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0,
    ];

    let (end, in_scan) = end_mark(file)?;
    let ones: &[u8] = if in_scan { &ONES } else { &[] };
    Some([&file[..end], ones, &[0xff, END]].concat())
}

/// Where the end mark is that belongs to the file, and not to a thumbnail in one of its segments; and whether compressed
/// data comes before it.
fn end_mark(file: &[u8]) -> Option<(usize, bool)> {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    let mut in_scan = false;
    loop {
        // Between segments there is compressed data or nothing; in both a mark is the next 0xff, or the last of several.
        let first = at + file.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        let mark = first + file[first..].iter().position(|byte| *byte != 0xff)?;
        at = mark + 1;
        match file[mark] {
            END => return Some((first, in_scan)),
            // An escaped 0xff, a restart mark or another one without a segment.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            kind => {
                let length = [*file.get(at)?, *file.get(at + 1)?];
                at += usize::from(u16::from_be_bytes(length)).max(2);
                in_scan = kind == START_OF_SCAN;
            }
        }
    }
}
