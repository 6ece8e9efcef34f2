//! Transformer blocks over packed sequences.
//!
//! Sequences lie one after another without padding, `[tokens, width]`, and a `Span` says which
//! rows belong together. Only attention looks at spans (see `attend`), so sequences of all
//! lengths share one matrix product. Formulas: `CLIPAttention` and `CLIPEncoderLayer` of
//! transformers' modeling_clip.py.

use tch::{TchError, Tensor};

use super::attend::{Attend, Packed};
use super::layers::{LayerNorm, Linear, Mlp, Stream};
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

    /// A stream of `[tokens, width]` -> f32 `[sequences, width]`: the rows `pooled` (one of each
    /// sequence, its last where sight is causal) after all blocks.
    pub fn forward(
        &self,
        mut stream: Stream,
        spans: &[Span],
        pooled: &Tensor,
    ) -> Result<Tensor, TchError> {
        self.blocks.iter().try_for_each(|block| block.forward(&mut stream, spans))?;
        self.last.forward(stream, spans, pooled)
    }
}

/// A block in which every token goes on.
struct Block {
    norm: LayerNorm,
    qkv: Linear,
    out: Linear,
    mlp: Mlp,
    attend: Attend,
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
            attend: Attend::new(loader, tower, sight),
        })
    }

    fn forward(&self, stream: &mut Stream, spans: &[Span]) -> Result<(), TchError> {
        let qkv = self.qkv.forward(&self.norm.of_stream(stream)?)?;
        let seen = self.attend.forward(Packed::Together(&qkv), spans)?;
        stream.add(self.out.forward(&seen)?)?;
        self.mlp.forward(stream)
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
    attend: Attend,
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
            attend: Attend::new(loader, tower, Sight::Full),
        })
    }

    fn forward(
        &self,
        mut stream: Stream,
        spans: &[Span],
        pooled: &Tensor,
    ) -> Result<Tensor, TchError> {
        let normed = self.norm.of_stream(&mut stream)?;
        let q = self.q.forward(&normed.f_index_select(0, pooled)?)?;
        let kv = self.kv.forward(&normed)?;
        let seen = self.attend.forward(Packed::OneQuery { q: &q, kv: &kv }, spans)?;
        let mut stream = stream.select(pooled)?;
        stream.add(self.out.forward(&seen)?)?;
        self.mlp.forward(&mut stream)?;
        stream.finish()
    }
}
