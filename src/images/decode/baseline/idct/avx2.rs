//! Two blocks in a vector.

use std::arch::x86_64::{
    _mm256_add_epi16 as add16, _mm256_add_epi32 as add32, _mm256_madd_epi16 as madd16,
    _mm256_max_epi16 as max16, _mm256_packs_epi16 as pack16, _mm256_packs_epi32 as pack32,
    _mm256_set1_epi8 as set1_8, _mm256_set1_epi16 as set1_16, _mm256_set1_epi32 as set1_32,
    _mm256_setzero_si256 as zero, _mm256_srai_epi32 as srai32, _mm256_sub_epi16 as sub16,
    _mm256_sub_epi32 as sub32, _mm256_unpackhi_epi8 as unpackhi8,
    _mm256_unpackhi_epi16 as unpackhi16, _mm256_unpackhi_epi32 as unpackhi32,
    _mm256_unpackhi_epi64 as unpackhi64, _mm256_unpacklo_epi8 as unpacklo8,
    _mm256_unpacklo_epi16 as unpacklo16, _mm256_unpacklo_epi32 as unpacklo32,
    _mm256_unpacklo_epi64 as unpacklo64, _mm256_xor_si256 as xor, *,
};

use super::*;

kernel::transform!("avx2", __m256i);

/// Whether the coefficients are sane; see `Blocks::transform`.
pub fn transform(blocks: &Blocks<'_>, out: &mut [u8], stride: usize) -> bool {
    // SAFETY: `Vector::Avx2` is chosen only where the instructions are.
    unsafe { transform_two(blocks, 0, out, stride) && transform_two(blocks, 2, out, stride) }
}

/// Two of the four blocks.
#[target_feature(enable = "avx2")]
fn transform_two(blocks: &Blocks<'_>, lane: usize, out: &mut [u8], stride: usize) -> bool {
    let (quant, _) = blocks.quant.as_chunks::<8>();
    let rows = std::array::from_fn(|y| {
        let coefficients: &[i16] = &blocks.coefficients[y * ROW + lane * 8..][..16];
        // SAFETY: the slices are as long as what is read.
        let (row, quant) = unsafe {
            let quant = _mm_loadu_si128(quant[y].as_ptr().cast());
            (_mm256_loadu_si256(coefficients.as_ptr().cast()), quant)
        };
        _mm256_mullo_epi16(row, _mm256_broadcastsi128_si256(quant))
    });
    let (pixels, sane) = transform_rows(rows);
    for (two, pixels) in pixels.into_iter().enumerate() {
        let pixels = _mm256_permute4x64_epi64::<0b11_01_10_00>(pixels);
        let rows = [_mm256_castsi256_si128(pixels), _mm256_extracti128_si256::<1>(pixels)];
        for (y, row) in (two * 2..).zip(rows) {
            let out: &mut [u8] = &mut out[y * stride + lane * 8..][..16];
            // SAFETY: `out` is as long as what is written.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), row) };
        }
    }
    sane
}

#[target_feature(enable = "avx2")]
fn any_above(values: __m256i, limit: i16) -> bool {
    _mm256_movemask_epi8(_mm256_cmpgt_epi16(values, set1_16(limit))) != 0
}
