//! Layer norm of a residual stream on a CPU, with what is to be added to the stream first.
//!
//! The stream stays in f32 whatever the precision of the products, and one pass over a row that
//! is in the first cache anyway adds, normalises and rounds. Formula: `torch.nn.LayerNorm`.
//! Where it runs is `cpu`'s affair.

use half::bf16;
use tch::{Device, Kind, TchError, Tensor};

use super::cpu::{Cpu, Element, Shares, Vector, elements};
use super::lanes::LANES;

/// Rows that a thread takes at once.
const ROWS: usize = 16;

/// `weight (x - mean) / sqrt(var + eps) + bias`, weight and bias f32 `[width]`.
pub(super) struct Affine<'a> {
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub eps: f64,
}

/// Adds `pending` (of type `kind`) to the f32 `stream` in place, both `[rows, width]`, and gives
/// the layer norm of the sum in type `kind`.
pub(super) fn add_and_norm(
    cpu: Cpu,
    stream: &mut Tensor,
    pending: Option<&Tensor>,
    (affine, kind): (&Affine<'_>, Kind),
) -> Result<Tensor, TchError> {
    let mut out = Tensor::f_empty(stream.size(), (kind, Device::Cpu))?;
    match kind {
        Kind::Float => run::<f32>(cpu, stream, pending, (affine, &mut out))?,
        _ => run::<bf16>(cpu, stream, pending, (affine, &mut out))?,
    }
    Ok(out)
}

struct Job<'a, T> {
    stream: Shares<f32>,
    pending: Option<&'a [T]>,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: Shares<T>,
}

fn run<T: Element>(
    cpu: Cpu,
    stream: &mut Tensor,
    pending: Option<&Tensor>,
    (affine, out): (&Affine<'_>, &mut Tensor),
) -> Result<(), TchError> {
    let (rows, width) = stream.size2()?;
    let (rows, width) = (rows as usize, width as usize);
    let vector = |tensor: &Tensor| tensor.f_view([1, width as i64]);
    let (weight, bias) = (vector(affine.weight)?, vector(affine.bias)?);
    let job = Job {
        stream: Shares::of(stream)?,
        pending: pending.map(|pending| elements::<T>(pending).map(|(data, _)| data)).transpose()?,
        weight: elements(&weight)?.0,
        bias: elements(&bias)?.0,
        eps: affine.eps as f32,
        out: Shares::of(out)?,
    };
    assert!(job.pending.is_none_or(|pending| pending.len() == rows * width));
    cpu.for_each(
        rows.div_ceil(ROWS),
        || (),
        |(), block| {
            for row in block * ROWS..rows.min((block + 1) * ROWS) {
                // SAFETY: `Cpu::get` found the instructions on this machine.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    match cpu.vector {
                        Vector::Avx512 => one_avx512(&job, row),
                        Vector::Avx2 => one_avx2(&job, row),
                    }
                }
                #[cfg(not(target_arch = "x86_64"))]
                let _ = (&job, row, Vector::Avx2);
            }
        },
    );
    Ok(())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,fma")]
fn one_avx512<T: Element>(job: &Job<'_, T>, row: usize) {
    one(job, row);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn one_avx2<T: Element>(job: &Job<'_, T>, row: usize) {
    one(job, row);
}

#[inline(always)]
fn one<T: Element>(job: &Job<'_, T>, row: usize) {
    let width = job.weight.len();
    // SAFETY: each row is given to one thread, once.
    let (x, out) =
        unsafe { (job.stream.part(row * width, width), job.out.part(row * width, width)) };
    if let Some(pending) = job.pending {
        for (x, pending) in x.iter_mut().zip(&pending[row * width..]) {
            *x += pending.to_f32();
        }
    }
    let mean = sum(x, |x| x) / width as f32;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f32;
    let scale = 1.0 / (variance + job.eps).sqrt();
    for (((out, x), weight), bias) in out.iter_mut().zip(&*x).zip(job.weight).zip(job.bias) {
        *out = T::from_f32(((x - mean) * scale).mul_add(*weight, *bias));
    }
}

/// The sum of `of` every value, in as many parts as vectors have lanes.
#[inline(always)]
fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (vectors, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for vector in vectors {
        for (sum, value) in sums.iter_mut().zip(vector) {
            *sum += of(*value);
        }
    }
    sums.into_iter().sum::<f32>() + rest.iter().map(|value| of(*value)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::Placement;

    /// As near to the result in f64 as LibTorch's own layer norm is; the sum stays in the stream.
    #[test]
    fn it_is_libtorchs_layer_norm_of_the_sum() {
        tch::manual_seed(7);
        let f32_cpu = (Kind::Float, Device::Cpu);
        for (rows, width) in [(1, 768), (100, 512), (33, 50), (17, 1)] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let Some(cpu) = Cpu::get(Placement { device: Device::Cpu, kind }) else { return };
                let before = Tensor::randn([rows, width], f32_cpu) * 3.0 + 1.0;
                let pending = Tensor::randn([rows, width], f32_cpu).to_kind(kind);
                let (weight, bias) =
                    (Tensor::randn([width], f32_cpu), Tensor::randn([width], f32_cpu));
                let affine = Affine { weight: &weight, bias: &bias, eps: 1e-5 };
                let mut stream = before.copy();
                let ours = add_and_norm(cpu, &mut stream, Some(&pending), (&affine, kind));
                let ours = ours.expect("it fits");
                let sum = before + pending.to_kind(Kind::Float);
                assert!(stream.equal(&sum), "{rows} rows of {width}");
                let theirs = |kind| {
                    let [x, weight, bias] = [&sum, &weight, &bias].map(|x| x.to_kind(kind));
                    x.layer_norm([width], Some(&weight), Some(&bias), 1e-5, false)
                };
                let exact = theirs(Kind::Double);
                let off = |x: &Tensor| (x - &exact).abs().max().double_value(&[]);
                let (ours, theirs) = (off(&ours), off(&theirs(Kind::Float).to_kind(kind)));
                assert!(ours <= 2.0 * theirs + 1e-6, "{rows} rows of {width}: {ours:e} {theirs:e}");
            }
        }
    }
}
