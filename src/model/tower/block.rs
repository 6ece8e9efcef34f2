//! Transformer blocks over packed sequences.
//!
//! Sequences lie one after another without padding, `[tokens, width]`, and a `Span` says which rows
//! belong together. Only attention looks at spans (see `attend`), so sequences of all lengths share
//! one matrix product. Formulas: `CLIPAttention` and `CLIPEncoderLayer` of transformers'
//! modeling_clip.py, `BertLayer` of its modeling_bert.py, `EvaBlock` of timm's eva.py.

use tch::{TchError, Tensor};

use super::attend::{Attend, Packed};
use super::layers::{BlockNorm, LayerNorm, Linear, Mlp, Stream, normed};
use super::loader::Loader;
use super::rotation::Rotation;
use crate::error::Error;
use crate::model::architecture::{Sight, TowerConfig};

/// Consecutive sequences of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub sequences: i64,
    pub len: i64,
}

/// What the blocks of a tower share.
pub(super) struct Shared<'a> {
    pub tower: &'a TowerConfig,
    pub sight: Sight,
    /// How queries and keys are turned, where they are.
    pub rotation: Option<&'a Rotation>,
}

/// The blocks of a tower.
pub(super) struct Blocks {
    blocks: Vec<Block>,
    last: LastBlock,
}

/// The last block: for the one token of each sequence that is read, or for all of them.
enum LastBlock {
    Pooled(PooledBlock),
    Whole(Block),
}

impl Blocks {
    /// Loads `PREFIX.encoder.layers.N`. With `whole`, every token's output can be had.
    pub fn load(
        loader: &Loader,
        prefix: &str,
        shared: &Shared<'_>,
        whole: bool,
    ) -> Result<Self, Error> {
        let layer = |index: i64| format!("{prefix}.encoder.layers.{index}");
        let before = shared.tower.layers - 1;
        let blocks = (0..before).map(|index| Block::load(loader, &layer(index), shared));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let last = layer(before);
        let last = match whole {
            false => LastBlock::Pooled(PooledBlock::load(loader, &last, shared)?),
            true => LastBlock::Whole(Block::load(loader, &last, shared)?),
        };
        Ok(Self { blocks, last })
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
        match &self.last {
            LastBlock::Pooled(last) => last.forward(stream, spans, pooled),
            LastBlock::Whole(last) => {
                last.forward(&mut stream, spans)?;
                stream.select(pooled)?.finish()
            }
        }
    }

    /// The same for all tokens: f32 `[tokens, width]`. Loaded with `whole`.
    pub fn forward_whole(&self, mut stream: Stream, spans: &[Span]) -> Result<Tensor, TchError> {
        self.blocks.iter().try_for_each(|block| block.forward(&mut stream, spans))?;
        match &self.last {
            LastBlock::Whole(last) => last.forward(&mut stream, spans)?,
            LastBlock::Pooled(_) => unreachable!("asked only of blocks that were loaded whole"),
        }
        stream.finish()
    }
}

/// A block in which every token goes on.
struct Block {
    norm: BlockNorm,
    qkv: Linear,
    inner_norm: Option<LayerNorm>,
    out: Linear,
    mlp: Mlp,
    attend: Attend,
}

impl Block {
    fn load(loader: &Loader, layer: &str, shared: &Shared<'_>) -> Result<Self, Error> {
        let Shared { tower, sight, rotation } = *shared;
        let named = |part: &str| format!("{layer}.self_attn.{part}_proj");
        Ok(Self {
            norm: BlockNorm::load(loader, &format!("{layer}.layer_norm1"), tower)?,
            qkv: Linear::load(loader, &["q", "k", "v"].map(named))?,
            inner_norm: inner_norm(loader, layer, tower)?,
            out: Linear::load(loader, &[named("out")])?,
            mlp: Mlp::load(loader, layer, tower)?,
            attend: Attend::new(loader, tower, sight).turned(rotation),
        })
    }

    fn forward(&self, stream: &mut Stream, spans: &[Span]) -> Result<(), TchError> {
        let qkv = self.qkv.forward(&self.norm.before(stream)?)?;
        let seen = self.attend.forward(Packed::Together(&qkv), spans)?;
        let seen = normed(self.inner_norm.as_ref(), seen)?;
        stream.add(self.out.forward(&seen)?)?;
        self.norm.after(stream)?;
        self.mlp.forward(stream)
    }
}

/// The last block, of which one token of each sequence is read: only that token asks and goes
/// on. It sees its whole sequence, so there is no mask.
struct PooledBlock {
    norm: BlockNorm,
    q: Linear,
    kv: Linear,
    inner_norm: Option<LayerNorm>,
    out: Linear,
    mlp: Mlp,
    attend: Attend,
}

impl PooledBlock {
    fn load(loader: &Loader, layer: &str, shared: &Shared<'_>) -> Result<Self, Error> {
        let Shared { tower, rotation, .. } = *shared;
        let named = |part: &str| format!("{layer}.self_attn.{part}_proj");
        Ok(Self {
            norm: BlockNorm::load(loader, &format!("{layer}.layer_norm1"), tower)?,
            q: Linear::load(loader, &[named("q")])?,
            kv: Linear::load(loader, &["k", "v"].map(named))?,
            inner_norm: inner_norm(loader, layer, tower)?,
            out: Linear::load(loader, &[named("out")])?,
            mlp: Mlp::load(loader, layer, tower)?,
            attend: Attend::new(loader, tower, Sight::Full).turned(rotation),
        })
    }

    fn forward(
        &self,
        mut stream: Stream,
        spans: &[Span],
        pooled: &Tensor,
    ) -> Result<Tensor, TchError> {
        let x = self.norm.before(&mut stream)?;
        let q = self.q.forward(&x.f_index_select(0, pooled)?)?;
        let kv = self.kv.forward(&x)?;
        let seen = self.attend.forward(Packed::OneQuery { q: &q, kv: &kv }, spans)?;
        let seen = normed(self.inner_norm.as_ref(), seen)?;
        let mut stream = stream.select(pooled)?;
        stream.add(self.out.forward(&seen)?)?;
        self.norm.after(&mut stream)?;
        self.mlp.forward(&mut stream)?;
        stream.finish()
    }
}

/// The layer norm of what the heads of a block saw, where it has one.
fn inner_norm(
    loader: &Loader,
    layer: &str,
    tower: &TowerConfig,
) -> Result<Option<LayerNorm>, Error> {
    LayerNorm::load_inner(loader, &format!("{layer}.self_attn.norm"), tower)
}
