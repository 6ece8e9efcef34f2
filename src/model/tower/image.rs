//! The vision transformers: u8 pixels to embeddings.
//!
//! How patches of pixels become vectors is the affair of `patches`, where they lie that of
//! `positions`. Images with a grid of their own are packed without padding, so that no mask is
//! needed. Formulas: `CLIPVisionModel` of transformers' modeling_clip.py, `SiglipVisionModel` of
//! its modeling_siglip.py and `Siglip2VisionModel` of its modeling_siglip2.py, `Eva` of timm's
//! eva.py.

use tch::{Kind, TchError, Tensor};

use super::block::{Blocks, Shared, Span};
use super::layers::{LayerNorm, Project, Stream};
use super::loader::{Loader, torch};
use super::patches::Patches;
use super::pool::AttentionPool;
use super::positions::Positions;
use super::rotation::Rotation;
use crate::batch::{Grid, PixelScale};
use crate::error::Error;
use crate::model::architecture::{ImagePooling, Sight, TowerConfig, VisionConfig};
use crate::model::device::Placement;

pub(super) struct ImageTower {
    config: VisionConfig,
    patches: Patches,
    positions: Positions,
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
            positions: Positions::load(loader, config)?,
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

    /// u8 on the device -> f32 `[n, embedding]`, not of unit length yet. Whole images are
    /// `[n, side, side, 3]` and have no `grids`; others are `[patches, side * side * 3]`, those of
    /// one grid together.
    pub fn forward(&self, pixels: &Tensor, grids: &[Grid]) -> Result<Tensor, TchError> {
        let tokens = self.config.tokens();
        let spans = match grids {
            [] => vec![Span { sequences: pixels.size()[0], len: tokens }],
            _ => spans(grids),
        };
        let stream = Stream::new(self.embed(pixels, grids)?, self.placement)?;
        let pooled = match &self.pool {
            None => {
                let n = pixels.size()[0];
                let options = (Kind::Int64, pixels.device());
                let class = Tensor::f_arange_start_step(0, n * tokens, tokens, options)?;
                self.post_norm.forward(&self.blocks.forward(stream, &spans, &class)?)?
            }
            Some(pool) => {
                let x = self.blocks.forward_whole(stream, &spans)?;
                pool.forward(&self.post_norm.forward(&x)?, &spans)?
            }
        };
        self.projection.forward(pooled)
    }

    /// Pixels as tokens with positions: f32 `[tokens of all images, width]`.
    fn embed(&self, pixels: &Tensor, grids: &[Grid]) -> Result<Tensor, TchError> {
        let (n, width) = (pixels.size()[0], self.config.tower.width);
        let patches = match grids {
            [] => self.patches.forward(pixels)?,
            _ => self.patches.forward_cut(pixels)?,
        };
        let x = match &self.class {
            Some(class) => {
                let (class, patches) =
                    (class.f_expand([n, 1, width], false)?, patches.f_view([n, -1, width])?);
                Tensor::f_cat(&[class, patches], 1)?
            }
            None => patches,
        };
        let x = self.positions.add(&x, grids)?;
        match &self.pre_norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }
}

/// Images of as many patches that follow one another.
fn spans(grids: &[Grid]) -> Vec<Span> {
    let same = grids.chunk_by(|a, b| a.patches() == b.patches());
    let span = |run: &[Grid]| Span { sequences: run.len() as i64, len: run[0].patches() as i64 };
    same.map(span).collect()
}
