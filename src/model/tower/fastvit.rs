//! FastViT, the convolutional image tower of MobileCLIP: u8 pixels to embeddings.
//!
//! What was trained in branches runs as one convolution each (see `branches`). The first
//! convolution is f32 everywhere, so that pixels are not rounded; so are means and projections.
//! Formula: `FastVit` of timm's fastvit.py, in the variants whose large kernels have an activation.

mod branches;
mod layers;
mod stage;
pub(super) mod tensors;

use tch::{Kind, TchError, Tensor};

use self::layers::{Convolution, Map, Pointwise, SqueezeExcite, map_kind, means};
use self::stage::LoadedStage;
use super::layers::Project;
use super::loader::{Loader, torch};
use crate::batch::PixelScale;
use crate::error::Error;
use crate::model::architecture::fastvit::FastVitConfig;
use crate::model::device::Placement;

pub(super) struct FastVit {
    /// By which pixels are multiplied, and what is added, f32 `[3]` each. Not folded into a kernel:
    /// the zeros around the map are those of normalised pixels.
    scale: [Tensor; 2],
    first: Convolution,
    second: Convolution,
    third: Pointwise,
    stages: Vec<LoadedStage>,
    last: Convolution,
    excite: SqueezeExcite,
    projection: Project,
    placement: Placement,
}

impl FastVit {
    pub fn load(loader: &Loader, config: &FastVitConfig, scale: PixelScale) -> Result<Self, Error> {
        let kind = map_kind(loader.placement);
        let [first, second, third] = tensors::stem(config);
        let (first, second, third) =
            (first.load(loader)?, second.load(loader)?, third.load(loader)?);
        let mut before = config.stem.width;
        let stages = config.stages.iter().enumerate().map(|(index, stage)| {
            let name = tensors::stage(index);
            let loaded = LoadedStage::load(loader, &name, (stage, before));
            before = stage.width;
            loaded
        });
        let stages = stages.collect::<Result<_, _>>()?;
        let last = tensors::last(config).load(loader)?;
        Ok(Self {
            scale: per_channel(scale, loader.placement).map_err(torch)?,
            first: Convolution::new(loader, &first, (3, 2), Kind::Float)?,
            second: Convolution::new(loader, &second, (config.stem.width, 2), kind)?,
            third: Pointwise::new(loader, third)?,
            stages,
            last: Convolution::new(loader, &last, (before, 1), kind)?,
            excite: SqueezeExcite::load(loader, tensors::EXCITE)?,
            projection: Project::load(loader, "visual_projection", config.projection)?,
            placement: loader.placement,
        })
    }

    /// u8 `[n, side, side, 3]` on the device -> f32 `[n, embedding]`, not of unit length yet.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        let (n, side) = (pixels.size()[0], pixels.size()[1]);
        let x = pixels.f_to_kind(Kind::Float)?.f_mul_(&self.scale[0])?.f_add_(&self.scale[1])?;
        let map = self.first.forward(&Map { x, n, side })?.gelu()?;
        let map = map.with(map.x.f_to_kind(map_kind(self.placement))?);
        let mut map = self.third.forward(&self.second.forward(&map)?.gelu()?)?;
        for stage in &self.stages {
            map = stage.forward(map)?;
        }
        let map = self.excite.forward(self.last.forward(&map)?)?.gelu()?;
        self.projection.forward(means(&map)?)
    }
}

/// `x rescale / std - mean / std` per channel.
fn per_channel(scale: PixelScale, placement: Placement) -> Result<[Tensor; 2], TchError> {
    let tensor = |of: [f32; 3]| Tensor::f_from_slice(&of)?.f_to_device(placement.device);
    let factor = [0, 1, 2].map(|c| scale.rescale / scale.std[c]);
    let offset = [0, 1, 2].map(|c| -scale.mean[c] / scale.std[c]);
    Ok([tensor(factor)?, tensor(offset)?])
}
