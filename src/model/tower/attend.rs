//! Attention of packed sequences, in the fastest way that the device has.
//!
//! On a CPU that is the kernel of `model::attention`, over all sequences in one call; elsewhere
//! LibTorch's `scaled_dot_product_attention`, one call a span, which on CUDA is flash attention
//! in f16 and bf16.

use tch::{TchError, Tensor};

use super::block::Span;
use super::loader::Loader;
use super::rotation::Rotation;
use crate::model::architecture::{Sight, TowerConfig};
use crate::model::attention::{Columns, Sequence, attention};
use crate::model::cpu::Cpu;

/// What the products before attention gave, parts side by side in the columns.
#[derive(Clone, Copy)]
pub(super) enum Packed<'a> {
    /// `[tokens, 3 width]`: queries, keys and values of every token.
    Together(&'a Tensor),
    /// `[sequences, width]` and `[tokens, 2 width]`: one query a sequence.
    OneQuery { q: &'a Tensor, kv: &'a Tensor },
}

/// A block's attention.
pub(super) struct Attend {
    heads: i64,
    width: i64,
    sight: Sight,
    rotation: Option<Rotation>,
    cpu: Option<Cpu>,
}

impl Attend {
    pub fn new(loader: &Loader, tower: &TowerConfig, sight: Sight) -> Self {
        let cpu = Cpu::get(loader.placement);
        Self { heads: tower.heads, width: tower.width, sight, rotation: None, cpu }
    }

    /// The same, of queries and keys that are turned first. A single query is that of a token
    /// that has no place and is not turned.
    pub fn turned(self, rotation: Option<&Rotation>) -> Self {
        Self { rotation: rotation.map(Rotation::shallow_clone), ..self }
    }

    /// -> `[queries, width]`.
    pub fn forward(&self, packed: Packed<'_>, spans: &[Span]) -> Result<Tensor, TchError> {
        if let Some(rotation) = &self.rotation {
            match packed {
                Packed::Together(qkv) => rotation.turn(&qkv.f_narrow(1, 0, 2 * self.width)?)?,
                Packed::OneQuery { kv, .. } => rotation.turn(&kv.f_narrow(1, 0, self.width)?)?,
            }
        }
        match self.cpu {
            Some(cpu) => self.with_kernel(cpu, packed, spans),
            None => self.with_libtorch(packed, spans),
        }
    }

    fn with_kernel(
        &self,
        cpu: Cpu,
        packed: Packed<'_>,
        spans: &[Span],
    ) -> Result<Tensor, TchError> {
        let (width, heads) = (self.width as usize, self.heads as usize);
        let part = |tensor, index: usize| Columns { tensor, first: index * width };
        let columns = match packed {
            Packed::Together(qkv) => [0, 1, 2].map(|index| part(qkv, index)),
            Packed::OneQuery { q, kv } => [part(q, 0), part(kv, 0), part(kv, 1)],
        };
        let lens = spans.iter().flat_map(|span| (0..span.sequences).map(|_| span.len as usize));
        let (mut q_start, mut kv_start) = (0, 0);
        let sequences = lens.map(|kv_len| {
            let q_len = match packed {
                Packed::Together(_) => kv_len,
                Packed::OneQuery { .. } => 1,
            };
            let sequence = Sequence { q_start, q_len, kv_start, kv_len };
            q_start += q_len;
            kv_start += kv_len;
            sequence
        });
        let causal = self.sight == Sight::Causal;
        attention(cpu, columns, &sequences.collect::<Vec<_>>(), ((heads, width), causal))
    }

    fn with_libtorch(&self, packed: Packed<'_>, spans: &[Span]) -> Result<Tensor, TchError> {
        let (mut start, mut first) = (0, 0);
        let mut seen = Vec::with_capacity(spans.len());
        for span in spans {
            let rows = span.sequences * span.len;
            let parts = match packed {
                Packed::Together(qkv) => self.by_head(&qkv.f_narrow(0, start, rows)?, *span)?,
                Packed::OneQuery { q, kv } => {
                    let asking = Span { len: 1, ..*span };
                    let q = self.by_head(&q.f_narrow(0, first, span.sequences)?, asking)?;
                    let kv = self.by_head(&kv.f_narrow(0, start, rows)?, *span)?;
                    q.into_iter().chain(kv).collect()
                }
            };
            seen.push(attend(&parts, self.sight)?);
            start += rows;
            first += span.sequences;
        }
        match seen.len() {
            1 => Ok(seen.remove(0)),
            _ => Tensor::f_cat(&seen, 0),
        }
    }

    /// What one product gave side by side, by part and head:
    /// `[rows, parts * width]` -> `parts` of `[sequences, heads, len, width / heads]`.
    fn by_head(&self, x: &Tensor, span: Span) -> Result<Vec<Tensor>, TchError> {
        let parts = x.size()[1] / self.width;
        let x = x.f_view([span.sequences, span.len, parts, self.heads, -1])?;
        x.f_permute([2, 0, 3, 1, 4])?.f_unbind(0)
    }
}

/// Softmax attention of `[queries, keys, values]` -> `[sequences * len, width]`.
fn attend(parts: &[Tensor], sight: Sight) -> Result<Tensor, TchError> {
    let (q, k, v) = (&parts[0], &parts[1], &parts[2]);
    let (causal, mask) = (sight == Sight::Causal, None::<&Tensor>);
    let out = Tensor::f_scaled_dot_product_attention(q, k, v, mask, 0.0, causal, None, false)?;
    let (sequences, heads, len, size) = out.size4()?;
    out.f_transpose(1, 2)?.f_reshape([sequences * len, heads * size])
}
