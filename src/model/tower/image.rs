//! The vision transformers: u8 pixels to embeddings.
//!
//! How patches of pixels become vectors is the affair of `patches`. Formulas: `CLIPVisionModel` of
//! transformers' modeling_clip.py and `SiglipVisionModel` of its modeling_siglip.py, `Eva` of
//! timm's eva.py.

use tch::{Kind, TchError, Tensor};

use super::block::{Blocks, Shared, Span};
use super::layers::{LayerNorm, Project, Stream};
use super::loader::{Loader, torch};
use super::patches::Patches;
use super::pool::AttentionPool;
use super::rotation::Rotation;
use crate::batch::PixelScale;
use crate::error::Error;
use crate::model::architecture::{ImagePooling, Sight, TowerConfig, VisionConfig};
use crate::model::device::Placement;

pub(super) struct ImageTower {
    config: VisionConfig,
    patches: Patches,
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
            patches: Patches::load(loader, config, scale)?,
            positions: of_all_tokens(positions, config).map_err(torch)?,
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
        let patches = self.patches.forward(pixels)?.f_view([n, -1, width])?;
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
}

/// `[positions, width]` -> `[1, tokens, width]`: zeros for a token without a position.
fn of_all_tokens(positions: Tensor, config: &VisionConfig) -> Result<Tensor, TchError> {
    let (width, without) = (config.tower.width, config.tokens() - config.positions());
    let zeros = Tensor::f_zeros([without, width], (positions.kind(), positions.device()))?;
    Tensor::f_cat(&[zeros, positions], 0)?.f_view([1, config.tokens(), width])
}
