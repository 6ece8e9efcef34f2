//! 64 pixels at a time. Needs VBMI, which shuffles bytes across a vector.

use std::arch::x86_64::{
    _mm512_add_epi16 as add16, _mm512_add_epi32 as add32, _mm512_madd_epi16 as madd16,
    _mm512_mulhi_epi16 as mulhi16, _mm512_or_si512 as or, _mm512_packs_epi32 as pack32,
    _mm512_packus_epi16 as packus16, _mm512_set1_epi16 as set1_16, _mm512_set1_epi32 as set1_32,
    _mm512_setzero_si512 as zero, _mm512_slli_epi16 as slli16, _mm512_srai_epi16 as srai16,
    _mm512_srai_epi32 as srai32, _mm512_srli_epi16 as srli16, _mm512_sub_epi16 as sub16,
    _mm512_unpackhi_epi8 as unpackhi8, _mm512_unpackhi_epi16 as unpackhi16,
    _mm512_unpacklo_epi8 as unpacklo8, _mm512_unpacklo_epi16 as unpacklo16, *,
};

use super::*;

kernel::write_row!("avx512f,avx512bw,avx512vbmi", __m512i);

pub fn write(row: &Row<'_>, out: &mut [u8]) {
    // SAFETY: `Vector::Avx512` is chosen only where the instructions are.
    unsafe { write_row(row, out) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(bytes: &[u8]) -> __m512i {
    let bytes = &bytes[..WIDTH];
    // SAFETY: the slice is as long as what is read.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Half as many samples as fit, in 16 bits each.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn widen(window: &Window, offset: usize) -> __m512i {
    let samples: &[u8] = &window[offset..][..WIDTH / 2];
    // SAFETY: the slice is as long as what is read.
    _mm512_cvtepu8_epi16(unsafe { _mm256_loadu_si256(samples.as_ptr().cast()) })
}

/// For each byte of three vectors, which pixel's it is; in the first table, 64 more for green.
const ORDER: [[[u8; WIDTH]; 3]; 2] = {
    let mut order = [[[0; WIDTH]; 3]; 2];
    let mut at = 0;
    while at < 3 * WIDTH {
        let (pixel, channel) = (at / 3, at % 3);
        order[0][at / WIDTH][at % WIDTH] = (pixel + channel % 2 * WIDTH) as u8;
        order[1][at / WIDTH][at % WIDTH] = pixel as u8;
        at += 1;
    }
    order
};

/// The bytes that are blue.
const BLUE: [u64; 3] = [0x4924_9249_2492_4924, 0x2492_4924_9249_2492, 0x9249_2492_4924_9249];

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
#[inline]
fn store([red, green, blue]: [__m512i; 3], out: &mut [u8; 3 * WIDTH]) {
    let (parts, _) = out.as_chunks_mut::<WIDTH>();
    for (part, out) in parts.iter_mut().enumerate() {
        let (two, one) = (load(&ORDER[0][part]), load(&ORDER[1][part]));
        let pixels = _mm512_permutex2var_epi8(red, two, green);
        let pixels = _mm512_mask_permutexvar_epi8(pixels, BLUE[part], one, blue);
        // SAFETY: `out` is as long as what is written.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), pixels) };
    }
}
