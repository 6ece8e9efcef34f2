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
use super::lanes::{LANES, Lanes, Left, ROWS, product};

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
        for (row, inverse) in inverse.into_iter().enumerate().take(q_len - first) {
            let at = (job.out_starts[index] + first + row) * width + head * size;
            // SAFETY: no other unit has this sequence and head.
            let out = unsafe { job.out.part(at, size) };
            for (to, sum) in out.iter_mut().zip(&scratch.sums[row * columns..]) {
                *to = T::from_f32(sum * inverse);
            }
        }
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

    /// LibTorch's attention of one sequence, `qkv` of `[len, 3 width]`, of its last `asking`
    /// queries.
    fn libtorch(qkv: &Tensor, (heads, asking): (i64, i64), causal: bool) -> Tensor {
        let len = qkv.size()[0];
        let by_head = qkv.view([1, len, 3, heads, -1]).permute([2, 0, 3, 1, 4]).unbind(0);
        let [q, k, v] = by_head.try_into().expect("three parts");
        let q = q.narrow(2, len - asking, asking);
        let mask = None::<&Tensor>;
        let out = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, causal, None, false);
        out.transpose(1, 2).reshape([asking, -1])
    }

    /// Sequences of several lengths packed together. With `one`, only their last token asks.
    fn compare(lens: &[i64], (heads, size): (i64, i64), kind: Kind, [causal, one]: [bool; 2]) {
        let Some(cpu) = Cpu::get(Placement { device: Device::Cpu, kind }) else {
            return eprintln!("SKIPPED: no AVX2 or no OpenMP here");
        };
        let (width, tokens) = (heads * size, lens.iter().sum::<i64>());
        let qkv =
            Tensor::randn([tokens, 3 * width], (Kind::Float, Device::Cpu)).to_kind(kind) * 2.0;
        let ends = lens.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        let ends: Vec<i64> = ends.collect();
        let last = ends.iter().map(|end| end - 1).collect::<Vec<_>>();
        let asking = qkv.index_select(0, &Tensor::from_slice(&last));
        let sequences = lens.iter().zip(&ends).enumerate().map(|(index, (&len, &end))| {
            let (kv_start, kv_len) = ((end - len) as usize, len as usize);
            match one {
                true => Sequence { q_start: index, q_len: 1, kv_start, kv_len },
                false => Sequence { q_start: kv_start, q_len: kv_len, kv_start, kv_len },
            }
        });
        let sequences: Vec<_> = sequences.collect();
        let part = |tensor, first: i64| Columns { tensor, first: (first * width) as usize };
        let queries = part(if one { &asking } else { &qkv }, 0);
        let columns = [queries, part(&qkv, 1), part(&qkv, 2)];
        let shape = ((heads as usize, width as usize), causal);
        let ours = attention(cpu, columns, &sequences, shape).expect("it fits");
        let theirs = |kind| {
            let parts = lens.iter().zip(&ends).map(|(&len, &end)| {
                let qkv = qkv.narrow(0, end - len, len).to_kind(kind);
                libtorch(&qkv, (heads, if one { 1 } else { len }), causal)
            });
            Tensor::cat(&parts.collect::<Vec<_>>(), 0)
        };
        let exact = theirs(Kind::Double);
        let off = |x: &Tensor| (x - &exact).abs().max().double_value(&[]);
        let (ours, theirs) = (off(&ours), off(&theirs(kind)));
        let case = format!("{heads} heads of {size}, {lens:?}, {kind:?}, {causal}, {one}");
        // A score of 4 standard deviations is 16, and a sum in another order moves it, and so
        // the logarithm of its weight, by a few of its last places.
        let last_places = 4.0 * 16.0 * f64::from(f32::EPSILON);
        assert!(ours <= 2.0 * theirs + last_places, "{case}: {ours:e}, LibTorch's {theirs:e}");
    }

    /// As near to the result in f64 as LibTorch's own attention in the same type is: odd lengths
    /// and head sizes, with and without a mask, every token asking or one.
    #[test]
    fn it_is_libtorchs_attention() {
        tch::manual_seed(7);
        for shape in [(3, 64), (2, 80), (4, 8), (1, 33)] {
            for kind in [Kind::Float, Kind::BFloat16] {
                for lens in [&[50, 50][..], &[2, 16, 17, 77], &[257], &[5, 64, 3]] {
                    compare(lens, shape, kind, [false, false]);
                    compare(lens, shape, kind, [true, false]);
                    compare(lens, shape, kind, [false, true]);
                }
            }
        }
    }
}
