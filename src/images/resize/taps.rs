//! Which source pixels make an output pixel, and how much of each: Pillow's weights.
//!
//! `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's `libImaging/Resample.c`, in the
//! same order of operations, because the last bit of a weight moves a pixel.

use std::f64::consts::PI;
use std::ops::Range;

use super::{Filter, Vector};

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
    stride: usize,
    vector: Vector,
    /// What `split` gives, for every four weights.
    split: Vec<[i16; 8]>,
    /// What `limbs` gives, for every four weights.
    limbs: Vec<Limbs>,
}

/// Four weights cut into signed bytes, the high, middle and low ones of all four together:
/// a weight is `(high * 2^8 + middle) * 2^8 + low`.
pub type Limbs = [i32; 3];

impl Taps {
    /// Weights for the outputs in `window` when `from` pixels become `to`.
    pub fn new(from: usize, to: usize, window: &Range<usize>, filter: Filter) -> Self {
        let reach = Reach::new(from, to, filter);
        let inverse = 1.0 / reach.scale.max(1.0);
        // A multiple of four, because they are split by fours.
        let stride = (reach.support.ceil() as usize * 2 + 1).min(from).next_multiple_of(4);
        let n = window.len();
        let mut taps = Self {
            starts: Vec::with_capacity(n),
            lens: Vec::with_capacity(n),
            weights: vec![0; n * stride],
            stride,
            vector: Vector::Scalar,
            split: Vec::new(),
            limbs: Vec::new(),
        };
        let mut exact = vec![0.0; stride];
        for (slot, output) in window.clone().enumerate() {
            let centre = reach.centre(output);
            let Range { start, end } = reach.of(output);
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
        taps
    }

    /// With the weights as those instructions want them. Weights of 2 and more do not fit three
    /// bytes; no filter is known to give one, and the passes then go without AVX-512.
    pub fn made_for(mut self, vector: Vector) -> Self {
        const FITS: std::ops::Range<i32> = -(127 << 16)..127 << 16;
        let fours = self.weights.as_chunks::<4>().0.iter();
        self.vector = match vector {
            Vector::Avx512 if !self.weights.iter().all(|weight| FITS.contains(weight)) => {
                Vector::Scalar
            }
            other => other,
        };
        match self.vector {
            Vector::Scalar => {}
            Vector::Avx2 => self.split = fours.map(split_four).collect(),
            Vector::Avx512 => self.limbs = fours.map(limbs_of_four).collect(),
        }
        self
    }

    /// The instructions that the weights are made for.
    pub fn vector(&self) -> Vector {
        self.vector
    }

    /// The source indices that the window's output `slot` reads.
    pub fn sources(&self, slot: usize) -> Range<usize> {
        self.starts[slot]..self.starts[slot] + self.lens[slot]
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

    /// As `at`, each four weights cut into bytes. Weights of zero fill up.
    #[inline]
    pub fn limbs(&self, slot: usize) -> (usize, &[Limbs]) {
        let fours = self.lens[slot].div_ceil(4);
        (self.starts[slot], &self.limbs[slot * self.stride / 4..][..fours])
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

/// The source indices that the outputs of a window are made from.
pub fn source(from: usize, to: usize, window: &Range<usize>, filter: Filter) -> Range<usize> {
    let reach = Reach::new(from, to, filter);
    // Both ends of what an output reads ascend from output to output.
    reach.of(window.start).start..reach.of(window.end.saturating_sub(1)).end
}

/// How far the outputs of an axis reach into its source.
struct Reach {
    from: usize,
    /// Source pixels an output pixel.
    scale: f64,
    /// Source pixels to either side of an output's centre.
    support: f64,
}

impl Reach {
    fn new(from: usize, to: usize, filter: Filter) -> Self {
        let scale = from as f64 / to as f64;
        Self { from, scale, support: radius(filter) * scale.max(1.0) }
    }

    fn centre(&self, output: usize) -> f64 {
        (output as f64 + 0.5) * self.scale
    }

    fn of(&self, output: usize) -> Range<usize> {
        let (centre, support) = (self.centre(output), self.support);
        // `as usize` is C's truncation with negative values at 0, which is what Pillow does.
        let start = (centre - support + 0.5) as usize;
        start..((centre + support + 0.5) as usize).min(self.from)
    }
}

fn split_four(weights: &[i32; 4]) -> [i16; 8] {
    std::array::from_fn(|index| match index {
        0..4 => (weights[index] >> SPLIT) as i16,
        _ => (weights[index - 4] & ((1 << SPLIT) - 1)) as i16,
    })
}

fn limbs_of_four(weights: &[i32; 4]) -> Limbs {
    let low = weights.map(|weight| weight as i8);
    // What is taken off is put back by the byte above.
    let rest: [i32; 4] = std::array::from_fn(|i| (weights[i] - i32::from(low[i])) >> 8);
    let middle = rest.map(|weight| weight as i8);
    let high: [i8; 4] = std::array::from_fn(|i| ((rest[i] - i32::from(middle[i])) >> 8) as i8);
    [high, middle, low].map(|bytes| i32::from_le_bytes(bytes.map(|byte| byte as u8)))
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
    fn limbs_add_up_to_the_weights() {
        for weight in [0, 1, -1, 127, 128, -129, 32_767, 32_768, -4_194_304, 8_000_000, -123_456] {
            let [high, middle, low] = limbs_of_four(&[weight, 0, 0, 0]);
            let byte = |limb: i32| i32::from(limb as i8);
            assert_eq!(((byte(high) << 8) + byte(middle)) * 256 + byte(low), weight);
        }
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
