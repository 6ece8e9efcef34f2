//! The image tower: u8 pixels to embeddings.
//!
//! Scaling and normalising are folded into the patch embedding, which is a product because
//! patches do not overlap. Formula: `CLIPVisionModel` of transformers' modeling_clip.py.

use tch::{Kind, TchError, Tensor};

use super::block::{Blocks, Sight, Span};
use super::layers::{LayerNorm, Linear, Stream};
use super::loader::{Loader, torch};
use crate::batch::PixelScale;
use crate::error::Error;
use crate::model::config::VisionConfig;
use crate::model::device::Placement;

/// Subtracted from pixels before the product. -128..127 is exact in bf16, as 0..255 is, and
/// rounding of the weights weighs half as much.
const CENTRE: f64 = 128.0;

pub(super) struct ImageTower {
    config: VisionConfig,
    patches: Linear,
    /// `[1, 1, width]`.
    class: Tensor,
    /// `[1, tokens, width]`.
    positions: Tensor,
    pre_norm: LayerNorm,
    blocks: Blocks,
    post_norm: LayerNorm,
    /// `[embedding, width]`, f32.
    projection: Tensor,
    placement: Placement,
}

impl ImageTower {
    pub fn load(loader: &Loader, config: &VisionConfig, scale: PixelScale) -> Result<Self, Error> {
        let named = |name: &str| format!("vision_model.{name}");
        let eps = config.tower.layer_norm_eps;
        let width = config.tower.width;
        let class = loader.placed_f32(&named("embeddings.class_embedding"))?;
        let positions = loader.placed_f32(&named("embeddings.position_embedding.weight"))?;
        Ok(Self {
            patches: patch_embedding(loader, &named("embeddings.patch_embedding"), scale)?,
            class: class.f_view([1, 1, width]).map_err(torch)?,
            positions: positions.f_view([1, config.tokens(), width]).map_err(torch)?,
            pre_norm: LayerNorm::load_f32(loader, &named("pre_layrnorm"), eps)?,
            blocks: Blocks::load(loader, "vision_model", (&config.tower, Sight::Full), false)?,
            post_norm: LayerNorm::load_f32(loader, &named("post_layernorm"), eps)?,
            projection: loader.placed_f32("visual_projection.weight")?,
            placement: loader.placement,
            config: config.clone(),
        })
    }

    /// u8 `[n, side, side, 3]` on the device -> f32 `[n, embedding]`, not of unit length yet.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        let (n, tokens) = (pixels.size()[0], self.config.tokens());
        let width = self.config.tower.width;
        let patches = self.patches.forward(&self.cut(pixels)?)?.f_to_kind(Kind::Float)?;
        let patches = patches.f_view([n, tokens - 1, width])?;
        let class = self.class.f_expand([n, 1, width], false)?;
        let x = Tensor::f_cat(&[class, patches], 1)?.f_add_(&self.positions)?;
        let x = self.pre_norm.forward(&x.f_view([n * tokens, width])?)?;
        let options = (Kind::Int64, pixels.device());
        let pooled = Tensor::f_arange_start_step(0, n * tokens, tokens, options)?;
        let stream = Stream::new(x, self.placement)?;
        let x = self.blocks.forward(stream, &[Span { sequences: n, len: tokens }], &pooled)?;
        let x = self.post_norm.forward(&x)?;
        x.f_linear(&self.projection, None::<&Tensor>)
    }

    /// Patches as rows `[n * grid * grid, patch * patch * 3]`, centred.
    fn cut(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        let (grid, patch) = (self.config.grid(), self.config.patch_size);
        let n = pixels.size()[0];
        let seen = grid * patch;
        let pixels = pixels.f_narrow(1, 0, seen)?.f_narrow(2, 0, seen)?;
        let cut = pixels.f_reshape([n, grid, patch, grid, patch, 3])?;
        let cut = cut.f_permute([0, 1, 3, 2, 4, 5])?;
        let rows = cut.f_reshape([n * grid * grid, patch * patch * 3])?;
        rows.f_to_kind(self.placement.kind)?.f_sub_scalar_(CENTRE)
    }
}

/// The convolution `[width, 3, patch, patch]` over normalised pixels as a product over centred
/// u8 pixels: with `s = rescale / std` and `m = mean / std` per channel, `w` becomes `w s` and
/// the bias `sum(w (128 s - m))`. Folded in f64.
fn patch_embedding(loader: &Loader, name: &str, scale: PixelScale) -> Result<Linear, Error> {
    let weight = loader.tensor(&format!("{name}.weight"))?;
    let per_channel = |of: fn(f64, f64, f64) -> f64| -> Vec<f64> {
        let of = |c: usize| of(scale.rescale.into(), scale.mean[c].into(), scale.std[c].into());
        (0..3).map(of).collect()
    };
    let factor = per_channel(|rescale, _, std| rescale / std);
    let offset = per_channel(|rescale, mean, std| (CENTRE * rescale - mean) / std);
    let fold = || -> Result<[Tensor; 2], TchError> {
        // As the pixels lie: row, column, channel.
        let weight = weight.f_to_kind(Kind::Double)?.f_permute([0, 2, 3, 1])?;
        let folded = weight.f_mul(&Tensor::f_from_slice(&factor)?)?;
        let bias = weight.f_mul(&Tensor::f_from_slice(&offset)?)?;
        let bias = bias.f_sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Double)?;
        let folded = folded.f_flatten(1, -1)?;
        Ok([folded.f_to_kind(Kind::Float)?, bias.f_to_kind(Kind::Float)?])
    };
    Linear::new(loader, name, fold().map_err(torch)?)
}
