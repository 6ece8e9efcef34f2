//! Softmax attention over packed sequences on a CPU: `softmax(q k^T / sqrt(d)) v`, head by head.
//!
//! LibTorch's own kernel for CPUs does two products a head through MKL and takes longer than the
//! arithmetic does by far on short sequences (tests/bench/README.md). Here a head's keys and
//! values are brought to f32 once and both products and the softmax stay in the first cache.
//! Everything is summed in f32, whatever the type of the tensors. Formula: `CLIPAttention` of
//! transformers' modeling_clip.py. Where it runs is `cpu`'s affair; elsewhere LibTorch's kernel
//! is used.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::bf16;
use tch::{Device, Kind, TchError, Tensor};

use super::cpu::{Cpu, Element, Shares, Vector, elements};

/// Width of the vectors that the compiler is given to fill: one of AVX-512, two of AVX2.
const LANES: usize = 16;

/// Queries that share the loads of keys and values.
const ROWS: usize = 4;

/// Rows of a tensor `[rows, stride]` from the column `first` on.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub tensor: &'a Tensor,
    pub first: usize,
}

/// Consecutive rows that are one sequence: its queries, and the keys and values that they see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    pub q_start: usize,
    pub q_len: usize,
    pub kv_start: usize,
    pub kv_len: usize,
}

/// Attention of `heads` heads -> `[queries, width]` in the tensors' type, the heads side by side.
///
/// Queries and keys lie in columns `first..first + width` of their tensors, which are contiguous
/// and of one type. With `causal`, a query sees the keys up to its own position.
pub(super) fn attention(
    cpu: Cpu,
    columns: [Columns<'_>; 3],
    sequences: &[Sequence],
    ((heads, width), causal): ((usize, usize), bool),
) -> Result<Tensor, TchError> {
    let queries: usize = sequences.iter().map(|sequence| sequence.q_len).sum();
    let kind = columns[0].tensor.f_kind()?;
    let mut out = Tensor::f_empty([queries as i64, width as i64], (kind, Device::Cpu))?;
    let longest = sequences.iter().map(|sequence| sequence.kv_len).max().unwrap_or(0);
    let shape = Shape { heads, size: width / heads, width, causal, longest };
    match kind {
        Kind::Float => Job::<f32>::new(columns, &mut out, sequences, shape)?.run(cpu),
        _ => Job::<bf16>::new(columns, &mut out, sequences, shape)?.run(cpu),
    }
    Ok(out)
}

#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    /// Columns of a head.
    size: usize,
    width: usize,
    causal: bool,
    /// The most keys of a sequence.
    longest: usize,
}

/// Rows of a matrix that may be longer than what is read of them.
#[derive(Clone, Copy)]
struct Matrix<'a, T> {
    data: &'a [T],
    stride: usize,
    first: usize,
}

impl<'a, T: Element> Matrix<'a, T> {
    fn new(columns: Columns<'a>) -> Result<Self, TchError> {
        let (data, stride) = elements(columns.tensor)?;
        Ok(Self { data, stride, first: columns.first })
    }

    #[inline(always)]
    fn row(&self, row: usize, head: usize, size: usize) -> &'a [T] {
        &self.data[row * self.stride + self.first + head * size..][..size]
    }
}

struct Job<'a, T> {
    q: Matrix<'a, T>,
    k: Matrix<'a, T>,
    v: Matrix<'a, T>,
    /// `[queries, width]`. Each sequence and head has elements of its own.
    out: Shares<T>,
    sequences: &'a [Sequence],
    /// The first row of each sequence in `out`.
    out_starts: Vec<usize>,
    shape: Shape,
}

impl<'a, T: Element> Job<'a, T> {
    fn new(
        [q, k, v]: [Columns<'a>; 3],
        out: &mut Tensor,
        sequences: &'a [Sequence],
        shape: Shape,
    ) -> Result<Self, TchError> {
        let out_starts = sequences.iter().scan(0, |next, sequence| {
            let start = *next;
            *next += sequence.q_len;
            Some(start)
        });
        Ok(Self {
            q: Matrix::new(q)?,
            k: Matrix::new(k)?,
            v: Matrix::new(v)?,
            out: Shares::of(out)?,
            sequences,
            out_starts: out_starts.collect(),
            shape,
        })
    }

    fn run(&self, cpu: Cpu) {
        let units = self.sequences.len() * self.shape.heads;
        cpu.for_each(
            units,
            || Scratch::new(&self.shape),
            |scratch, unit| {
                let unit = (unit / self.shape.heads, unit % self.shape.heads);
                // SAFETY: `Cpu::get` found the instructions on this machine.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    match cpu.vector {
                        Vector::Avx512 => one_avx512(self, unit, scratch),
                        Vector::Avx2 => one_avx2(self, unit, scratch),
                    }
                }
                #[cfg(not(target_arch = "x86_64"))]
                let _ = (unit, scratch, Vector::Avx2);
            },
        );
    }
}

/// A thread's memory for one head of one sequence, all f32.
struct Scratch {
    /// `[size, keys]`, keys padded to whole vectors.
    keys: Vec<f32>,
    /// `[keys, size]`, size padded to whole vectors.
    values: Vec<f32>,
    /// `[ROWS, size]`.
    queries: Vec<f32>,
    /// `[ROWS, keys]`, padded.
    scores: Vec<f32>,
    /// `[ROWS, size]`, padded.
    sums: Vec<f32>,
}

impl Scratch {
    fn new(shape: &Shape) -> Self {
        let (keys, size) = (padded(shape.longest), padded(shape.size));
        Self {
            keys: vec![0.0; shape.size * keys],
            values: vec![0.0; shape.longest * size],
            queries: vec![0.0; ROWS * shape.size],
            scores: vec![0.0; ROWS * keys],
            sums: vec![0.0; ROWS * size],
        }
    }
}

fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,fma")]
fn one_avx512<T: Element>(job: &Job<'_, T>, unit: (usize, usize), scratch: &mut Scratch) {
    one::<T, __m512, 4>(job, unit, scratch);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn one_avx2<T: Element>(job: &Job<'_, T>, unit: (usize, usize), scratch: &mut Scratch) {
    one::<T, [__m256; 2], 1>(job, unit, scratch);
}

/// One head of one sequence. `TILE` vectors side by side, times `ROWS`, fit the registers.
#[inline(always)]
fn one<T: Element, V: Lanes, const TILE: usize>(
    job: &Job<'_, T>,
    (index, head): (usize, usize),
    scratch: &mut Scratch,
) {
    let Shape { size, width, causal, .. } = job.shape;
    let Sequence { q_start, q_len, kv_start, kv_len } = job.sequences[index];
    let (keys, columns) = (padded(kv_len), padded(size));
    for key in 0..kv_len {
        let row = job.k.row(kv_start + key, head, size);
        for (column, value) in row.iter().enumerate() {
            scratch.keys[column * keys + key] = value.to_f32();
        }
        let row = job.v.row(kv_start + key, head, size);
        for (to, value) in scratch.values[key * columns..].iter_mut().zip(row) {
            *to = value.to_f32();
        }
    }
    let scale = 1.0 / (size as f32).sqrt();
    for first in (0..q_len).step_by(ROWS) {
        for row in 0..ROWS {
            // Rows past the last repeat it and are not written.
            let query = job.q.row(q_start + (first + row).min(q_len - 1), head, size);
            for (to, value) in scratch.queries[row * size..].iter_mut().zip(query) {
                *to = value.to_f32() * scale;
            }
        }
        let seen = |row: usize| if causal { (first + row + 1).min(kv_len) } else { kv_len };
        let most = seen(ROWS - 1);
        let a = Left { data: &scratch.queries, stride: size, columns: size };
        product::<V, TILE>(a, (&scratch.keys, keys), padded(most), (&mut scratch.scores, keys));
        let mut inverse = [0.0; ROWS];
        for (row, inverse) in inverse.iter_mut().enumerate() {
            let scores = &mut scratch.scores[row * keys..][..padded(most)];
            *inverse = 1.0 / softmax(scores, seen(row));
        }
        let a = Left { data: &scratch.scores, stride: keys, columns: most };
        product::<V, TILE>(a, (&scratch.values, columns), columns, (&mut scratch.sums, columns));
        for row in 0..ROWS.min(q_len - first) {
            let at = (job.out_starts[index] + first + row) * width + head * size;
            // SAFETY: no other unit has this sequence and head.
            let out = unsafe { job.out.part(at, size) };
            for (to, sum) in out.iter_mut().zip(&scratch.sums[row * columns..]) {
                *to = T::from_f32(sum * inverse[row]);
            }
        }
    }
}

/// `ROWS` rows of a matrix, `stride` apart.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32],
    stride: usize,
    columns: usize,
}

/// `c = a b` for the first `n` columns, whole vectors. `b` and `c` come with their strides.
#[inline(always)]
fn product<V: Lanes, const TILE: usize>(
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

/// `LANES` f32 in registers: the compiler does not keep arrays of this size there by itself.
///
/// The methods are inlined into functions that have the instructions, which `Cpu::get` found on
/// this machine.
#[cfg(target_arch = "x86_64")]
trait Lanes: Copy {
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

/// `exp(x - max)` of the first `seen` scores in place, 0 for the others; returns their sum.
#[inline(always)]
fn softmax(scores: &mut [f32], seen: usize) -> f32 {
    scores[seen..].fill(f32::NEG_INFINITY);
    let vectors = scores.as_chunks_mut::<LANES>().0;
    let mut most = [f32::NEG_INFINITY; LANES];
    for vector in vectors.iter() {
        for (most, value) in most.iter_mut().zip(vector) {
            *most = if *value > *most { *value } else { *most };
        }
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    for vector in vectors {
        for (sum, value) in sums.iter_mut().zip(vector) {
            *value = exp(*value - most);
            *sum += *value;
        }
    }
    sums.into_iter().sum()
}

/// `e^x` for x up to 0, within 2 units in the last place; 0 far below, NaN for NaN. The usual
/// way (Cephes' expf): x = n ln 2 + r, a polynomial for e^r, and n put into the exponent.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first exact when multiplied by n.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Adding it leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LEAST: f32 = -87.3;
    let clamped = if x < LEAST { LEAST } else { x };
    let rounded = clamped.mul_add(LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], clamped));
    let mut poly = 1.987_569_1e-4_f32;
    for term in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        poly = poly.mul_add(r, term);
    }
    let e = poly.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < LEAST { 0.0 } else { e * power }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::Placement;

    #[test]
    fn exp_is_that_of_the_standard_library() {
        let mut worst = 0.0_f64;
        for step in 0..87_000 {
            let x = -step as f32 / 1000.0;
            let wanted = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - wanted).abs() / wanted);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    fn libtorch(qkv: &Tensor, (len, heads, size): (i64, i64, i64), causal: bool) -> Tensor {
        let by_head = qkv.view([2, len, 3, heads, size]).permute([2, 0, 3, 1, 4]).unbind(0);
        let [q, k, v] = by_head.try_into().expect("three parts");
        let mask = None::<&Tensor>;
        let out = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, causal, None, false);
        out.transpose(1, 2).reshape([2 * len, heads * size])
    }

    /// As near to the result in f64 as LibTorch's own attention in the same type is: odd lengths
    /// and head sizes, with and without a mask.
    #[test]
    fn it_is_libtorchs_attention() {
        tch::manual_seed(7);
        for (heads, size) in [(3, 64), (2, 80), (4, 8), (1, 33)] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let placement = Placement { device: Device::Cpu, kind };
                let Some(cpu) = Cpu::get(placement) else { return };
                for (len, causal) in [(1, true), (50, false), (77, true), (16, true), (257, false)]
                {
                    let width = heads * size;
                    let options = (Kind::Float, Device::Cpu);
                    let qkv = Tensor::randn([2 * len, 3 * width], options).to_kind(kind) * 2.0;
                    let at = |first: i64| Columns { tensor: &qkv, first: (first * width) as usize };
                    let sequence = |start: i64| Sequence {
                        q_start: start as usize,
                        q_len: len as usize,
                        kv_start: start as usize,
                        kv_len: len as usize,
                    };
                    let shape = ((heads as usize, width as usize), causal);
                    let sequences = [sequence(0), sequence(len)];
                    let ours = attention(cpu, [at(0), at(1), at(2)], &sequences, shape);
                    let ours = ours.expect("it fits");
                    let theirs = |kind| libtorch(&qkv.to_kind(kind), (len, heads, size), causal);
                    let exact = theirs(Kind::Double);
                    let off = |x: &Tensor| (x - &exact).abs().max().double_value(&[]);
                    let (ours, theirs) = (off(&ours), off(&theirs(kind)));
                    let case = format!("{heads} heads of {size}, {len} tokens, {kind:?}");
                    assert!(ours <= 2.0 * theirs, "{case}: {ours:e}, LibTorch's {theirs:e}");
                }
            }
        }
    }
}
