use super::*;
use ::png::{BitDepth, ColorType, Encoder};
use jpeg_encoder::SamplingFactor;
use proptest::prelude::*;

/// Colours that change slowly, as JPEG likes them, and never twice the same way.
fn rgb(width: usize, height: usize) -> Vec<u8> {
    let pixel = |at: usize| {
        let (x, y) = (at % width, at / width);
        [
            (x * 200 / width) as u8 + 20,
            (y * 200 / height) as u8 + 20,
            ((x + y) * 100 / (width + height)) as u8,
        ]
    };
    (0..width * height).flat_map(pixel).collect()
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Baseline,
    Progressive,
    Restarts,
    Subsampled,
    Grey,
    Cmyk,
    Ycck,
}

const KINDS: [Kind; 7] = [
    Kind::Baseline,
    Kind::Progressive,
    Kind::Restarts,
    Kind::Subsampled,
    Kind::Grey,
    Kind::Cmyk,
    Kind::Ycck,
];

fn jpeg(kind: Kind, width: usize, height: usize) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut file, 95);
    encoder.set_sampling_factor(SamplingFactor::R_4_4_4);
    let rgb = rgb(width, height);
    let (pixels, colours) = match kind {
        Kind::Grey => (
            rgb.chunks_exact(3).map(|rgb| rgb[0]).collect(),
            jpeg_encoder::ColorType::Luma,
        ),
        Kind::Cmyk | Kind::Ycck => {
            let pixels = rgb
                .chunks_exact(3)
                .flat_map(|rgb| [255 - rgb[0], 255 - rgb[1], 255 - rgb[2], 0])
                .collect();
            (
                pixels,
                if matches!(kind, Kind::Cmyk) {
                    jpeg_encoder::ColorType::Cmyk
                } else {
                    jpeg_encoder::ColorType::CmykAsYcck
                },
            )
        }
        _ => (rgb, jpeg_encoder::ColorType::Rgb),
    };
    match kind {
        Kind::Progressive => encoder.set_progressive(true),
        Kind::Restarts => encoder.set_restart_interval(3),
        Kind::Subsampled => encoder.set_sampling_factor(SamplingFactor::R_4_2_0),
        _ => {}
    }
    encoder
        .encode(&pixels, width as u16, height as u16, colours)
        .expect("a JPEG file");
    file
}

fn png(width: u32, height: u32, colours: ColorType, depth: BitDepth, data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, width, height);
    encoder.set_color(colours);
    encoder.set_depth(depth);
    if colours == ColorType::Indexed {
        encoder.set_palette(vec![0, 0, 0, 250, 10, 20, 30, 240, 50, 70, 80, 230]);
        encoder.set_trns(vec![255, 255, 128]);
    }
    encoder
        .write_header()
        .expect("a header")
        .write_image_data(data)
        .expect("a PNG file");
    file
}

fn try_decode(file: &[u8]) -> Result<(u32, u32, Vec<u8>), Error> {
    let reply = decode(Buffer::from(file.to_vec()))?;
    let (size, pixels) = picture::parse(&reply).expect("a decoder makes pictures");
    Ok((size.width(), size.height(), pixels.to_vec()))
}

#[test]
fn jpegs_of_every_kind_come_back() {
    let (width, height) = (67, 45);
    for kind in KINDS {
        let (got_width, got_height, pixels) =
            try_decode(&jpeg(kind, width, height)).expect("a picture");
        assert_eq!(
            (got_width as usize, got_height as usize),
            (width, height),
            "{kind:?}"
        );
        for (at, (pixel, rgb)) in pixels
            .chunks_exact(4)
            .zip(rgb(width, height).chunks_exact(3))
            .enumerate()
        {
            let expected = if matches!(kind, Kind::Grey) {
                [rgb[0]; 3]
            } else {
                [rgb[0], rgb[1], rgb[2]]
            };
            let near = pixel.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 12);
            assert!(
                near && pixel[3] == 255,
                "{kind:?} pixel {at}: {pixel:?} instead of {expected:?}"
            );
        }
    }
}

#[test]
fn pngs_of_every_colour_type_become_rgba() {
    type Case = (ColorType, BitDepth, &'static [u8], [[u8; 4]; 2]);
    let cases: [Case; 9] = [
        (
            ColorType::Rgba,
            BitDepth::Eight,
            &[1, 2, 3, 4, 5, 6, 7, 8],
            [[1, 2, 3, 4], [5, 6, 7, 8]],
        ),
        (
            ColorType::Rgb,
            BitDepth::Eight,
            &[1, 2, 3, 5, 6, 7],
            [[1, 2, 3, 255], [5, 6, 7, 255]],
        ),
        (
            ColorType::Grayscale,
            BitDepth::Eight,
            &[9, 200],
            [[9, 9, 9, 255], [200, 200, 200, 255]],
        ),
        (
            ColorType::GrayscaleAlpha,
            BitDepth::Eight,
            &[9, 1, 200, 2],
            [[9, 9, 9, 1], [200, 200, 200, 2]],
        ),
        (
            ColorType::Grayscale,
            BitDepth::One,
            &[0b0100_0000],
            [[0, 0, 0, 255], [255; 4]],
        ),
        (
            ColorType::Grayscale,
            BitDepth::Sixteen,
            &[9, 0, 200, 0],
            [[9, 9, 9, 255], [200, 200, 200, 255]],
        ),
        (
            ColorType::Rgb,
            BitDepth::Sixteen,
            &[1, 0, 2, 0, 3, 0, 5, 0, 6, 0, 7, 0],
            [[1, 2, 3, 255], [5, 6, 7, 255]],
        ),
        (
            ColorType::Indexed,
            BitDepth::Eight,
            &[1, 2],
            [[250, 10, 20, 255], [30, 240, 50, 128]],
        ),
        (
            ColorType::Indexed,
            BitDepth::Two,
            &[0b1101_0000],
            [[70, 80, 230, 255], [250, 10, 20, 255]],
        ),
    ];
    for (colours, depth, data, expected) in cases {
        let picture = try_decode(&png(2, 1, colours, depth, data)).expect("a picture");
        assert_eq!(picture, (2, 1, expected.concat()), "{colours:?} {depth:?}");
    }
}

#[test]
fn grey_and_alpha_are_spread_over_a_whole_picture() {
    let pairs: Vec<u8> = (0..13 * 7).flat_map(|at| [at, 255 - at]).collect();
    let expected: Vec<u8> = (0..13 * 7).flat_map(|at| [at, at, at, 255 - at]).collect();
    let file = png(13, 7, ColorType::GrayscaleAlpha, BitDepth::Eight, &pairs);
    assert_eq!(try_decode(&file).expect("a picture"), (13, 7, expected));
}

#[test]
fn a_jpeg_cut_anywhere_is_cut_short() {
    for kind in KINDS {
        let file = jpeg(kind, 67, 45);
        for len in 1..file.len() {
            let result = try_decode(&file[..len]);
            assert!(
                matches!(result, Err(Error::CutShort { .. })),
                "{kind:?} {len} of {}",
                file.len()
            );
        }
    }
}

#[test]
fn a_png_cut_anywhere_is_cut_short() {
    for colours in [ColorType::Rgb, ColorType::GrayscaleAlpha] {
        let data: Vec<u8> = (0..40 * 30 * colours.samples())
            .map(|at| (at * 31 % 251) as u8)
            .collect();
        let file = png(40, 30, colours, BitDepth::Eight, &data);
        for len in 1..file.len() {
            let result = try_decode(&file[..len]);
            assert!(
                matches!(result, Err(Error::CutShort { .. })),
                "{len} of {}",
                file.len()
            );
        }
    }
}

#[test]
fn the_end_mark_of_a_thumbnail_is_not_the_pictures() {
    let mut file = jpeg(Kind::Baseline, 32, 32);
    let thumbnail = jpeg(Kind::Grey, 8, 8);
    let mut segment = vec![0xff, 0xe1];
    segment.extend_from_slice(&(thumbnail.len() as u16 + 2).to_be_bytes());
    segment.extend_from_slice(&thumbnail);
    file.splice(2..2, segment);
    assert!(try_decode(&file).is_ok());
    file.truncate(file.len() - 2);
    assert!(matches!(try_decode(&file), Err(Error::CutShort { .. })));
}

#[test]
fn a_jpeg_that_was_cut_and_closed_is_damaged() {
    let has_one_scan = |kind: &&Kind| !matches!(kind, Kind::Progressive);
    for kind in KINDS.iter().filter(has_one_scan) {
        let file = jpeg(*kind, 67, 45);
        let scan = file
            .windows(2)
            .position(|mark| mark == [0xff, 0xda])
            .expect("a scan");
        // The scan's header has less than 20 bytes; the last 4 of its data may be no more than the last block's padding.
        for len in scan + 20..file.len() - 6 {
            let result = try_decode(&[&file[..len], &[0xff, 0xd9]].concat());
            assert!(
                matches!(result, Err(Error::Damaged { .. })),
                "{kind:?} {len} of {}",
                file.len()
            );
        }
    }
    // Between two scans of a progressive file nothing tells that more were to come.
    let file = jpeg(Kind::Progressive, 67, 45);
    let last_scan = file
        .windows(2)
        .rposition(|mark| mark == [0xff, 0xda])
        .expect("a scan");
    let result = try_decode(&[&file[..(last_scan + file.len()) / 2], &[0xff, 0xd9]].concat());
    assert!(matches!(result, Err(Error::Damaged { .. })));
}

#[test]
fn what_follows_the_end_mark_does_not_matter() {
    let jpeg = [jpeg(Kind::Baseline, 9, 9), b"padding".to_vec()].concat();
    let png = [
        png(1, 1, ColorType::Rgb, BitDepth::Eight, &[1, 2, 3]),
        b"padding".to_vec(),
    ]
    .concat();
    assert!(try_decode(&jpeg).is_ok());
    assert!(try_decode(&png).is_ok());
}

#[test]
fn what_is_no_picture_is_said_to_be_none() {
    for bytes in [
        &b""[..],
        b"GIF89a",
        b"{\"width\": 4}",
        &[0; 100],
        b"\x89PNG\r\n\x1a\r more",
    ] {
        let error = try_decode(bytes).expect_err("no picture");
        assert!(matches!(error, Error::NotAPicture(_)), "{error}");
        assert!(error.to_string().starts_with("not a picture"), "{error}");
    }
}

#[test]
fn a_picture_that_is_too_large_is_refused_before_it_is_made() {
    // A header that claims 65,535 x 65,535 pixels.
    let mut file = jpeg(Kind::Baseline, 32, 32);
    let frame = file
        .windows(2)
        .position(|mark| mark == [0xff, 0xc0])
        .expect("a frame header");
    file[frame + 5..frame + 9].fill(0xff);
    let error = try_decode(&file).expect_err("too large");
    assert!(
        matches!(error, Error::Picture(picture::Error::TooLarge { .. })),
        "{error}"
    );

    let mut file = png(2, 1, ColorType::Rgb, BitDepth::Eight, &[0; 6]);
    file[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let checksum = crc(&file[12..29]);
    file[29..33].copy_from_slice(&checksum.to_be_bytes());
    let error = try_decode(&file).expect_err("too large");
    assert!(
        matches!(error, Error::Picture(picture::Error::TooLarge { .. })),
        "{error}"
    );
}

/// The checksum of a PNG chunk (PNG specification, annex D), bit by bit.
/// Large enough for a slot.
const LARGE: (usize, usize) = (640, 450);

/// Decodes into a slot whose every byte was `before`.
fn decode_over(before: u8, file: &[u8]) -> Result<Buffer, Error> {
    let mut slot = roadrunner_guest::loan(picture::HEADER + LARGE.0 * LARGE.1 * 4).expect("memory");
    slot.fill(before);
    let address = slot.as_ptr();
    drop(slot);
    let picture = decode(Buffer::from(file.to_vec()))?;
    assert_eq!(picture.as_ptr(), address, "another buffer");
    Ok(picture)
}

/// Pictures are decoded into memory that an earlier picture lay in.
fn nothing_is_left_of_an_earlier_picture(file: &[u8]) -> bool {
    match (decode_over(0x55, file), decode_over(0xaa, file)) {
        (Ok(once), Ok(again)) => once[..] == again[..],
        (Err(once), Err(again)) => once.to_string() == again.to_string(),
        _ => false,
    }
}

#[test]
fn every_pixel_is_painted() {
    let (width, height) = LARGE;
    for kind in KINDS {
        assert!(
            nothing_is_left_of_an_earlier_picture(&jpeg(kind, width, height)),
            "{kind:?}"
        );
    }
    for (colours, channels) in [
        (ColorType::Rgba, 4),
        (ColorType::Rgb, 3),
        (ColorType::GrayscaleAlpha, 2),
        (ColorType::Grayscale, 1),
    ] {
        let data: Vec<u8> = (0..width * height * channels)
            .map(|at| (at * 7 % 253) as u8)
            .collect();
        let file = png(width as u32, height as u32, colours, BitDepth::Eight, &data);
        assert!(nothing_is_left_of_an_earlier_picture(&file), "{colours:?}");
    }
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damage_is_an_error_or_a_picture_but_never_a_panic(
        kind in prop::sample::select(&KINDS[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        // Without a change to the size, which is not what this is about and would make it slow.
        let mut file = jpeg(kind, 33, 21);
        let frame = file.windows(2).position(|mark| mark[0] == 0xff && matches!(mark[1], 0xc0..=0xc2)).expect("a frame");
        for (at, byte) in changes {
            let at = at.index(file.len());
            if !(frame + 5..frame + 9).contains(&at) {
                file[at] = byte;
            }
        }
        if let Ok((width, height, pixels)) = try_decode(&file) {
            prop_assert_eq!(width as usize * height as usize * 4, pixels.len());
        }
    }

    #[test]
    fn damage_shows_nothing_of_an_earlier_picture(
        kind in prop::sample::select(&KINDS[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = jpeg(kind, LARGE.0, LARGE.1);
        let frame = file.windows(2).position(|mark| mark[0] == 0xff && matches!(mark[1], 0xc0..=0xc2)).expect("a frame");
        for (at, byte) in changes {
            let at = at.index(file.len());
            if !(frame + 5..frame + 9).contains(&at) {
                file[at] = byte;
            }
        }
        prop_assert!(nothing_is_left_of_an_earlier_picture(&file));
    }

    #[test]
    fn any_bytes_behind_a_signature_are_judged_without_a_panic(
        jpeg in any::<bool>(), tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let signature = if jpeg { JPEG } else { PNG };
        prop_assert!(try_decode(&[signature, &tail].concat()).is_err());
    }

    #[test]
    fn damage_to_a_png_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let data: Vec<u8> = (0..20 * 20 * 4).map(|at| (at * 31 % 251) as u8).collect();
        let mut file = png(20, 20, ColorType::Rgba, BitDepth::Eight, &data);
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(try_decode(&file).is_err(), "byte {at} of {}", file.len());
    }
}
