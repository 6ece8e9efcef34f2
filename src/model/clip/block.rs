//! Transformer blocks over packed sequences.
//!
//! Sequences lie one after another without padding, `[tokens, width]`, and a `Span` says which
//! rows belong together. Only attention looks at spans, so sequences of all lengths share one
//! matrix product. Formulas: `CLIPAttention` and `CLIPEncoderLayer` of transformers'
//! modeling_clip.py.

use tch::{TchError, Tensor};

use super::layers::{LayerNorm, Linear, Mlp};
use super::loader::Loader;
use crate::error::Error;
use crate::model::config::TowerConfig;

/// Consecutive sequences of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub sequences: i64,
    pub len: i64,
}

/// Whether a token sees only itself and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    Causal,
    Full,
}

/// The blocks of a tower.
pub(super) struct Blocks {
    blocks: Vec<Block>,
    last: PooledBlock,
}

impl Blocks {
    /// Loads `PREFIX.encoder.layers.N`.
    pub fn load(
        loader: &Loader,
        prefix: &str,
        (tower, sight): (&TowerConfig, Sight),
    ) -> Result<Self, Error> {
        let layer = |index: i64| format!("{prefix}.encoder.layers.{index}");
        let blocks = (0..tower.layers - 1).map(|i| Block::load(loader, &layer(i), (tower, sight)));
        Ok(Self {
            blocks: blocks.collect::<Result<_, _>>()?,
            last: PooledBlock::load(loader, &layer(tower.layers - 1), tower)?,
        })
    }

    /// `x` of shape `[tokens, width]` -> `[sequences, width]`: the rows `pooled` (one of each
    /// sequence, its last where sight is causal) after all blocks.
    pub fn forward(&self, x: Tensor, spans: &[Span], pooled: &Tensor) -> Result<Tensor, TchError> {
        let x = self.blocks.iter().try_fold(x, |x, block| block.forward(&x, spans))?;
        self.last.forward(&x, spans, pooled)
    }
}

/// A block in which every token goes on.
struct Block {
    norm: LayerNorm,
    qkv: Linear,
    out: Linear,
    mlp: Mlp,
    heads: i64,
    sight: Sight,
}

impl Block {
    fn load(
        loader: &Loader,
        layer: &str,
        (tower, sight): (&TowerConfig, Sight),
    ) -> Result<Self, Error> {
        let named = |part: &str| format!("{layer}.self_attn.{part}_proj");
        Ok(Self {
            norm: LayerNorm::load(loader, &format!("{layer}.layer_norm1"), tower.layer_norm_eps)?,
            qkv: Linear::load(loader, &["q", "k", "v"].map(named))?,
            out: Linear::load(loader, &[named("out")])?,
            mlp: Mlp::load(loader, layer, tower)?,
            heads: tower.heads,
            sight,
        })
    }

    fn forward(&self, x: &Tensor, spans: &[Span]) -> Result<Tensor, TchError> {
        let qkv = self.qkv.forward(&self.norm.forward(x)?)?;
        let mut start = 0;
        let mut seen = Vec::with_capacity(spans.len());
        for span in spans {
            let rows = qkv.f_narrow(0, start, span.sequences * span.len)?;
            let parts = by_head(&rows, (3, self.heads), *span)?;
            seen.push(attend(&parts[0], &parts[1..], self.sight)?);
            start += span.sequences * span.len;
        }
        self.mlp.forward(&self.out.forward_add(&joined(seen)?, x)?)
    }
}

/// The last block, of which one token of each sequence is read: only that token asks and goes
/// on. It sees its whole sequence, so there is no mask.
struct PooledBlock {
    norm: LayerNorm,
    q: Linear,
    kv: Linear,
    out: Linear,
    mlp: Mlp,
    heads: i64,
}

impl PooledBlock {
    fn load(loader: &Loader, layer: &str, tower: &TowerConfig) -> Result<Self, Error> {
        let named = |part: &str| format!("{layer}.self_attn.{part}_proj");
        Ok(Self {
            norm: LayerNorm::load(loader, &format!("{layer}.layer_norm1"), tower.layer_norm_eps)?,
            q: Linear::load(loader, &[named("q")])?,
            kv: Linear::load(loader, &["k", "v"].map(named))?,
            out: Linear::load(loader, &[named("out")])?,
            mlp: Mlp::load(loader, layer, tower)?,
            heads: tower.heads,
        })
    }

    fn forward(&self, x: &Tensor, spans: &[Span], pooled: &Tensor) -> Result<Tensor, TchError> {
        let normed = self.norm.forward(x)?;
        let q = self.q.forward(&normed.f_index_select(0, pooled)?)?;
        let kv = self.kv.forward(&normed)?;
        let (mut start, mut first) = (0, 0);
        let mut seen = Vec::with_capacity(spans.len());
        for span in spans {
            let asking = Span { len: 1, ..*span };
            let rows = kv.f_narrow(0, start, span.sequences * span.len)?;
            let query = q.f_narrow(0, first, span.sequences)?;
            let query = by_head(&query, (1, self.heads), asking)?;
            let parts = by_head(&rows, (2, self.heads), *span)?;
            seen.push(attend(&query[0], &parts, Sight::Full)?);
            start += span.sequences * span.len;
            first += span.sequences;
        }
        let residual = x.f_index_select(0, pooled)?;
        self.mlp.forward(&self.out.forward_add(&joined(seen)?, &residual)?)
    }
}

/// What one product gave side by side, by part and head:
/// `[rows, parts * width]` -> `parts` of `[sequences, heads, len, width / heads]`.
fn by_head(x: &Tensor, (parts, heads): (i64, i64), span: Span) -> Result<Vec<Tensor>, TchError> {
    let x = x.f_view([span.sequences, span.len, parts, heads, -1])?;
    x.f_permute([2, 0, 3, 1, 4])?.f_unbind(0)
}

/// Softmax attention of queries to `[keys, values]` -> `[sequences * len, width]`.
fn attend(q: &Tensor, kv: &[Tensor], sight: Sight) -> Result<Tensor, TchError> {
    let causal = sight == Sight::Causal;
    let mask = None::<&Tensor>;
    let out =
        Tensor::f_scaled_dot_product_attention(q, &kv[0], &kv[1], mask, 0.0, causal, None, false)?;
    let (sequences, heads, len, size) = out.size4()?;
    out.f_transpose(1, 2)?.f_reshape([sequences * len, heads * size])
}

fn joined(mut parts: Vec<Tensor>) -> Result<Tensor, TchError> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Tensor::f_cat(&parts, 0),
    }
}
