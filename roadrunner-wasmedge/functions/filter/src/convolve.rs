use picture::Size;

/// Weights of a pixel's neighbourhood, whose sum is `1 << shift`. Their absolute values add up to at most 2^22, so that a
/// sum of weighted bytes fits in 32 bits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Row after row, of `2 * radius + 1` each.
    weights: &'static [i32],
    radius: usize,
    shift: u32,
}

/// Takes away a quarter of what the four neighbours differ, times four: the edges gain what the flats lack.
pub(crate) const SHARPEN: Kernel = Kernel {
    weights: &[0, -1, 0, -1, 5, -1, 0, -1, 0],
    radius: 1,
    shift: 0,
};

/// The binomial weights 1 4 6 4 1 in both directions, close to a Gaussian of one pixel's deviation.
#[rustfmt::skip]
pub(crate) const BLUR: Kernel = Kernel {
    weights: &[
        1,  4,  6,  4, 1,
        4, 16, 24, 16, 4,
        6, 24, 36, 24, 6,
        4, 16, 24, 16, 4,
        1,  4,  6,  4, 1,
    ],
    radius: 2,
    shift: 8,
};

const PIXEL: usize = 4;

/// Convolves the picture where it lies. The rows that later rows still need unchanged are kept in a ring of
/// `2 * radius + 1` copies, each continued beyond its ends, so the work space is a few rows.
pub(crate) fn in_place(pixels: &mut [u8], size: Size, kernel: &Kernel) {
    let (height, row, radius) = (size.height() as usize, size.row(), kernel.radius);
    let diameter = 2 * radius + 1;
    let mut ring = vec![vec![0; row + 2 * radius * PIXEL]; diameter];
    let mut sums = vec![0; row];
    let last = height - 1;

    for ahead in 0..radius.min(height) {
        keep(
            &mut ring[ahead % diameter],
            &pixels[ahead * row..][..row],
            radius,
        );
    }
    for y in 0..height {
        // The row that comes into reach takes the place of the one that leaves it.
        if y + radius <= last {
            keep(
                &mut ring[(y + radius) % diameter],
                &pixels[(y + radius) * row..][..row],
                radius,
            );
        }
        sums.fill(0);
        for (dy, weights) in kernel.weights.chunks_exact(diameter).enumerate() {
            let source = &ring[(y + dy).saturating_sub(radius).min(last) % diameter];
            for (dx, weight) in weights
                .iter()
                .enumerate()
                .filter(|(_, weight)| **weight != 0)
            {
                add_weighted(&mut sums, &source[dx * PIXEL..][..row], *weight);
            }
        }
        round_into(&mut pixels[y * row..][..row], &sums, kernel.shift);
    }
}

/// Copies a row, with its first and last pixel repeated `radius` times beyond its ends.
fn keep(kept: &mut [u8], row: &[u8], radius: usize) {
    let margin = radius * PIXEL;
    let (before, rest) = kept.split_at_mut(margin);
    let (middle, after) = rest.split_at_mut(row.len());
    middle.copy_from_slice(row);
    for pixel in before.chunks_exact_mut(PIXEL) {
        pixel.copy_from_slice(&row[..PIXEL]);
    }
    for pixel in after.chunks_exact_mut(PIXEL) {
        pixel.copy_from_slice(&row[row.len() - PIXEL..]);
    }
}

/// A plain loop over two slices of one length, which the compiler turns into vector instructions.
fn add_weighted(sums: &mut [i32], source: &[u8], weight: i32) {
    for (sum, byte) in sums.iter_mut().zip(source) {
        *sum += weight * i32::from(*byte);
    }
}

/// Writes the rounded colours and leaves alpha alone.
fn round_into(row: &mut [u8], sums: &[i32], shift: u32) {
    let half = (1 << shift) >> 1;
    for (pixel, sums) in row.chunks_exact_mut(PIXEL).zip(sums.chunks_exact(PIXEL)) {
        for channel in 0..PIXEL - 1 {
            pixel[channel] = ((sums[channel] + half) >> shift).clamp(0, 255) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, pixel by pixel.
    fn naive(pixels: &[u8], size: Size, kernel: &Kernel) -> Vec<u8> {
        let (width, height) = (i64::from(size.width()), i64::from(size.height()));
        let reach = kernel.radius as i64;
        let mut result = pixels.to_vec();
        for y in 0..height {
            for x in 0..width {
                for channel in 0..3 {
                    let mut sum = 0_i64;
                    let mut weights = kernel.weights.iter();
                    for dy in -reach..=reach {
                        for dx in -reach..=reach {
                            let (near_x, near_y) =
                                ((x + dx).clamp(0, width - 1), (y + dy).clamp(0, height - 1));
                            let byte = pixels[((near_y * width + near_x) * 4 + channel) as usize];
                            sum += i64::from(*weights.next().expect("a weight")) * i64::from(byte);
                        }
                    }
                    let value = (sum as f64 / f64::from(1 << kernel.shift) + 0.5).floor();
                    result[((y * width + x) * 4 + channel) as usize] =
                        value.clamp(0.0, 255.0) as u8;
                }
            }
        }
        result
    }

    fn size(width: u32, height: u32) -> Size {
        Size::new(width, height).expect("a size")
    }

    #[test]
    fn the_weights_keep_brightness_and_fit() {
        for kernel in [&SHARPEN, &BLUR] {
            assert_eq!(kernel.weights.len(), (2 * kernel.radius + 1).pow(2));
            assert_eq!(kernel.weights.iter().sum::<i32>(), 1 << kernel.shift);
            assert!(
                kernel
                    .weights
                    .iter()
                    .map(|weight| weight.abs())
                    .sum::<i32>()
                    <= 1 << 22
            );
        }
    }

    #[test]
    fn sharpening_a_known_picture() {
        // A column edge from 100 to 110: the dark side of it darkens by 10, the bright side brightens.
        let mut pixels: Vec<u8> = (0..12)
            .flat_map(|at| if at % 4 < 2 { [100; 4] } else { [110; 4] })
            .collect();
        in_place(&mut pixels, size(4, 3), &SHARPEN);
        let expected: Vec<u8> = (0..12)
            .flat_map(|at| {
                [
                    [100, 100, 100, 100],
                    [90, 90, 90, 100],
                    [120, 120, 120, 110],
                    [110; 4],
                ][at % 4]
            })
            .collect();
        assert_eq!(pixels, expected);
    }

    #[test]
    fn blurring_a_point_paints_the_kernel() {
        let mut pixels = vec![0; 7 * 7 * 4];
        pixels[(3 * 7 + 3) * 4 + 1] = 255;
        pixels[(3 * 7 + 3) * 4 + 3] = 77;
        in_place(&mut pixels, size(7, 7), &BLUR);
        for y in 0..7 {
            for x in 0..7 {
                let weight = match (x, y) {
                    (1..=5, 1..=5) => BLUR.weights[(y - 1) * 5 + x - 1],
                    _ => 0,
                };
                let green = ((255 * weight + 128) / 256) as u8;
                let alpha = if (x, y) == (3, 3) { 77 } else { 0 };
                assert_eq!(
                    pixels[(y * 7 + x) * 4..][..4],
                    [0, green, 0, alpha],
                    "{x} {y}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn every_picture_comes_out_as_defined(
            (width, height, pixels) in (1..12_u32, 1..12_u32).prop_flat_map(|(width, height)| {
                let bytes = (width * height * 4) as usize;
                (Just(width), Just(height), prop::collection::vec(any::<u8>(), bytes))
            }),
        ) {
            for kernel in [&SHARPEN, &BLUR] {
                let mut actual = pixels.clone();
                in_place(&mut actual, size(width, height), kernel);
                prop_assert_eq!(&actual, &naive(&pixels, size(width, height), kernel));
            }
        }
    }
}
