//! The two passes with AVX-512 VNNI. Same integers as the scalar code, hence the same pixels.
//!
//! `vpdpbusd` multiplies four u8 with four i8 and adds them up, so a weight is split into three
//! signed bytes, `(high * 2^8 + middle) * 2^8 + low`, whose sums are joined by shifts. Sums wrap
//! as the scalar ones do, and shifting and adding commute with that.

use std::arch::x86_64::*;

use super::horizontal::BLOCK;
use super::taps::{Limbs, PRECISION_BITS, ROUND, Taps};
use super::vertical::Rows;

/// Whether this machine has the instructions. The answer is cached by the standard library.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// Returns how many columns of the rows are done; the caller does the rest. Needs `available()`
/// and taps with limbs.
pub fn horizontal(source: &[u8], stride: usize, taps: &Taps, out: &mut [u8]) -> usize {
    // SAFETY: `Vector::Avx512` is chosen only where `available()`.
    unsafe {
        match out.len() / (taps.len() * 3) {
            0..=4 => horizontal_vnni::<1>(source, stride, taps, out),
            _ => horizontal_vnni::<{ BLOCK / 4 }>(source, stride, taps, out),
        }
    }
}

/// Sums the rows by the weights that `limbs` are of, all of `out`. Needs `available()`.
pub fn vertical(rows: &Rows<'_>, limbs: &[Limbs], out: &mut [u8]) {
    // SAFETY: `Vector::Avx512` is chosen only where `available()`.
    unsafe { vertical_vnni(rows, limbs, out) }
}

/// The sums of the three bytes of the weights.
#[derive(Clone, Copy)]
struct Sums([__m512i; 3]);

impl Sums {
    #[target_feature(enable = "avx512f")]
    fn zero() -> Self {
        Self([_mm512_setzero_si512(); 3])
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn add(&mut self, values: __m512i, limbs: &[__m512i; 3]) {
        for (sum, limb) in self.0.iter_mut().zip(limbs) {
            *sum = _mm512_dpbusd_epi32(*sum, values, *limb);
        }
    }

    /// Rounded and clipped, the channels of a lane as a pixel and a byte of nothing.
    #[target_feature(enable = "avx512f,avx512vl")]
    fn pixels(self) -> [[u8; 4]; 4] {
        let sums = _mm512_max_epi32(self.rounded(), _mm512_setzero_si512());
        let pixels = _mm512_cvtusepi32_epi8(sums);
        let pixels = [
            _mm_extract_epi32::<0>(pixels),
            _mm_extract_epi32::<1>(pixels),
            _mm_extract_epi32::<2>(pixels),
            _mm_extract_epi32::<3>(pixels),
        ];
        pixels.map(i32::to_le_bytes)
    }

    /// The rounded sums, not clipped.
    #[target_feature(enable = "avx512f")]
    fn rounded(self) -> __m512i {
        let [high, middle, low] = self.0;
        let sum = _mm512_add_epi32(_mm512_slli_epi32::<16>(high), _mm512_slli_epi32::<8>(middle));
        let sum = _mm512_add_epi32(sum, _mm512_add_epi32(low, _mm512_set1_epi32(ROUND)));
        _mm512_srai_epi32::<PRECISION_BITS>(sum)
    }
}

#[target_feature(enable = "avx512f")]
fn broadcast(limbs: &Limbs) -> [__m512i; 3] {
    limbs.map(|limb| _mm512_set1_epi32(limb))
}

/// Up to `4 * GROUPS` rows, one a lane. Stops at the first column that would read past the end of
/// `source`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn horizontal_vnni<const GROUPS: usize>(
    source: &[u8],
    stride: usize,
    taps: &Taps,
    out: &mut [u8],
) -> usize {
    let (columns, row_bytes) = (taps.len(), taps.len() * 3);
    let n_rows = out.len() / row_bytes;
    assert!((1..=4 * GROUPS).contains(&n_rows), "as many rows as there are lanes, at the most");
    // A lane without a row repeats the last one.
    let offsets: [[usize; 4]; GROUPS] = std::array::from_fn(|group| {
        std::array::from_fn(|lane| (group * 4 + lane).min(n_rows - 1) * stride)
    });
    for slot in 0..columns {
        let (start, limbs) = taps.limbs(slot);
        // Sixteen bytes are read for four pixels, which have twelve.
        let window = (n_rows - 1) * stride + limbs.len() * 12 + 4;
        let Some(pixels) = source.get(start * 3..start * 3 + window) else { return slot };
        let mut sums = [Sums::zero(); GROUPS];
        for (four, limbs) in limbs.iter().enumerate() {
            let limbs = broadcast(limbs);
            for (sums, offsets) in sums.iter_mut().zip(&offsets) {
                // SAFETY: the last row's read ends at `window` or before it.
                let values = unsafe { four_pixels(pixels.as_ptr().add(four * 12), offsets) };
                sums.add(values, &limbs);
            }
        }
        for (group, sums) in sums.into_iter().enumerate() {
            let pixels = sums.pixels();
            for (lane, pixel) in pixels.into_iter().take(n_rows - group * 4).enumerate() {
                let at = (group * 4 + lane) * row_bytes + slot * 3;
                // Four bytes are one store, and the next column writes over the fourth.
                match slot + 1 < columns {
                    true => out[at..at + 4].copy_from_slice(&pixel),
                    false => out[at..at + 3].copy_from_slice(&pixel[..3]),
                }
            }
        }
    }
    columns
}

/// Four RGB pixels of four rows, a row a lane, as r r r r g g g g b b b b 0 0 0 0.
///
/// # Safety
/// Sixteen bytes are read at each offset from `pixels`, at any alignment.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn four_pixels(pixels: *const u8, offsets: &[usize; 4]) -> __m512i {
    let by_channel =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1));
    // SAFETY: promised by the caller.
    let [a, b, c, d] = offsets.map(|offset| unsafe { _mm_loadu_si128(pixels.add(offset).cast()) });
    let values = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    let values = _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(values, c), d);
    _mm512_shuffle_epi8(values, by_channel)
}

/// 64 bytes of a row at a time, four source rows at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn vertical_vnni(rows: &Rows<'_>, limbs: &[Limbs], out: &mut [u8]) {
    let last = rows.offsets.len() - 1;
    assert!(rows.row_bytes >= out.len(), "the rows are as long as the output");
    for (block, out) in out.chunks_mut(64).enumerate() {
        let mask = u64::MAX >> (64 - out.len());
        let mut sums = [Sums::zero(); 4];
        for (four, limbs) in limbs.iter().enumerate() {
            let limbs = broadcast(limbs);
            // Rows past the last have weights of zero.
            let [a, b, c, d] = std::array::from_fn(|index| {
                let row = &rows.at((four * 4 + index).min(last))[block * 64..];
                // SAFETY: the mask leaves out what is past the row's end (asserted above).
                unsafe { _mm512_maskz_loadu_epi8(mask, row.as_ptr().cast()) }
            });
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            sums[0].add(_mm512_unpacklo_epi16(ab, cd), &limbs);
            sums[1].add(_mm512_unpackhi_epi16(ab, cd), &limbs);
            let (ab, cd) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            sums[2].add(_mm512_unpacklo_epi16(ab, cd), &limbs);
            sums[3].add(_mm512_unpackhi_epi16(ab, cd), &limbs);
        }
        // Packing puts back in order what unpacking took apart, lane by lane.
        let [a, b, c, d] = sums.map(|sums| sums.rounded());
        let bytes = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
        // SAFETY: the mask leaves out what is past the end of `out`.
        unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr().cast(), mask, bytes) };
    }
}
