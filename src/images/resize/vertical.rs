//! The vertical pass over one output row: a weighted sum of horizontally resampled rows.
//!
//! The scalar code is the rule; `avx2` and `avx512` compute the same sums with the same
//! wrap-around.

use super::Vector;
use super::horizontal::clip;
use super::taps::{ROUND, Taps};

/// The rows of the horizontal pass that one output row sums, in order.
pub struct Rows<'a> {
    pub data: &'a [u8],
    pub row_bytes: usize,
    /// Where each row starts in `data`.
    pub offsets: &'a [usize],
}

impl Rows<'_> {
    /// The `index`th of the rows.
    pub fn at(&self, index: usize) -> &[u8] {
        &self.data[self.offsets[index]..][..self.row_bytes]
    }
}

/// Sums the rows that output `slot` of the taps reads to `out`, which is `row_bytes` long.
pub fn row(rows: &Rows<'_>, (taps, slot): (&Taps, usize), out: &mut [u8]) {
    let weights = taps.at(slot).1;
    let done = match taps.vector() {
        #[cfg(target_arch = "x86_64")]
        Vector::Avx512 => {
            super::avx512::vertical(rows, taps.limbs(slot).1, out);
            out.len()
        }
        #[cfg(target_arch = "x86_64")]
        Vector::Avx2 => super::avx2::vertical(rows, weights, out),
        _ => 0,
    };
    for (x, out) in out.iter_mut().enumerate().skip(done) {
        let mut sum = ROUND;
        for (index, &weight) in weights.iter().enumerate() {
            let value = i32::from(rows.at(index)[x]);
            sum = sum.wrapping_add(value.wrapping_mul(weight));
        }
        *out = clip(sum);
    }
}
