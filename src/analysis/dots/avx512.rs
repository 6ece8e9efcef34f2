//! Dot products with AVX-512, sixteen numbers at a time.

use std::arch::x86_64::*;

use super::tiles;

/// Whether this machine has AVX-512. The answer is cached by the standard library.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// Little-endian f16 to f32; returns how many are done. Needs `available()`.
pub fn widen(bytes: &[u8], out: &mut [f32]) -> usize {
    // SAFETY: `Vector::Avx512` is chosen only where `available()`.
    unsafe { widen_avx512(bytes, out) }
}

/// As `dots` of the module above, on padded rows. Needs `available()`.
pub fn dots(rows: &[f32], queries: &[f32], stride: usize, out: &mut [f32]) {
    let (n, m) = (rows.len() / stride, queries.len() / stride);
    tiles((n, m), 4, |row, query, tall, wide| {
        let (rows, queries) = (&rows[row * stride..], &queries[query * stride..]);
        let out = &mut out[row * m + query..];
        // SAFETY: `Vector::Avx512` is chosen only where `available()`.
        unsafe {
            match (tall, wide) {
                (4, 4) => tile::<4, 4>(rows, queries, stride, out, m),
                (_, 4) => tile::<1, 4>(rows, queries, stride, out, m),
                (4, _) => tile::<4, 1>(rows, queries, stride, out, m),
                _ => tile::<1, 1>(rows, queries, stride, out, m),
            }
        }
    });
}

#[target_feature(enable = "avx512f")]
fn widen_avx512(bytes: &[u8], out: &mut [f32]) -> usize {
    let chunks = bytes.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<16>().0);
    let mut done = 0;
    for (bytes, out) in chunks {
        // SAFETY: the references cover what is read and written, at any alignment.
        unsafe {
            let halves = _mm256_loadu_si256(bytes.as_ptr().cast());
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(halves));
        }
        done += 16;
    }
    done
}

/// `R` rows with `Q` queries; the products of a row are `m` apart from those of the next.
#[target_feature(enable = "avx512f")]
fn tile<const R: usize, const Q: usize>(
    rows: &[f32],
    queries: &[f32],
    stride: usize,
    out: &mut [f32],
    m: usize,
) {
    let (rows, queries) = (&rows[..R * stride], &queries[..Q * stride]);
    let mut sums = [[_mm512_setzero_ps(); Q]; R];
    for at in (0..stride / 16).map(|lane| lane * 16) {
        let mut of_queries = [_mm512_setzero_ps(); Q];
        for (index, query) in of_queries.iter_mut().enumerate() {
            // SAFETY: `at + 16 <= stride`, so the read ends within the query.
            *query = unsafe { _mm512_loadu_ps(queries.as_ptr().add(index * stride + at)) };
        }
        for (index, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the same of the row.
            let row = unsafe { _mm512_loadu_ps(rows.as_ptr().add(index * stride + at)) };
            for (sum, query) in sums.iter_mut().zip(of_queries) {
                *sum = _mm512_fmadd_ps(row, query, *sum);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (query, sum) in sums.into_iter().enumerate() {
            out[row * m + query] = _mm512_reduce_add_ps(sum);
        }
    }
}
