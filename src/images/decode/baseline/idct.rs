//! The inverse DCT of libjpeg's `JDCT_ISLOW`: `jpeg_idct_islow` of jidctint.c as libjpeg-turbo's
//! vector code computes it, in 16 bits that wrap.
//!
//! Four blocks beside each other are transformed at once.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod kernel;
mod scalar;

use super::scan::{Coefficients, LANES};
use crate::images::resize::Vector;

/// Pixels of a row of the blocks.
pub const ROW: usize = 8 * LANES;

/// Above it libjpeg-turbo's result depends on which of its shortcuts a block takes. Coefficients
/// of an image are up to 1,024 and rounded to a multiple of up to 255.
const SANE: i16 = 8191;

/// Four blocks' coefficients, and what they are multiplied with.
pub struct Blocks<'a> {
    pub coefficients: &'a Coefficients,
    pub quant: &'a [i16; 64],
    /// Whether all but the first coefficient of each block are zero.
    pub flat: bool,
}

impl Blocks<'_> {
    /// Writes eight rows of `ROW` pixels, each `stride` bytes after the last. `None` if a
    /// coefficient is larger than any image's.
    pub fn transform(&self, vector: Vector, out: &mut [u8], stride: usize) -> Option<()> {
        let sane = match vector {
            _ if self.flat => self.fill(out, stride),
            #[cfg(target_arch = "x86_64")]
            Vector::Avx512 => avx512::transform(self, out, stride),
            #[cfg(target_arch = "x86_64")]
            Vector::Avx2 => avx2::transform(self, out, stride),
            _ => scalar::transform(self, out, stride),
        };
        sane.then_some(())
    }

    fn fill(&self, out: &mut [u8], stride: usize) -> bool {
        let mut row = [0; ROW];
        let mut sane = true;
        for (pixels, blocks) in row.chunks_exact_mut(8).zip(self.coefficients.chunks_exact(8)) {
            let dc = blocks[0].wrapping_mul(self.quant[0]);
            sane &= is_sane(dc);
            pixels.fill(scalar::pixel((i32::from(dc) * 4) << 13));
        }
        for y in 0..8 {
            out[y * stride..][..ROW].copy_from_slice(&row);
        }
        sane
    }
}

fn is_sane(coefficient: i16) -> bool {
    (-SANE - 1..=SANE).contains(&coefficient)
}

/// jidctint.c's constants, with 13 fractional bits.
const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;

/// What the first pass, over columns, and the second, over rows, shift their results by.
const SHIFTS: [u32; 2] = [13 - 2, 13 + 2 + 3];

#[cfg(test)]
mod tests {
    use super::*;

    /// Of images and of noise, whose sums wrap.
    #[test]
    fn vectors_give_what_a_column_at_a_time_does() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 48) as i16
        };
        for case in 0..2000 {
            let (shift, quant) = (case % 16, [1 + random().rem_euclid(255); 64]);
            let mut coefficients = [0; _];
            for coefficient in &mut coefficients {
                *coefficient = if random() % 3 == 0 { random() >> shift } else { 0 };
            }
            let flat = case % 50 == 0;
            if flat {
                coefficients =
                    std::array::from_fn(|at| if at % 8 == 0 && at < ROW { at as i16 } else { 0 });
            }
            let transform = |vector: Vector, flat: bool| {
                let blocks = Blocks { coefficients: &coefficients, quant: &quant, flat };
                let mut out = [0; 8 * ROW];
                blocks.transform(vector, &mut out, ROW).map(|()| out)
            };
            let expected = transform(Vector::Scalar, false);
            for vector in Vector::available() {
                assert_eq!(transform(vector, flat), expected, "{vector:?}, case {case}");
            }
        }
    }
}
