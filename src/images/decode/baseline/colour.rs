//! Chroma between its samples, and YCbCr to RGB: jdsample.c's "fancy" upsampling and jdcolor.c,
//! a row of pixels at a time.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod kernel;
mod scalar;

use crate::images::resize::Vector;

/// Those of the vector instructions that there is code for.
pub fn supported(vector: Vector) -> Vector {
    match vector {
        #[cfg(target_arch = "x86_64")]
        Vector::Avx512 if !is_x86_feature_detected!("avx512vbmi") => Vector::Avx2,
        vector => vector,
    }
}

/// How many samples past a row's last the vector code may read.
pub const OVERREAD: usize = 64;

/// How many pixels there are to a sample of chroma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// There is no chroma.
    Gray,
    /// 4:4:4
    Full,
    /// 4:2:2: two pixels across.
    Across,
    /// 4:4:0: two pixels down.
    Down,
    /// 4:2:0: two by two.
    Both,
}

/// A row of samples of chroma, from the one before the first pixel's.
#[derive(Debug, Clone, Copy)]
pub struct Chroma<'a> {
    /// The row that the pixels are in.
    pub near: &'a [u8],
    /// The other one that they are next to. Not used unless chroma is sampled down.
    pub far: &'a [u8],
}

/// The samples of a row of pixels, the first of which has an even column.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub sampling: Sampling,
    pub luma: &'a [u8],
    pub chroma: [Chroma<'a>; 2],
    /// Whether `far` is above `near`.
    pub far_is_above: bool,
}

impl Row<'_> {
    /// Writes RGB pixels, as many as fit.
    pub fn write(&self, vector: Vector, out: &mut [u8]) {
        match vector {
            #[cfg(target_arch = "x86_64")]
            Vector::Avx512 => avx512::write(self, out),
            #[cfg(target_arch = "x86_64")]
            Vector::Avx2 => avx2::write(self, out),
            _ => scalar::write(self, out),
        }
    }

    /// What jdsample.c adds before it shifts a 4:4:0 sample.
    fn bias(&self) -> i16 {
        if self.far_is_above { 1 } else { 2 }
    }
}

/// jdcolor.c's constants with 16 fractional bits, less what is added in whole: 1.402 - 1,
/// 1.772 - 2, 0.34414 and 1 - 0.71414.
const CR_RED: i16 = 26345;
const CB_BLUE: i16 = -14942;
const CB_GREEN: i16 = -22554;
const CR_GREEN: i16 = 18734;

#[cfg(test)]
mod tests {
    use super::*;

    /// jdcolor.c's tables, of 65,536ths.
    fn jdcolor(y: u8, cb: u8, cr: u8) -> [u8; 3] {
        let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
        let half = 1 << 15;
        let red = y + ((91_881 * cr + half) >> 16);
        let green = y + ((-22_554 * cb - 46_802 * cr + half) >> 16);
        let blue = y + ((116_130 * cb + half) >> 16);
        [red, green, blue].map(|value| value.clamp(0, 255) as u8)
    }

    #[test]
    fn every_colour_is_jdcolors() {
        let none = &[0; 257 + OVERREAD][..];
        for vector in Vector::available().into_iter().map(supported) {
            for (y, cb) in (0..=255).map(|cb| (cb ^ 0x5a, cb)) {
                let luma = [y; 256 + OVERREAD];
                let blue = [cb; 257 + OVERREAD];
                // The first is of the pixel before.
                let red: Vec<u8> = (0..257 + OVERREAD).map(|x| (x + 255) as u8).collect();
                let chroma = [&blue[..], &red].map(|near| Chroma { near, far: none });
                let sampling = Sampling::Full;
                let row = Row { sampling, luma: &luma, chroma, far_is_above: false };
                let mut out = [0; 3 * 256];
                row.write(vector, &mut out);
                let expected: Vec<u8> = (0..=255).flat_map(|cr| jdcolor(y, cb, cr)).collect();
                assert_eq!(out[..], expected, "{vector:?}, Y {y}, Cb {cb}");
            }
        }
    }
}
