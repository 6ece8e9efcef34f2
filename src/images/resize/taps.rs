//! Which source pixels make an output pixel, and how much of each: Pillow's weights.
//!
//! `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's `libImaging/Resample.c`, in the
//! same order of operations, because the last bit of a weight moves a pixel.

use std::f64::consts::PI;
use std::ops::Range;

use super::Filter;

/// Fractional bits of a weight: 8 bits of result, 2 for overshoot, the rest of an i32.
pub const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Bits of the lower part of a split weight.
pub const SPLIT: i32 = 12;

/// Half of the last place, so that the shift rounds.
pub const ROUND: i32 = 1 << (PRECISION_BITS - 1);

/// The weights of a range of output pixels along one axis.
pub struct Taps {
    /// Source index of each output's first weight.
    starts: Vec<usize>,
    /// Number of weights of each output, at least 1.
    lens: Vec<usize>,
    /// `stride` weights an output, those past its length zero.
    weights: Vec<i32>,
    /// What `split` gives, for every four weights.
    split: Vec<[i16; 8]>,
    stride: usize,
}

impl Taps {
    /// Weights for the outputs in `window` when `from` pixels become `to`.
    pub fn new(from: usize, to: usize, window: &Range<usize>, filter: Filter) -> Self {
        let scale = from as f64 / to as f64;
        let filter_scale = scale.max(1.0);
        let support = radius(filter) * filter_scale;
        let inverse = 1.0 / filter_scale;
        // A multiple of four, because they are split by fours.
        let stride = (support.ceil() as usize * 2 + 1).min(from).next_multiple_of(4);
        let n = window.len();
        let mut taps = Self {
            starts: Vec::with_capacity(n),
            lens: Vec::with_capacity(n),
            weights: vec![0; n * stride],
            split: Vec::new(),
            stride,
        };
        let mut exact = vec![0.0; stride];
        for (slot, output) in window.clone().enumerate() {
            let centre = (output as f64 + 0.5) * scale;
            // `as usize` is C's truncation with negative values at 0, which is what Pillow does.
            let start = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let exact = &mut exact[..end - start];
            let mut sum = 0.0;
            for (index, weight) in exact.iter_mut().enumerate() {
                let distance = ((index + start) as f64 - centre + 0.5) * inverse;
                *weight = value(filter, distance);
                sum += *weight;
            }
            let rounded = &mut taps.weights[slot * stride..][..exact.len()];
            for (rounded, weight) in rounded.iter_mut().zip(exact.iter()) {
                *rounded = fixed(if sum == 0.0 { *weight } else { weight / sum });
            }
            taps.starts.push(start);
            taps.lens.push(end - start);
        }
        taps.split = taps.weights.as_chunks::<4>().0.iter().map(split_four).collect();
        taps
    }

    /// The first source index and the weights of the window's output `slot`.
    pub fn at(&self, slot: usize) -> (usize, &[i32]) {
        (self.starts[slot], &self.weights[slot * self.stride..][..self.lens[slot]])
    }

    /// As `at`, each four weights split for 16-bit multiplication: the four upper parts, then
    /// the four lower ones; a weight is `upper * 2^SPLIT + lower`. Weights of zero fill up.
    pub fn split(&self, slot: usize) -> (usize, &[[i16; 8]]) {
        let fours = self.lens[slot].div_ceil(4);
        (self.starts[slot], &self.split[slot * self.stride / 4..][..fours])
    }

    /// Outputs in the window.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// The source indices that any output of the window reads.
    pub fn span(&self) -> Range<usize> {
        let start = self.starts.first().copied().unwrap_or(0);
        let ends = self.starts.iter().zip(&self.lens).map(|(start, len)| start + len);
        start..ends.max().unwrap_or(start)
    }

    /// The most weights that one output has.
    pub fn longest(&self) -> usize {
        self.lens.iter().copied().max().unwrap_or(0)
    }
}

fn split_four(weights: &[i32; 4]) -> [i16; 8] {
    std::array::from_fn(|index| match index {
        0..4 => (weights[index] >> SPLIT) as i16,
        _ => (weights[index - 4] & ((1 << SPLIT) - 1)) as i16,
    })
}

fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

fn radius(filter: Filter) -> f64 {
    match filter {
        Filter::Nearest | Filter::Box => 0.5,
        Filter::Bilinear | Filter::Hamming => 1.0,
        Filter::Bicubic => 2.0,
        Filter::Lanczos => 3.0,
    }
}

fn value(filter: Filter, x: f64) -> f64 {
    match filter {
        Filter::Nearest | Filter::Box => f64::from(x > -0.5 && x <= 0.5),
        Filter::Bilinear => (1.0 - x.abs()).max(0.0),
        Filter::Hamming => hamming(x.abs()),
        Filter::Bicubic => bicubic(x.abs()),
        // Closed on the left only: Pillow's condition.
        Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
        Filter::Lanczos => 0.0,
    }
}

fn hamming(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    if x >= 1.0 {
        return 0.0;
    }
    let x = x * PI;
    // The constants are floats in Pillow, and widening them keeps their rounding.
    x.sin() / x * (f64::from(0.54f32) + f64::from(0.46f32) * x.cos())
}

/// Keys' cubic convolution with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_with_a_box_takes_half_of_each_pixel() {
        let taps = Taps::new(4, 2, &(0..2), Filter::Box);
        assert_eq!(taps.at(0), (0, &[1 << 21, 1 << 21][..]));
        assert_eq!(taps.at(1), (2, &[1 << 21, 1 << 21][..]));
    }

    #[test]
    fn the_same_size_is_the_identity_with_every_filter() {
        for number in 1..6 {
            let filter = Filter::from_number(number).expect("0..6 are filters");
            let taps = Taps::new(9, 9, &(0..9), filter);
            for slot in 0..9 {
                let (start, weights) = taps.at(slot);
                let all: i32 = weights.iter().sum();
                assert_eq!(weights[slot - start], 1 << PRECISION_BITS, "{filter:?}");
                assert_eq!(all, 1 << PRECISION_BITS, "{filter:?}");
            }
        }
    }
}
