//! timm's FastViTs inside OpenCLIP's folders: the image towers of MobileCLIP-S and MobileCLIP2-S.
//!
//! Of a name that is known here the weights tell all else: widths, blocks and what a stage has are
//! read off their names and shapes. Weights whose branches were folded are refused, as open_clip
//! does. Facts: fastvit.py of timm 1.0.

use super::in_trunk;
use crate::error::Error;
use crate::model::architecture::Projection;
use crate::model::architecture::fastvit::{Downsample, FastVitConfig, Last, Mixer, Stage, Stem};
use crate::model::family::Source;
use crate::model::family::section::Section;
use crate::model::weights::Weights;

/// Those whose large kernels have an activation, as MobileCLIP's have.
pub(super) const TOWERS: [&str; 5] =
    ["fastvit_mci0", "fastvit_mci1", "fastvit_mci2", "fastvit_mci3", "fastvit_mci4"];

/// timm's `head_dim`.
const HEAD_WIDTH: i64 = 32;

/// Reads the tower's sizes from the weights.
///
/// # Errors
/// `ModelFile` naming the key that cannot be used; `Tensor` for weights that are no such tower's.
pub(super) fn read(
    section: &Section,
    weights: &Weights,
    projection: Projection,
) -> Result<FastVitConfig, Error> {
    if weights.has(&in_trunk("stem.0.reparam_conv.weight")) {
        let what = "has weights whose branches were folded (reparam_conv), which open_clip does \
                    not load: take them as they were trained";
        return Err(section.problem("timm_model_name", what));
    }
    let shapes = Shapes(weights);
    let there = |index: &usize| shapes.has(&format!("stages.{index}.blocks.0.mlp.fc1.weight"));
    let stages = (0..64).take_while(there).map(|index| shapes.stage(index));
    let stages = stages.collect::<Result<Vec<_>, _>>()?;
    let config = FastVitConfig {
        image_size: section.side("image_size", 224)?,
        stem: Stem {
            width: shapes.first_side("stem.0.conv_kxk.0.conv.weight")?,
            scale_branch: shapes.has("stem.0.conv_scale.conv.weight"),
        },
        stages,
        last: Last {
            width: shapes.first_side("final_conv.conv_kxk.0.conv.weight")?,
            squeezed: shapes.first_side("final_conv.se.fc1.weight")?,
        },
        projection,
    };
    check_widths(&config).map_err(|what| section.problem("timm_model_name", &what))?;
    Ok(config)
}

/// Every channel makes so many of the next convolution, and heads are of one width.
fn check_widths(config: &FastVitConfig) -> Result<(), String> {
    let mut before = config.stem.width;
    for stage in &config.stages {
        let Stage { width, mixer, downsample, .. } = *stage;
        let fits = match downsample {
            Some(_) => is_multiple(width, before),
            None => width == before && width >= 1,
        };
        match mixer {
            _ if !fits => {
                return Err(format!("makes no {width} channels of the weights' {before}"));
            }
            Mixer::Attention { heads, .. } if heads * HEAD_WIDTH != width => {
                return Err(format!(
                    "has heads of {HEAD_WIDTH}, and the weights' width is {width}"
                ));
            }
            _ => before = width,
        }
    }
    let Last { width, .. } = config.last;
    match is_multiple(width, before) {
        true => Ok(()),
        false => Err(format!("makes no {width} channels of the weights' {before}")),
    }
}

fn is_multiple(width: i64, before: i64) -> bool {
    width >= 1 && before >= 1 && width % before == 0
}

/// The weights' tensors of the tower.
struct Shapes<'a>(&'a Weights);

impl Shapes<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.has(&in_trunk(name))
    }

    fn first_side(&self, name: &str) -> Result<i64, Error> {
        Ok(self.0.shape(&in_trunk(name))?.first().copied().unwrap_or(0))
    }

    fn stage(&self, index: usize) -> Result<Stage, Error> {
        let name = |part: &str| format!("stages.{index}.{part}");
        let large = name("downsample.proj.0");
        let squeezed = format!("{large}.se.fc1.weight");
        let downsample = match self.has(&format!("{large}.large_conv.conv.weight")) {
            false => None,
            true if self.has(&squeezed) => {
                Some(Downsample { squeezed: Some(self.first_side(&squeezed)?) })
            }
            true => Some(Downsample { squeezed: None }),
        };
        let there = |block: &i64| self.has(&name(&format!("blocks.{block}.mlp.fc1.weight")));
        let width = self.first_side(&name("blocks.0.mlp.fc2.weight"))?;
        let mixer = match self.has(&name("blocks.0.token_mixer.qkv.weight")) {
            false => Mixer::Convolution,
            true => Mixer::Attention {
                heads: width / HEAD_WIDTH,
                layer_norm: !self.has(&name("blocks.0.norm.running_mean")),
            },
        };
        Ok(Stage {
            width,
            mlp_width: self.first_side(&name("blocks.0.mlp.fc1.weight"))?,
            blocks: (0..1024).take_while(there).count() as i64,
            mixer,
            downsample,
            position: self.has(&name("pos_emb.pos_enc.weight")),
        })
    }
}

/// Where a tensor of the tower is in the weights; `None` for the others.
pub(super) fn source(tensor: &str) -> Option<Source> {
    tensor.strip_prefix("vision_model.").map(|name| Source::whole(in_trunk(name)))
}
