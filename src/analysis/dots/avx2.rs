//! Dot products with AVX2, FMA and F16C, eight numbers at a time.

use std::arch::x86_64::*;

use super::tiles;

/// Whether this machine has all three. The answer is cached by the standard library.
pub fn available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Little-endian f16 to f32; returns how many are done. Needs `available()`.
pub fn widen(bytes: &[u8], out: &mut [f32]) -> usize {
    // SAFETY: `Vector::Avx2` is chosen only where `available()`.
    unsafe { widen_avx2(bytes, out) }
}

/// As `dots` of the module above, on padded rows. Needs `available()`.
pub fn dots(rows: &[f32], queries: &[f32], stride: usize, out: &mut [f32]) {
    let (n, m) = (rows.len() / stride, queries.len() / stride);
    // Three rows of four sums do not fit the sixteen registers with what they are made from.
    tiles((n, m), 2, |row, query, tall, wide| {
        let (rows, queries) = (&rows[row * stride..], &queries[query * stride..]);
        let out = &mut out[row * m + query..];
        // SAFETY: `Vector::Avx2` is chosen only where `available()`.
        unsafe {
            match (tall, wide) {
                (2, 4) => tile::<2, 4>(rows, queries, stride, out, m),
                (_, 4) => tile::<1, 4>(rows, queries, stride, out, m),
                (4, _) => tile::<4, 1>(rows, queries, stride, out, m),
                _ => tile::<1, 1>(rows, queries, stride, out, m),
            }
        }
    });
}

#[target_feature(enable = "avx2,f16c")]
fn widen_avx2(bytes: &[u8], out: &mut [f32]) -> usize {
    let chunks = bytes.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<8>().0);
    let mut done = 0;
    for (bytes, out) in chunks {
        // SAFETY: the references cover what is read and written, at any alignment.
        unsafe {
            let halves = _mm_loadu_si128(bytes.as_ptr().cast());
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(halves));
        }
        done += 8;
    }
    done
}

/// `R` rows with `Q` queries; the products of a row are `m` apart from those of the next.
#[target_feature(enable = "avx2,fma")]
fn tile<const R: usize, const Q: usize>(
    rows: &[f32],
    queries: &[f32],
    stride: usize,
    out: &mut [f32],
    m: usize,
) {
    let (rows, queries) = (&rows[..R * stride], &queries[..Q * stride]);
    let mut sums = [[_mm256_setzero_ps(); Q]; R];
    for at in (0..stride / 8).map(|lane| lane * 8) {
        let mut of_queries = [_mm256_setzero_ps(); Q];
        for (index, query) in of_queries.iter_mut().enumerate() {
            // SAFETY: `at + 8 <= stride`, so the read ends within the query.
            *query = unsafe { _mm256_loadu_ps(queries.as_ptr().add(index * stride + at)) };
        }
        for (index, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the same of the row.
            let row = unsafe { _mm256_loadu_ps(rows.as_ptr().add(index * stride + at)) };
            for (sum, query) in sums.iter_mut().zip(of_queries) {
                *sum = _mm256_fmadd_ps(row, query, *sum);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (query, sum) in sums.into_iter().enumerate() {
            out[row * m + query] = total(sum);
        }
    }
}

#[target_feature(enable = "avx2")]
fn total(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}
