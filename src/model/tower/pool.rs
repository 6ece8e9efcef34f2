//! A learned query that makes one vector of an image's tokens.
//!
//! What it asks is the same for every image, so its product is done once, when the weights are
//! loaded. Formula: `SiglipMultiheadAttentionPoolingHead` of transformers' modeling_siglip.py.

use tch::{Kind, TchError, Tensor};

use super::attend::{Attend, Packed};
use super::block::Span;
use super::layers::{Linear, Mlp, Stream};
use super::loader::{Loader, torch};
use crate::error::Error;
use crate::model::architecture::{Sight, TowerConfig};
use crate::model::device::Placement;

pub(super) struct AttentionPool {
    /// `[1, width]`: the query, after its product.
    q: Tensor,
    kv: Linear,
    out: Linear,
    mlp: Mlp,
    attend: Attend,
    placement: Placement,
}

impl AttentionPool {
    /// Loads `PREFIX.probe`, the attention and the perceptron; `tower` has the head's own sizes.
    pub fn load(loader: &Loader, prefix: &str, tower: &TowerConfig) -> Result<Self, Error> {
        let named = |part: &str| format!("{prefix}.self_attn.{part}_proj");
        let probe = loader.tensor(&format!("{prefix}.probe"))?;
        let (weight, bias) = (format!("{}.weight", named("q")), format!("{}.bias", named("q")));
        let ask = |weight: &Tensor, bias: &Tensor| {
            probe.f_view([1, tower.width])?.f_linear(weight, Some(bias))
        };
        let q = ask(&loader.tensor(&weight)?, &loader.tensor(&bias)?).map_err(torch)?;
        Ok(Self {
            q: loader.place(&weight, &q, loader.placement.kind)?,
            kv: Linear::load(loader, &["k", "v"].map(named))?,
            out: Linear::load(loader, &[named("out")])?,
            mlp: Mlp::load(loader, prefix, tower)?,
            attend: Attend::new(loader, tower, Sight::Full),
            placement: loader.placement,
        })
    }

    /// f32 `[tokens, width]` -> f32 `[sequences, width]`.
    pub fn forward(&self, x: &Tensor, spans: &[Span]) -> Result<Tensor, TchError> {
        let kv = self.kv.forward(&x.f_to_kind(self.placement.kind)?)?;
        let sequences: i64 = spans.iter().map(|span| span.sequences).sum();
        let q = self.q.f_expand([sequences, -1], false)?.f_contiguous()?;
        let seen = self.attend.forward(Packed::OneQuery { q: &q, kv: &kv }, spans)?;
        let seen = self.out.forward(&seen)?.f_to_kind(Kind::Float)?;
        let mut stream = Stream::new(seen, self.placement)?;
        self.mlp.forward(&mut stream)?;
        stream.finish()
    }
}
