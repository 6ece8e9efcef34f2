//! The two passes with AVX2. Same integers as the scalar code, hence the same pixels.
//!
//! A weight has 24 bits and `pmaddwd` multiplies 16, so a weight is split into `high * 2^12 +
//! low` and the two sums are joined by a shift. Sums wrap as the scalar ones do, and shifting
//! and adding commute with that.

use std::arch::x86_64::*;

use super::taps::{PRECISION_BITS, ROUND, SPLIT, Taps};
use super::vertical::Rows;

const LOW: i32 = (1 << SPLIT) - 1;

/// Whether this machine has AVX2. The answer is cached by the standard library.
pub fn available() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Returns how many columns of the rows are done; the caller does the rest. Needs `available()`
/// and split taps.
pub fn horizontal(source: &[u8], stride: usize, taps: &Taps, out: &mut [u8]) -> usize {
    let row_bytes = taps.len() * 3;
    // More sums than four rows have do not fit the registers.
    if let Some((first, rest)) = out.split_at_mut_checked(4 * row_bytes)
        && !rest.is_empty()
    {
        let done = horizontal(source, stride, taps, first);
        return done.min(horizontal(&source[4 * stride..], stride, taps, rest));
    }
    // SAFETY: `Vector::Avx2` is chosen only where `available()`.
    unsafe {
        match out.len() / row_bytes {
            1 => horizontal_avx2::<1>(source, stride, taps, out),
            2 => horizontal_avx2::<2>(source, stride, taps, out),
            3 => horizontal_avx2::<3>(source, stride, taps, out),
            _ => horizontal_avx2::<4>(source, stride, taps, out),
        }
    }
}

/// Returns how many bytes of `out` are done; the caller does the rest. Needs `available()`.
pub fn vertical(rows: &Rows<'_>, weights: &[i32], out: &mut [u8]) -> usize {
    // SAFETY: `Vector::Avx2` is chosen only where `available()`.
    unsafe { vertical_avx2(rows, weights, out) }
}

/// `N` rows. Stops at the first column that would read past the end of `source`.
#[target_feature(enable = "avx2")]
fn horizontal_avx2<const N: usize>(
    source: &[u8],
    stride: usize,
    taps: &Taps,
    out: &mut [u8],
) -> usize {
    let pairs = pixel_pairs();
    let upper = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    let lower = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
    for slot in 0..taps.len() {
        let (start, weights) = taps.split(slot);
        // Sixteen bytes are read for four pixels, which have twelve.
        let window = weights.len() * 12 + 4;
        let Some(pixels) = source.get(start * 3..start * 3 + (N - 1) * stride + window) else {
            return slot;
        };
        let mut sums = [(_mm256_setzero_si256(), _mm256_setzero_si256()); N];
        for (four, weights) in weights.iter().enumerate() {
            // SAFETY: the reference covers the 16 bytes that are read, at any alignment.
            let weights = unsafe { _mm_loadu_si128(weights.as_ptr().cast()) };
            let weights = _mm256_castsi128_si256(weights);
            let weights_high = _mm256_permutevar8x32_epi32(weights, upper);
            let weights_low = _mm256_permutevar8x32_epi32(weights, lower);
            for (row, (high, low)) in sums.iter_mut().enumerate() {
                // SAFETY: `four * 12 + 16 <= window`, so the read ends within `pixels`.
                let bytes = unsafe {
                    _mm_loadu_si128(pixels.as_ptr().add(row * stride + four * 12).cast())
                };
                let values = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), pairs);
                *high = _mm256_add_epi32(*high, _mm256_madd_epi16(values, weights_high));
                *low = _mm256_add_epi32(*low, _mm256_madd_epi16(values, weights_low));
            }
        }
        for (row, (high, low)) in sums.into_iter().enumerate() {
            let at = (row * taps.len() + slot) * 3;
            out[at..at + 3].copy_from_slice(&to_rgb(high, low));
        }
    }
    taps.len()
}

/// The shuffle that makes u16 pairs of four RGB pixels: lane 0 has pixels 0 and 1, lane 1
/// pixels 2 and 3, each as r r g g b b 0 0.
#[target_feature(enable = "avx2")]
fn pixel_pairs() -> __m256i {
    _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, //
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
    )
}

/// Joins the sums of the upper and lower parts and of the two lanes, rounds and clips.
#[target_feature(enable = "avx2")]
fn to_rgb(high: __m256i, low: __m256i) -> [u8; 3] {
    let sums = _mm256_add_epi32(_mm256_slli_epi32::<SPLIT>(high), low);
    let lanes = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let sum = _mm_add_epi32(_mm_add_epi32(lanes.0, lanes.1), _mm_set1_epi32(ROUND));
    let sum = _mm_srai_epi32::<{ PRECISION_BITS as i32 }>(sum);
    let words = _mm_packus_epi32(sum, sum);
    let [r, g, b, _] = _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes();
    [r, g, b]
}

/// Sixteen bytes of a row at a time, two source rows at a time.
#[target_feature(enable = "avx2")]
fn vertical_avx2(rows: &Rows<'_>, weights: &[i32], out: &mut [u8]) -> usize {
    let zero = _mm256_setzero_si256();
    // The two rows of a pair and their weights. An odd last row goes with itself at zero.
    let split = |weights: &[i32]| {
        let (first, second) = (weights[0], weights.get(1).copied().unwrap_or(0));
        (pair_of(first >> SPLIT, second >> SPLIT), pair_of(first & LOW, second & LOW))
    };
    let pairs = weights.chunks(2).enumerate().map(|(pair, weights)| {
        let first = pair * 2;
        let second = first + weights.len() - 1;
        (rows.at(first), rows.at(second), split(weights))
    });
    let pairs: Vec<_> = pairs.collect();
    for (block, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let mut high = [zero; 2];
        let mut low = [zero; 2];
        for &(first, second, (weights_high, weights_low)) in &pairs {
            let first = load16(&first[block * 16..]);
            let second = load16(&second[block * 16..]);
            let halves =
                [_mm256_unpacklo_epi16(first, second), _mm256_unpackhi_epi16(first, second)];
            for half in 0..2 {
                let product = _mm256_madd_epi16(halves[half], weights_high);
                high[half] = _mm256_add_epi32(high[half], product);
                let product = _mm256_madd_epi16(halves[half], weights_low);
                low[half] = _mm256_add_epi32(low[half], product);
            }
        }
        let bytes = to_bytes(high, low);
        // SAFETY: `out` is 16 bytes, and the store needs no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes) };
    }
    out.len() / 16 * 16
}

/// Joins the sums of the upper and lower parts, rounds and clips. The two halves hold the
/// sums as unpacking left them, and packing puts them back in order.
#[target_feature(enable = "avx2")]
fn to_bytes(high: [__m256i; 2], low: [__m256i; 2]) -> __m128i {
    let round = _mm256_set1_epi32(ROUND);
    let sums = [0, 1].map(|half| {
        let sum = _mm256_add_epi32(_mm256_slli_epi32::<SPLIT>(high[half]), low[half]);
        _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm256_add_epi32(sum, round))
    });
    let words = _mm256_packus_epi32(sums[0], sums[1]);
    let bytes = _mm256_packus_epi16(words, words);
    // Each lane holds its eight bytes twice: take the first eight of both.
    let bytes = _mm256_permute4x64_epi64::<0b00_00_10_00>(bytes);
    _mm256_castsi256_si128(bytes)
}

/// The first sixteen bytes as u16.
#[target_feature(enable = "avx2")]
fn load16(bytes: &[u8]) -> __m256i {
    let bytes: &[u8; 16] = bytes[..16].try_into().expect("16 bytes");
    // SAFETY: the reference covers the 16 bytes that are read, at any alignment.
    _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Two i16 weights in every i32.
#[target_feature(enable = "avx2")]
fn pair_of(first: i32, second: i32) -> __m256i {
    _mm256_set1_epi32((first & 0xffff) | (second << 16))
}
