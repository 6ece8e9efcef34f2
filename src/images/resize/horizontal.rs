//! The horizontal pass over some rows: source pixels to the window's columns.
//!
//! The scalar code is the rule; `avx2` and `avx512` compute the same sums with the same
//! wrap-around.

use super::Vector;
use super::taps::{PRECISION_BITS, ROUND, Taps};

/// How many rows go best together: they share the work on the weights.
pub const BLOCK: usize = 8;

/// Resamples rows, up to `BLOCK` of them: the first starts at `source`, the next `stride` bytes
/// later. `out` takes them one after the other, u8 RGB, `taps.len() * 3` bytes each.
pub fn rows(source: &[u8], stride: usize, taps: &Taps, out: &mut [u8]) {
    let row_bytes = taps.len() * 3;
    let done = match taps.vector() {
        #[cfg(target_arch = "x86_64")]
        Vector::Avx512 => super::avx512::horizontal(source, stride, taps, out),
        #[cfg(target_arch = "x86_64")]
        Vector::Avx2 => super::avx2::horizontal(source, stride, taps, out),
        _ => 0,
    };
    for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
        scalar(&source[row * stride..], taps, out, done);
    }
}

/// The columns from `first` on. `source` starts at the row.
fn scalar(source: &[u8], taps: &Taps, out: &mut [u8], first: usize) {
    let pixels = out.as_chunks_mut::<3>().0.iter_mut().enumerate().skip(first);
    for (slot, pixel) in pixels {
        let (start, weights) = taps.at(slot);
        let mut sums = [ROUND; 3];
        let source = source[start * 3..].as_chunks::<3>().0;
        for (rgb, &weight) in source.iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(rgb) {
                *sum = sum.wrapping_add(i32::from(value).wrapping_mul(weight));
            }
        }
        *pixel = sums.map(clip);
    }
}

/// To u8, saturating.
pub fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}
