//! The image tower: u8 pixels to embeddings.
//!
//! Scaling and normalising are folded into the patch embedding, which is a product because
//! patches do not overlap. Formulas: `CLIPVisionModel` of transformers' modeling_clip.py and
//! `SiglipVisionModel` of its modeling_siglip.py, `Eva` of timm's eva.py.

use tch::{Kind, TchError, Tensor};

use super::block::{Blocks, Shared, Span};
use super::layers::{LayerNorm, Linear, Project, Stream};
use super::loader::{Loader, torch};
use super::pool::AttentionPool;
use super::rotation::Rotation;
use super::tensors::PATCHES;
use crate::batch::PixelScale;
use crate::error::Error;
use crate::model::architecture::{ImagePooling, Sight, TowerConfig, VisionConfig};
use crate::model::device::Placement;

/// Subtracted from pixels before the product. -128..127 is exact in bf16, as 0..255 is, and
/// rounding of the weights weighs half as much.
const CENTRE: f64 = 128.0;

pub(super) struct ImageTower {
    config: VisionConfig,
    patches: Linear,
    /// `[1, tokens, width]`.
    positions: Tensor,
    /// The class token, `[1, 1, width]`.
    class: Option<Tensor>,
    pre_norm: Option<LayerNorm>,
    blocks: Blocks,
    post_norm: LayerNorm,
    /// What makes one vector of an image's tokens, where the class token alone is not read.
    pool: Option<AttentionPool>,
    projection: Project,
    placement: Placement,
}

impl ImageTower {
    pub fn load(loader: &Loader, config: &VisionConfig, scale: PixelScale) -> Result<Self, Error> {
        let named = |name: &str| format!("vision_model.{name}");
        let (tower, width) = (&config.tower, config.tower.width);
        let norm = |name: &str| LayerNorm::load_f32(loader, &named(name), tower.layer_norm_eps);
        let positions = loader.placed_f32(&named("embeddings.position_embedding.weight"))?;
        let class = config.class_token.then(|| {
            let class = loader.placed_f32(&named("embeddings.class_embedding"))?;
            class.f_view([1, 1, width]).map_err(torch)
        });
        let pool = match config.pooling {
            ImagePooling::ClassToken => None,
            ImagePooling::Attention { heads, mlp_width } => {
                let head = TowerConfig { heads, mlp_width, ..tower.clone() };
                Some(AttentionPool::load(loader, &named("head"), &head)?)
            }
        };
        let rotation = config.rotary.map(|rotary| Rotation::new(config, rotary, loader.placement));
        let rotation = rotation.transpose().map_err(torch)?;
        let shared = Shared { tower, sight: Sight::Full, rotation: rotation.as_ref() };
        Ok(Self {
            patches: patch_embedding(loader, config.patch_bias, scale)?,
            positions: positions.f_view([1, config.tokens(), width]).map_err(torch)?,
            class: class.transpose()?,
            pre_norm: config.pre_norm.then(|| norm("pre_layrnorm")).transpose()?,
            blocks: Blocks::load(loader, "vision_model", &shared, pool.is_some())?,
            post_norm: norm("post_layernorm")?,
            pool,
            projection: Project::load(loader, "visual_projection", config.projection)?,
            placement: loader.placement,
            config: config.clone(),
        })
    }

    /// u8 `[n, side, side, 3]` on the device -> f32 `[n, embedding]`, not of unit length yet.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        let (n, tokens) = (pixels.size()[0], self.config.tokens());
        let spans = [Span { sequences: n, len: tokens }];
        let stream = Stream::new(self.embed(pixels)?, self.placement)?;
        let pooled = match &self.pool {
            None => {
                let options = (Kind::Int64, pixels.device());
                let class = Tensor::f_arange_start_step(0, n * tokens, tokens, options)?;
                self.post_norm.forward(&self.blocks.forward(stream, &spans, &class)?)?
            }
            Some(pool) => {
                let x = self.blocks.forward_whole(stream, &spans)?;
                pool.forward(&self.post_norm.forward(&x)?, spans[0])?
            }
        };
        self.projection.forward(pooled)
    }

    /// Pixels as tokens with positions: f32 `[n * tokens, width]`.
    fn embed(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        let (n, tokens, width) = (pixels.size()[0], self.config.tokens(), self.config.tower.width);
        let patches = self.patches.forward(&self.cut(pixels)?)?.f_to_kind(Kind::Float)?;
        let patches = patches.f_view([n, -1, width])?;
        let x = match &self.class {
            Some(class) => Tensor::f_cat(&[class.f_expand([n, 1, width], false)?, patches], 1)?,
            None => patches,
        };
        let x = x.f_add(&self.positions)?.f_view([n * tokens, width])?;
        match &self.pre_norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
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
/// the bias `sum(w (128 s - m))`, to which its own bias is added. Folded in f64.
fn patch_embedding(loader: &Loader, has_bias: bool, scale: PixelScale) -> Result<Linear, Error> {
    let weight = loader.tensor(&format!("{PATCHES}.weight"))?;
    let own = has_bias.then(|| loader.tensor(&format!("{PATCHES}.bias"))).transpose()?;
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
        let mut bias = bias.f_sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Double)?;
        if let Some(own) = own {
            bias = bias.f_add(&own)?;
        }
        let folded = folded.f_flatten(1, -1)?;
        Ok([folded.f_to_kind(Kind::Float)?, bias.f_to_kind(Kind::Float)?])
    };
    Linear::new(loader, PATCHES, fold().map_err(torch)?)
}
