//! A FastViT's stages: a halving of the map, and blocks of a mixer of places and a perceptron.
//!
//! Layer scales are folded into the product or kernel before them, batch norms into the one beside
//! them. Formulas: `FastVitStage`, `RepMixerBlock` and `AttentionBlock` of timm's fastvit.py.

use tch::{Kind, TchError, Tensor};

use super::branches::{Branches, Kernel, Reach, unchanged};
use super::layers::{Convolution, Map, Pointwise, SqueezeExcite, map_kind, rounded};
use crate::error::Error;
use crate::model::architecture::fastvit::{Downsample, Mixer, Stage};
use crate::model::architecture::{Activation, BlockKind, Sight, TowerConfig};
use crate::model::device::Placement;
use crate::model::tower::attend::{Attend, Packed};
use crate::model::tower::batch_norm::BatchNorm;
use crate::model::tower::block::Span;
use crate::model::tower::layers::{LayerNorm, Linear, normed};
use crate::model::tower::loader::{Loader, torch};

/// `eps` of a layer norm in the blocks.
const LAYER_NORM_EPS: f64 = 1e-5;

pub(super) struct LoadedStage {
    halving: Option<Halving>,
    position: Option<Convolution>,
    blocks: Vec<Block>,
}

impl LoadedStage {
    /// Loads `NAME.downsample`, `NAME.pos_emb` and `NAME.blocks.N`, for maps that come with so many
    /// channels.
    pub fn load(
        loader: &Loader,
        name: &str,
        (stage, before): (&Stage, i64),
    ) -> Result<Self, Error> {
        let halving = stage.downsample.map(|downsample| {
            let name = format!("{name}.downsample.proj");
            Halving::load(loader, &name, (downsample, [before, stage.width]))
        });
        let position = stage.position.then(|| position(loader, name, stage.width));
        let blocks = (0..stage.blocks)
            .map(|index| Block::load(loader, &format!("{name}.blocks.{index}"), stage));
        Ok(Self {
            halving: halving.transpose()?,
            position: position.transpose()?,
            blocks: blocks.collect::<Result<_, _>>()?,
        })
    }

    pub fn forward(&self, mut map: Map) -> Result<Map, TchError> {
        if let Some(halving) = &self.halving {
            map = halving.forward(&map)?;
        }
        if let Some(position) = &self.position {
            map = position.forward(&map)?;
        }
        for block in &self.blocks {
            map = block.forward(map)?;
        }
        Ok(map)
    }
}

/// What halves the sides of a map and widens it.
struct Halving {
    large: Convolution,
    excite: Option<SqueezeExcite>,
    point: Pointwise,
}

impl Halving {
    fn load(
        loader: &Loader,
        name: &str,
        (downsample, channels): (Downsample, [i64; 2]),
    ) -> Result<Self, Error> {
        let [large, point] = [0, 1].map(|index| format!("{name}.{index}"));
        let kernel = Branches::large(&large, channels).load(loader)?;
        let excite =
            downsample.squeezed.map(|_| SqueezeExcite::load(loader, &format!("{large}.se")));
        let out = [channels[1]; 2];
        let pointwise = Branches::mobile_one(&point, out, (1, Reach::All)).load(loader)?;
        Ok(Self {
            large: Convolution::new(loader, &kernel, (channels[0], 2), map_kind(loader.placement))?,
            excite: excite.transpose()?,
            point: Pointwise::new(loader, pointwise)?,
        })
    }

    fn forward(&self, map: &Map) -> Result<Map, TchError> {
        let mut map = self.large.forward(map)?;
        if let Some(excite) = &self.excite {
            map = excite.forward(map)?;
        }
        self.point.forward(&map.gelu()?)
    }
}

/// `RepConditionalPosEnc`: a convolution whose outcome is added to what it sees.
fn position(loader: &Loader, name: &str, width: i64) -> Result<Convolution, Error> {
    let name = format!("{name}.pos_emb.pos_enc");
    let kernel = loader.tensor_f64(&format!("{name}.weight"))?;
    let unchanged = unchanged([width, 1, 7, 7]);
    let weight = unchanged.and_then(|unchanged| kernel.f_add(&unchanged)).map_err(torch)?;
    let bias = loader.tensor_f64(&format!("{name}.bias"))?;
    let kernel = Kernel { name: format!("{name}.weight"), weight, bias };
    Convolution::new(loader, &kernel, (width, 1), map_kind(loader.placement))
}

struct Block {
    mixer: LoadedMixer,
    before_mlp: Convolution,
    up: Linear,
    down: Linear,
    placement: Placement,
}

enum LoadedMixer {
    Convolution(Convolution),
    Attention(Attention),
}

impl Block {
    fn load(loader: &Loader, name: &str, stage: &Stage) -> Result<Self, Error> {
        let (width, kind) = (stage.width, map_kind(loader.placement));
        let (mixer, scale) = match stage.mixer {
            Mixer::Convolution => {
                let kernel = rep_mixer(loader, &format!("{name}.token_mixer"), width)?;
                let mixer = Convolution::new(loader, &kernel, (width, 1), kind)?;
                (LoadedMixer::Convolution(mixer), "layer_scale")
            }
            Mixer::Attention { .. } => {
                (LoadedMixer::Attention(Attention::load(loader, name, stage)?), "layer_scale_2")
            }
        };
        let kernel = Branches::before_mlp(&format!("{name}.mlp"), width).load(loader)?;
        let up = format!("{name}.mlp.fc1");
        let parts = rounded(&product(loader, &up)?).map_err(torch)?;
        Ok(Self {
            mixer,
            before_mlp: Convolution::new(loader, &kernel, (width, 1), kind)?,
            up: Linear::new(loader, &up, parts)?,
            down: scaled(loader, &format!("{name}.mlp.fc2"), &format!("{name}.{scale}"))?,
            placement: loader.placement,
        })
    }

    fn forward(&self, mut map: Map) -> Result<Map, TchError> {
        match &self.mixer {
            LoadedMixer::Convolution(convolution) => map = convolution.forward(&map)?,
            LoadedMixer::Attention(attention) => map.add(&attention.forward(&map)?)?,
        }
        let seen = self.before_mlp.forward(&map)?.x.f_to_kind(self.placement.kind)?;
        map.add(&self.down.forward(&self.up.forward_gelu(&seen)?)?)?;
        Ok(map)
    }
}

/// `RepMixer`: `x + scale (mixer(x) - norm(x))`, as one kernel.
fn rep_mixer(loader: &Loader, name: &str, width: i64) -> Result<Kernel, Error> {
    let mixer = Branches::mobile_one(&format!("{name}.mixer"), [width; 2], (3, Reach::One));
    let Kernel { name: of, weight, bias } = mixer.load(loader)?;
    let norm = Branches::norm_alone(&format!("{name}.norm"), width, 3).load(loader)?;
    let scale = loader.tensor_f64(&format!("{name}.layer_scale.gamma"))?;
    let fold = || {
        let weight = weight.f_sub(&norm.weight)?.f_mul(&scale.f_view([-1, 1, 1, 1])?)?;
        let weight = weight.f_add(&unchanged([width, 1, 3, 3])?)?;
        Ok([weight, bias.f_sub(&norm.bias)?.f_mul(&scale.f_view([-1])?)?])
    };
    let [weight, bias] = fold().map_err(torch)?;
    Ok(Kernel { name: of, weight, bias })
}

/// Attention between all places of an image.
struct Attention {
    norm: Option<LayerNorm>,
    qkv: Linear,
    out: Linear,
    attend: Attend,
    placement: Placement,
}

impl Attention {
    fn load(loader: &Loader, name: &str, stage: &Stage) -> Result<Self, Error> {
        let (norm, qkv) = (format!("{name}.norm"), format!("{name}.token_mixer.qkv"));
        let plain = product(loader, &qkv)?;
        let (parts, norm) = match stage.mixer {
            Mixer::Attention { layer_norm: false, .. } => {
                (BatchNorm::load(loader, &norm)?.before(&plain).map_err(torch)?, None)
            }
            _ => {
                let like = (LAYER_NORM_EPS, map_kind(loader.placement), None);
                (plain, Some(LayerNorm::load_as(loader, &norm, like)?))
            }
        };
        let (out, scale) = (format!("{name}.token_mixer.proj"), format!("{name}.layer_scale_1"));
        Ok(Self {
            norm,
            qkv: Linear::new(loader, &qkv, rounded(&parts).map_err(torch)?)?,
            out: scaled(loader, &out, &scale)?,
            attend: Attend::new(loader, &as_tower(stage), Sight::Full),
            placement: loader.placement,
        })
    }

    fn forward(&self, map: &Map) -> Result<Tensor, TchError> {
        let x = normed(self.norm.as_ref(), map.x.shallow_clone())?;
        let qkv = self.qkv.forward(&x.f_to_kind(self.placement.kind)?)?;
        let spans = [Span { sequences: map.n, len: map.side * map.side }];
        self.out.forward(&self.attend.forward(Packed::Together(&qkv), &spans)?)
    }
}

/// A stage with attention in the words of a transformer.
fn as_tower(stage: &Stage) -> TowerConfig {
    let heads = match stage.mixer {
        Mixer::Attention { heads, .. } => heads,
        Mixer::Convolution => 1,
    };
    TowerConfig {
        width: stage.width,
        mlp_width: stage.mlp_width,
        layers: stage.blocks,
        heads,
        activation: Activation::Gelu,
        layer_norm_eps: LAYER_NORM_EPS,
        block: BlockKind::PreNorm,
    }
}

/// f64 `[out, in]` or `[out, in, 1, 1]` and `[out]`: zeros where there is no bias.
fn product(loader: &Loader, name: &str) -> Result<[Tensor; 2], Error> {
    let weight = loader.tensor_f64(&format!("{name}.weight"))?;
    let bias = loader.tensor_or_zeros(&format!("{name}.bias"), weight.size()[0])?;
    Ok([weight, bias.f_to_kind(Kind::Double).map_err(torch)?])
}

/// A product whose outcome is multiplied by `SCALE.gamma`.
fn scaled(loader: &Loader, name: &str, scale: &str) -> Result<Linear, Error> {
    let [weight, bias] = product(loader, name)?;
    let scale = loader.tensor_f64(&format!("{scale}.gamma"))?;
    let fold = || {
        let scale = scale.f_view([-1])?;
        let weight = weight.f_flatten(1, -1)?.f_mul(&scale.f_unsqueeze(1)?)?;
        rounded(&[weight, bias.f_mul(&scale)?])
    };
    Linear::new(loader, name, fold().map_err(torch)?)
}
