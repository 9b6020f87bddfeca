//! Encodes a raw picture (the layout of `picture`) as PNG. Equal pictures give equal files.

use picture::Size;
use png::{BitDepth, ColorType, Compression, Encoder, EncodingError};
use roadrunner_guest::{function, Buffer};

function!(encode);

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The payload is not a picture.
    #[error(transparent)]
    Picture(#[from] picture::Error),
    /// The encoder failed, for lack of memory.
    #[error("the picture cannot be encoded: {0}")]
    Encoder(#[from] EncodingError),
}

/// The handler.
///
/// # Errors
/// Any [`Error`].
pub fn encode(payload: Buffer) -> Result<Buffer, Error> {
    let (size, pixels) = picture::parse(&payload)?;
    Ok(write(size, pixels)?)
}

fn write(size: Size, pixels: &[u8]) -> Result<Buffer, EncodingError> {
    let mut file = Buffer::default();
    let mut encoder = Encoder::new(&mut file, size.width(), size.height());
    encoder.set_color(ColorType::Rgba);
    encoder.set_depth(BitDepth::Eight);
    // Near the usual compression at a fraction of its time: a picture between functions is short-lived.
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn payload(size: Size, bytes: &[u8]) -> Buffer {
        let mut payload = picture::blank(size).expect("memory");
        picture::parse_mut(&mut payload)
            .expect("a picture")
            .1
            .copy_from_slice(bytes);
        payload
    }

    /// What an independent reading of the file gives.
    fn decoded(file: &[u8]) -> (u32, u32, ColorType, Vec<u8>) {
        let mut reader = png::Decoder::new(Cursor::new(file))
            .read_info()
            .expect("a PNG file");
        let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
        let info = reader.next_frame(&mut pixels).expect("pixels");
        reader.finish().expect("an end mark");
        (info.width, info.height, info.color_type, pixels)
    }

    #[test]
    fn what_is_not_a_picture_is_refused() {
        for bytes in [&b""[..], &[0; 64], &[0; 1000]] {
            assert!(matches!(
                encode(Buffer::from(bytes.to_vec())),
                Err(Error::Picture(_))
            ));
        }
    }

    #[test]
    fn a_large_flat_picture_becomes_small() {
        let size = Size::new(1000, 1000).expect("a size");
        let file = encode(payload(size, &vec![200; size.pixels()])).expect("a file");
        assert!(file.len() < 100_000, "{}", file.len());
        assert_eq!(decoded(&file).3, vec![200; size.pixels()]);
    }

    proptest! {
        #[test]
        fn every_picture_comes_back_and_gives_one_file(
            (width, height, bytes) in (1..40_u32, 1..40_u32).prop_flat_map(|(width, height)| {
                let bytes = (width * height * 4) as usize;
                let noise = prop::collection::vec(any::<u8>(), bytes);
                let calm = prop::collection::vec(0..3_u8, bytes);
                (Just(width), Just(height), prop_oneof![noise, calm])
            }),
        ) {
            let size = Size::new(width, height).expect("a size");
            let file = encode(payload(size, &bytes)).expect("a file");
            let again = encode(payload(size, &bytes)).expect("a file");
            prop_assert_eq!(&*file, &*again);
            prop_assert_eq!(decoded(&file), (width, height, ColorType::Rgba, bytes));
        }
    }
}
