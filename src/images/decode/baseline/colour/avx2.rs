//! 32 pixels at a time.

use std::arch::x86_64::{
    _mm256_add_epi16 as add16, _mm256_add_epi32 as add32, _mm256_madd_epi16 as madd16,
    _mm256_mulhi_epi16 as mulhi16, _mm256_or_si256 as or, _mm256_packs_epi32 as pack32,
    _mm256_packus_epi16 as packus16, _mm256_set1_epi16 as set1_16, _mm256_set1_epi32 as set1_32,
    _mm256_setzero_si256 as zero, _mm256_slli_epi16 as slli16, _mm256_srai_epi16 as srai16,
    _mm256_srai_epi32 as srai32, _mm256_srli_epi16 as srli16, _mm256_sub_epi16 as sub16,
    _mm256_unpackhi_epi8 as unpackhi8, _mm256_unpackhi_epi16 as unpackhi16,
    _mm256_unpacklo_epi8 as unpacklo8, _mm256_unpacklo_epi16 as unpacklo16, *,
};

use super::*;

kernel::write_row!("avx2", __m256i);

pub fn write(row: &Row<'_>, out: &mut [u8]) {
    // SAFETY: `Vector::Avx2` is chosen only where the instructions are.
    unsafe { write_row(row, out) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..WIDTH];
    // SAFETY: the slice is as long as what is read.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Half as many samples as fit, in 16 bits each.
#[target_feature(enable = "avx2")]
#[inline]
fn widen(window: &Window, offset: usize) -> __m256i {
    let samples: &[u8] = &window[offset..][..WIDTH / 2];
    // SAFETY: the slice is as long as what is read.
    _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(samples.as_ptr().cast()) })
}

/// Where each byte of 16 pixels comes from, by thirds and channels: a pixel, or none.
const ORDER: [[[u8; 16]; 3]; 3] = {
    let mut order = [[[0x80; 16]; 3]; 3];
    let mut at = 0;
    while at < 48 {
        order[at / 16][at % 3][at % 16] = (at / 3) as u8;
        at += 1;
    }
    order
};

#[target_feature(enable = "avx2")]
#[inline]
fn store(channels: [__m256i; 3], out: &mut [u8; 3 * WIDTH]) {
    let (a, b, c) = (third(channels, 0), third(channels, 1), third(channels, 2));
    let thirds = [
        _mm256_permute2x128_si256::<0x20>(a, b),
        _mm256_permute2x128_si256::<0x30>(c, a),
        _mm256_permute2x128_si256::<0x31>(b, c),
    ];
    let (parts, _) = out.as_chunks_mut::<WIDTH>();
    for (out, third) in parts.iter_mut().zip(thirds) {
        // SAFETY: `out` is as long as what is written.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), third) };
    }
}

/// A third of the bytes of the first 16 pixels, and one of the others.
#[target_feature(enable = "avx2")]
#[inline]
fn third([red, green, blue]: [__m256i; 3], index: usize) -> __m256i {
    let [reds, greens, blues] = &ORDER[index];
    let (red, green) = (shuffle(red, reds), shuffle(green, greens));
    or(or(red, green), shuffle(blue, blues))
}

#[target_feature(enable = "avx2")]
#[inline]
fn shuffle(channel: __m256i, order: &[u8; 16]) -> __m256i {
    // SAFETY: the array is as long as what is read.
    let order = unsafe { _mm_loadu_si128(order.as_ptr().cast()) };
    _mm256_shuffle_epi8(channel, _mm256_broadcastsi128_si256(order))
}
