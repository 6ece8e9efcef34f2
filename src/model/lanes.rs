//! Small products of f32 matrices in registers: what attention is made of.
//!
//! The compiler does not keep sums of this many numbers in registers by itself, so the vectors
//! are named here, once for AVX-512 and once for AVX2. Products of the towers' size are oneDNN's.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Numbers that go together: one vector of AVX-512, two of AVX2.
pub(super) const LANES: usize = 16;

/// Rows of the left matrix that share the loads of the right one.
pub(super) const ROWS: usize = 4;

/// `ROWS` rows of a matrix, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub columns: usize,
}

/// `c = a b` for the first `n` columns, whole vectors. `b` and `c` come with their strides.
#[inline(always)]
pub(super) fn product<V: Lanes, const TILE: usize>(
    a: Left<'_>,
    (b, b_stride): (&[f32], usize),
    n: usize,
    (c, c_stride): (&mut [f32], usize),
) {
    let mut column = 0;
    while n - column >= TILE * LANES {
        tile::<V, TILE>(a, (&b[column..], b_stride), (&mut c[column..], c_stride));
        column += TILE * LANES;
    }
    while column < n {
        tile::<V, 1>(a, (&b[column..], b_stride), (&mut c[column..], c_stride));
        column += LANES;
    }
}

#[inline(always)]
fn tile<V: Lanes, const N: usize>(
    a: Left<'_>,
    (b, b_stride): (&[f32], usize),
    (c, c_stride): (&mut [f32], usize),
) {
    let mut sums = [[V::zero(); N]; ROWS];
    let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &a.data[row * a.stride..][..a.columns]);
    for inner in 0..a.columns {
        let b = &b[inner * b_stride..][..N * LANES];
        let b: [V; N] = std::array::from_fn(|vector| V::load(&b[vector * LANES..]));
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let value = V::splat(row[inner]);
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = value.mul_add(b, *sum);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        let c = &mut c[row * c_stride..][..N * LANES];
        for (sum, c) in sums.into_iter().zip(c.chunks_exact_mut(LANES)) {
            sum.store(c);
        }
    }
}

/// `LANES` f32 in registers.
///
/// The methods are inlined into functions that have the instructions, which `Cpu::get` found on
/// this machine.
#[cfg(target_arch = "x86_64")]
pub(super) trait Lanes: Copy {
    fn zero() -> Self;
    fn splat(value: f32) -> Self;
    fn load(from: &[f32]) -> Self;
    fn store(self, to: &mut [f32]);
    /// `self * b + c`.
    fn mul_add(self, b: Self, c: Self) -> Self;
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait says it for all of them")]
impl Lanes for __m512 {
    #[inline(always)]
    fn zero() -> Self {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        unsafe { _mm512_loadu_ps(from[..LANES].as_ptr()) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        unsafe { _mm512_storeu_ps(to[..LANES].as_mut_ptr(), self) }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, b, c) }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::undocumented_unsafe_blocks, reason = "the trait says it for all of them")]
impl Lanes for [__m256; 2] {
    #[inline(always)]
    fn zero() -> Self {
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        unsafe { [_mm256_loadu_ps(from[..8].as_ptr()), _mm256_loadu_ps(from[8..16].as_ptr())] }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        unsafe {
            _mm256_storeu_ps(to[..8].as_mut_ptr(), self[0]);
            _mm256_storeu_ps(to[8..16].as_mut_ptr(), self[1]);
        }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { [_mm256_fmadd_ps(self[0], b[0], c[0]), _mm256_fmadd_ps(self[1], b[1], c[1])] }
    }
}
