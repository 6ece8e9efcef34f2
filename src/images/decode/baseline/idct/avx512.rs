//! Four blocks in a vector.

use std::arch::x86_64::{
    _mm512_add_epi16 as add16, _mm512_add_epi32 as add32, _mm512_madd_epi16 as madd16,
    _mm512_max_epi16 as max16, _mm512_packs_epi16 as pack16, _mm512_packs_epi32 as pack32,
    _mm512_set1_epi8 as set1_8, _mm512_set1_epi16 as set1_16, _mm512_set1_epi32 as set1_32,
    _mm512_setzero_si512 as zero, _mm512_srai_epi32 as srai32, _mm512_sub_epi16 as sub16,
    _mm512_sub_epi32 as sub32, _mm512_unpackhi_epi8 as unpackhi8,
    _mm512_unpackhi_epi16 as unpackhi16, _mm512_unpackhi_epi32 as unpackhi32,
    _mm512_unpackhi_epi64 as unpackhi64, _mm512_unpacklo_epi8 as unpacklo8,
    _mm512_unpacklo_epi16 as unpacklo16, _mm512_unpacklo_epi32 as unpacklo32,
    _mm512_unpacklo_epi64 as unpacklo64, _mm512_xor_si512 as xor, *,
};

use super::*;

kernel::transform!("avx512f,avx512bw", __m512i);

/// Whether the coefficients are sane; see `Blocks::transform`.
pub fn transform(blocks: &Blocks<'_>, out: &mut [u8], stride: usize) -> bool {
    // SAFETY: `Vector::Avx512` is chosen only where the instructions are.
    unsafe { transform_blocks(blocks, out, stride) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn transform_blocks(blocks: &Blocks<'_>, out: &mut [u8], stride: usize) -> bool {
    let (coefficients, _) = blocks.coefficients.as_chunks::<ROW>();
    let (quant, _) = blocks.quant.as_chunks::<8>();
    let rows = std::array::from_fn(|y| {
        // SAFETY: the arrays are as long as what is read.
        let (row, quant) = unsafe {
            let quant = _mm_loadu_si128(quant[y].as_ptr().cast());
            (_mm512_loadu_si512(coefficients[y].as_ptr().cast()), quant)
        };
        _mm512_mullo_epi16(row, _mm512_broadcast_i32x4(quant))
    });
    let (pixels, sane) = transform_rows(rows);
    let by_row = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (two, pixels) in pixels.into_iter().enumerate() {
        let pixels = _mm512_permutexvar_epi64(by_row, pixels);
        let rows = [_mm512_castsi512_si256(pixels), _mm512_extracti64x4_epi64::<1>(pixels)];
        for (y, row) in (two * 2..).zip(rows) {
            let out: &mut [u8] = &mut out[y * stride..][..ROW];
            // SAFETY: `out` is as long as what is written.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), row) };
        }
    }
    sane
}

#[target_feature(enable = "avx512f,avx512bw")]
fn any_above(values: __m512i, limit: i16) -> bool {
    _mm512_cmpgt_epi16_mask(values, set1_16(limit)) != 0
}
