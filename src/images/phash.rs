//! The perceptual hash that people compare with: `phash` of Python's ImageHash.
//!
//! Of the pixels that the model sees, so transparency lies on white: greys as Pillow's
//! `convert("L")`, 32 x 32 by Pillow's Lanczos, the 8 x 8 lowest frequencies of the cosine
//! transform, and a bit for each that is above their median. Which hashes are near one another is
//! not said here.

use std::f64::consts::PI;

use super::resize::{Filter, Resize, Rgb, Size};

/// Bits a side of the hash.
const SIDE: usize = 8;

/// Pixels a side of what is transformed: `hash_size * highfreq_factor` of ImageHash.
const PIXELS: usize = 32;

/// Coefficients this near to the median (of values up to 10^6) are the median, and give no bit.
/// Of a symmetric picture half of them are 0 but for rounding.
const NEAR: f64 = 1e-6;

/// The hash of an image, whose pixels become greys. The first bit of the first row is the highest:
/// `int(str(imagehash.phash(image)), 16)`.
///
/// The same as ImageHash 4.3's but for the bits of coefficients that are the median up to
/// rounding.
pub fn phash(image: &mut Rgb) -> u64 {
    grey(&mut image.data);
    let mut pixels = [0; PIXELS * PIXELS * 3];
    let to = Size { width: PIXELS, height: PIXELS };
    Resize::whole(to, Filter::Lanczos).apply(image, &mut pixels, PIXELS * 3);
    let low = low_frequencies(&pixels);
    let mut sorted = low;
    sorted.sort_by(f64::total_cmp);
    let median = (sorted[SIDE * SIDE / 2 - 1] + sorted[SIDE * SIDE / 2]) / 2.0;
    low.iter().fold(0, |hash, value| hash << 1 | u64::from(*value > median + NEAR))
}

/// `ImagingConvert` from RGB to L, in all three samples of a pixel.
fn grey(data: &mut [u8]) {
    for pixel in data.as_chunks_mut::<3>().0 {
        let [red, green, blue] = pixel.map(u32::from);
        // At most 255, as the weights add up to 65536.
        *pixel = [((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8; 3];
    }
}

/// The lowest frequencies of the type-II cosine transform along both axes, row after row, scaled
/// as SciPy's `fftpack.dct` without `norm`.
fn low_frequencies(pixels: &[u8; PIXELS * PIXELS * 3]) -> [f64; SIDE * SIDE] {
    let cosine = |frequency: usize, at: usize| {
        2.0 * (PI * (frequency * (2 * at + 1)) as f64 / (2 * PIXELS) as f64).cos()
    };
    let basis: [[f64; PIXELS]; SIDE] =
        std::array::from_fn(|frequency| std::array::from_fn(|at| cosine(frequency, at)));
    let mut low = [0.0; SIDE * SIDE];
    for (frequency, down) in basis.iter().enumerate() {
        // The columns, each at this frequency.
        let column =
            |x| (0..PIXELS).map(|y| down[y] * f64::from(pixels[(y * PIXELS + x) * 3])).sum();
        let columns: [f64; PIXELS] = std::array::from_fn(column);
        for (across, value) in basis.iter().zip(&mut low[frequency * SIDE..]) {
            *value = across.iter().zip(&columns).map(|(a, b)| a * b).sum();
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of one grey has one coefficient.
    #[test]
    fn a_plain_picture_has_one_bit_and_a_ramp_has_those_of_its_direction() {
        let mut plain = Rgb { width: 40, height: 50, data: vec![77; 40 * 50 * 3] };
        assert_eq!(phash(&mut plain), 1 << 63);
        // Darker to the right: the first frequencies of the first row, and those odd alone.
        let ramp = (0..64 * 64 * 3).map(|at| 255 - (at / 3 % 64 * 4) as u8).collect();
        let hash = phash(&mut Rgb { width: 64, height: 64, data: ramp });
        assert_eq!(hash & !(0xff << 56), 0, "{hash:016x}");
        assert_eq!(hash >> 62, 0b11, "{hash:016x}");
    }
}
