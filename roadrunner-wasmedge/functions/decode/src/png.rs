use crate::{spread, Error};
use picture::Size;
use png::{ColorType, Decoder, DecodingError, Transformations};
use roadrunner_guest::Buffer;
use std::io::{Cursor, ErrorKind};

const FORMAT: &str = "PNG";

fn damaged(reason: impl ToString) -> Error {
    Error::Damaged {
        format: FORMAT,
        reason: reason.to_string(),
    }
}

pub(crate) fn decode(file: &[u8]) -> Result<Buffer, Error> {
    let fault = |error: DecodingError| match error {
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Error::CutShort {
                format: FORMAT,
                len: file.len(),
            }
        }
        error => damaged(error),
    };
    let mut decoder = Decoder::new(Cursor::new(file));
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::normalize_to_color8() | Transformations::ALPHA);
    // Before the decoder allocates anything that depends on it.
    let header = decoder.read_header_info().map_err(fault)?;
    let size = Size::new(header.width, header.height)?;
    let mut reader = decoder.read_info().map_err(fault)?;

    let mut reply = picture::unpainted(size)?;
    let (_, pixels) = picture::parse_mut(&mut reply)?;
    match reader.output_color_type().0 {
        ColorType::Rgba => {
            reader.next_frame(pixels).map_err(fault)?;
        }
        ColorType::GrayscaleAlpha => {
            // Two bytes a pixel fill the second half of the room.
            let half = pixels.len() / 2;
            reader.next_frame(&mut pixels[half..]).map_err(fault)?;
            spread(pixels, |[grey, alpha]| [grey, grey, grey, alpha]);
        }
        other => return Err(damaged(format!("colours of the type {other:?}"))),
    }
    // The rest of the file, which says whether it is complete.
    reader.finish().map_err(fault)?;
    Ok(reply)
}
