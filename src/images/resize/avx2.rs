//! The two passes with AVX2. Same integers as the scalar code, hence the same pixels.
//!
//! A weight has 24 bits and `pmaddwd` multiplies 16, so a weight is split into `high * 2^12 +
//! low` and the two sums are joined by a shift. Sums wrap as the scalar ones do, and shifting
//! and adding commute with that.

use std::arch::x86_64::*;

use super::horizontal;
use super::taps::{PRECISION_BITS, ROUND, Taps};
use super::vertical::Rows;

const SPLIT: i32 = 12;
const LOW: i32 = (1 << SPLIT) - 1;

/// Whether this machine has AVX2. The answer is cached by the standard library.
pub fn available() -> bool {
    is_x86_feature_detected!("avx2")
}

/// As `horizontal::scalar` from column 0. Needs `available()`.
pub fn horizontal(source: &[u8], taps: &Taps, out: &mut [u8]) {
    // SAFETY: `horizontal::row` calls this only where `available()`.
    let done = unsafe { horizontal_avx2(source, taps, out) };
    horizontal::scalar(source, taps, out, done);
}

/// Returns how many bytes of `out` are done; the caller does the rest. Needs `available()`.
pub fn vertical(rows: &Rows<'_>, weights: &[i32], out: &mut [u8]) -> usize {
    // SAFETY: `vertical::row` calls this only where `available()`.
    unsafe { vertical_avx2(rows, weights, out) }
}

/// Returns the first column that would read past the end of `source`.
#[target_feature(enable = "avx2")]
fn horizontal_avx2(source: &[u8], taps: &Taps, out: &mut [u8]) -> usize {
    // Four RGB pixels become u16 pairs: lane 0 has pixels 0 and 1, lane 1 pixels 2 and 3,
    // each as r r g g b b 0 0.
    let pairs = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, //
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
    );
    let spread = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    for (slot, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (start, weights) = taps.padded(slot);
        let Some(pixels) = source.get(start * 3..start * 3 + weights.len() * 3 + 4) else {
            return slot;
        };
        let mut high = _mm256_setzero_si256();
        let mut low = _mm256_setzero_si256();
        for (four, weights) in weights.as_chunks::<4>().0.iter().enumerate() {
            let bytes: &[u8; 16] = pixels[four * 12..][..16].try_into().expect("16 bytes");
            // SAFETY: both references cover the 16 bytes that are read, at any alignment.
            let (bytes, weights) = unsafe {
                (_mm_loadu_si128(bytes.as_ptr().cast()), _mm_loadu_si128(weights.as_ptr().cast()))
            };
            let values = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), pairs);
            let weights_high = _mm_srai_epi32::<SPLIT>(weights);
            let weights_low = _mm_and_si128(weights, _mm_set1_epi32(LOW));
            // Four highs and four lows, as i16: h0 h1 h2 h3 l0 l1 l2 l3.
            let packed = _mm256_castsi128_si256(_mm_packs_epi32(weights_high, weights_low));
            let weights_high = _mm256_permutevar8x32_epi32(packed, spread);
            let two = _mm256_set1_epi32(2);
            let weights_low = _mm256_permutevar8x32_epi32(packed, _mm256_add_epi32(spread, two));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(values, weights_high));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(values, weights_low));
        }
        let sums = _mm256_add_epi32(_mm256_slli_epi32::<SPLIT>(high), low);
        let halves = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let sum = _mm_add_epi32(_mm_add_epi32(halves.0, halves.1), _mm_set1_epi32(ROUND));
        let sum = _mm_srai_epi32::<{ PRECISION_BITS as i32 }>(sum);
        let words = _mm_packus_epi32(sum, sum);
        let rgb = _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes();
        *pixel = [rgb[0], rgb[1], rgb[2]];
    }
    taps.len()
}

/// Sixteen bytes of a row at a time, two source rows at a time.
#[target_feature(enable = "avx2")]
fn vertical_avx2(rows: &Rows<'_>, weights: &[i32], out: &mut [u8]) -> usize {
    let zero = _mm256_setzero_si256();
    for (block, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let mut high = [zero; 2];
        let mut low = [zero; 2];
        for (pair, weights) in weights.chunks(2).enumerate() {
            let first = load16(&rows.at(pair * 2)[block * 16..]);
            // An odd last row is paired with itself at weight zero.
            let (second, weight) = match weights {
                [_, weight] => (load16(&rows.at(pair * 2 + 1)[block * 16..]), *weight),
                _ => (first, 0),
            };
            let weights_high = pair_of(weights[0] >> SPLIT, weight >> SPLIT);
            let weights_low = pair_of(weights[0] & LOW, weight & LOW);
            let halves =
                [_mm256_unpacklo_epi16(first, second), _mm256_unpackhi_epi16(first, second)];
            for half in 0..2 {
                let product = _mm256_madd_epi16(halves[half], weights_high);
                high[half] = _mm256_add_epi32(high[half], product);
                let product = _mm256_madd_epi16(halves[half], weights_low);
                low[half] = _mm256_add_epi32(low[half], product);
            }
        }
        let round = _mm256_set1_epi32(ROUND);
        let sums = [0, 1].map(|half| {
            let sum = _mm256_add_epi32(_mm256_slli_epi32::<SPLIT>(high[half]), low[half]);
            _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm256_add_epi32(sum, round))
        });
        let words = _mm256_packus_epi32(sums[0], sums[1]);
        let bytes = _mm256_packus_epi16(words, words);
        // Each lane holds its eight bytes twice: take the first eight of both.
        let bytes = _mm256_permute4x64_epi64::<0b00_00_10_00>(bytes);
        // SAFETY: `out` is 16 bytes, and the store needs no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_castsi256_si128(bytes)) };
    }
    out.len() / 16 * 16
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
