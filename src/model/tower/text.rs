//! The text tower: token ids to embeddings.
//!
//! A caption is cut at the position that is read where sight is causal: later tokens cannot change
//! it. Where all tokens are seen, so is what fills a caption up, but not by BERT's towers, which are
//! told to look away from it. Equal captions are encoded once, sorted by length and packed without padding.
//! Formulas: `CLIPTextModel` of transformers' modeling_clip.py, `SiglipTextModel` of its
//! modeling_siglip.py, `BertModel` of its modeling_bert.py and `TextTransformer` of open_clip's
//! transformer.py. Tokenizing is done before (see the crate's `text`).

use std::collections::HashMap;

use tch::{Kind, TchError, Tensor};

use super::block::{Blocks, Shared, Span};
use super::layers::{LayerNorm, Project, Stream, normed};
use super::loader::{Loader, torch};
use crate::error::Error;
use crate::model::architecture::{Pooling, Projection, Sight, TextConfig, TokenEmbedding};
use crate::model::device::Placement;
use crate::model::transfer::upload;

pub(super) struct TextTower {
    /// `[vocab, width]`.
    tokens: Tensor,
    /// `[context, width]`, or more rows.
    positions: Tensor,
    embedding_norm: Option<LayerNorm>,
    blocks: Blocks,
    final_norm: Option<LayerNorm>,
    pooling: Pooling,
    /// What the first token goes through before it is projected.
    pooler: Option<Project>,
    projection: Project,
    placement: Placement,
}

impl TextTower {
    /// With `states`, every token's state can be had.
    pub fn load(loader: &Loader, config: &TextConfig, states: bool) -> Result<Self, Error> {
        let named = |name: &str| format!("text_model.{name}");
        let norm = |name: &str| {
            LayerNorm::load_f32(loader, &named(name), config.tower.layer_norm_eps).map(Some)
        };
        let positions = loader.placed_f32(&named("embeddings.position_embedding.weight"))?;
        let (positions, embedding_norm, final_norm) = match config.embedding {
            TokenEmbedding::Positions => (positions, None, norm("final_layer_norm")?),
            TokenEmbedding::Bert { positions: rows, first, .. } => {
                let segments = loader.placed_f32(&named("embeddings.segment_embedding.weight"))?;
                let used = positions.f_narrow(0, first, rows - first);
                let sum = used.and_then(|used| used.f_add(&segments.f_narrow(0, 0, 1)?));
                (sum.map_err(torch)?, norm("embeddings.layer_norm")?, None)
            }
        };
        let pooler = (config.pooling == Pooling::FirstThroughTanh)
            .then(|| Project::load(loader, &named("pooler"), Projection::ProductAndBias));
        let whole = states || config.pooling == Pooling::Mean;
        let shared = Shared { tower: &config.tower, sight: config.sight, rotation: None };
        Ok(Self {
            tokens: loader.placed_f32(&named("embeddings.token_embedding.weight"))?,
            positions,
            embedding_norm,
            blocks: Blocks::load(loader, "text_model", &shared, whole)?,
            final_norm,
            pooling: config.pooling,
            pooler: pooler.transpose()?,
            projection: Project::load(loader, "text_projection", config.projection)?,
            placement: loader.placement,
        })
    }

    /// Sequences sorted by length -> f32 `[n, embedding]`, not of unit length yet.
    pub fn forward(&self, sequences: &[&[i64]]) -> Result<Tensor, TchError> {
        let x = match self.pooling {
            Pooling::Mean => means(&self.states(sequences)?, &spans(sequences))?,
            _ => {
                let read = self.place(&self.read(sequences))?;
                let x = self.blocks.forward(self.embed(sequences)?, &spans(sequences), &read)?;
                normed(self.final_norm.as_ref(), x)?
            }
        };
        let x = match &self.pooler {
            Some(pooler) => pooler.forward(x)?.f_tanh()?,
            None => x,
        };
        self.projection.forward(x)
    }

    /// Sequences of one length -> f32 `[tokens, width]`, after the last layer norm.
    pub fn states(&self, sequences: &[&[i64]]) -> Result<Tensor, TchError> {
        let x = self.blocks.forward_whole(self.embed(sequences)?, &spans(sequences))?;
        normed(self.final_norm.as_ref(), x)
    }

    /// The row of each sequence that is read.
    fn read(&self, sequences: &[&[i64]]) -> Vec<i64> {
        let mut first = 0;
        let rows = sequences.iter().map(|ids| {
            let row = first + read_at(ids, self.pooling);
            first += ids.len();
            row as i64
        });
        rows.collect()
    }

    fn embed(&self, sequences: &[&[i64]]) -> Result<Stream, TchError> {
        let positions: Vec<i64> = sequences.iter().flat_map(|ids| 0..ids.len() as i64).collect();
        let x = self.tokens.f_index_select(0, &self.place(&sequences.concat())?)?;
        let x = x.f_add(&self.positions.f_index_select(0, &self.place(&positions)?)?)?;
        Stream::new(normed(self.embedding_norm.as_ref(), x)?, self.placement)
    }

    fn place(&self, values: &[i64]) -> Result<Tensor, TchError> {
        upload(&Tensor::f_from_slice(values)?, self.placement.device)
    }
}

/// Which captions are encoded, and where their embeddings belong.
pub(super) struct Packing<'a> {
    /// Distinct sequences, cut at the position that is read, ascending in length.
    pub sequences: Vec<&'a [i64]>,
    /// The index into `sequences` of each caption.
    pub of_caption: Vec<usize>,
}

impl<'a> Packing<'a> {
    pub fn new(captions: &'a [Vec<i64>], config: &TextConfig) -> Self {
        Self::of(captions.iter().map(|ids| cut(ids, config)).collect())
    }

    /// Captions as they are.
    pub fn whole(captions: &'a [Vec<i64>]) -> Self {
        Self::of(captions.iter().map(Vec::as_slice).collect())
    }

    fn of(cut: Vec<&'a [i64]>) -> Self {
        let mut sequences = cut.clone();
        sequences.sort_unstable_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        sequences.dedup();
        let place: HashMap<&[i64], usize> =
            sequences.iter().enumerate().map(|(index, &ids)| (ids, index)).collect();
        let of_caption = cut.iter().map(|ids| place[ids]).collect();
        Self { sequences, of_caption }
    }
}

/// The ids that what is read depends on.
fn cut<'a>(ids: &'a [i64], config: &TextConfig) -> &'a [i64] {
    match config.sight {
        Sight::Causal => &ids[..ids.len().min(read_at(ids, config.pooling) + 1)],
        Sight::Full => ids,
    }
}

/// The position that is read: of a mean, the last. Where there is no end-of-text that is the first
/// position, as `argmax` of nothing but zeros is.
fn read_at(ids: &[i64], pooling: Pooling) -> usize {
    let end = match pooling {
        Pooling::FirstOf(end) => end,
        Pooling::HighestId => ids.iter().copied().max().unwrap_or(0),
        Pooling::First | Pooling::FirstThroughTanh => return 0,
        Pooling::Last | Pooling::Mean => return ids.len().saturating_sub(1),
    };
    ids.iter().position(|&id| id == end).unwrap_or(0)
}

/// f32 `[tokens, width]` -> f32 `[sequences, width]`: the mean of each sequence's tokens.
fn means(x: &Tensor, spans: &[Span]) -> Result<Tensor, TchError> {
    let mut start = 0;
    let means = spans.iter().map(|span| {
        let rows = x.f_narrow(0, start, span.sequences * span.len)?;
        start += span.sequences * span.len;
        let shape = [span.sequences, span.len, -1];
        rows.f_view(shape)?.f_mean_dim([1].as_slice(), false, Kind::Float)
    });
    Tensor::f_cat(&means.collect::<Result<Vec<_>, _>>()?, 0)
}

fn spans(sequences: &[&[i64]]) -> Vec<Span> {
    let same = sequences.chunk_by(|a, b| a.len() == b.len());
    same.map(|run| Span { sequences: run.len() as i64, len: run[0].len() as i64 }).collect()
}
