//! Every tensor that a FastViT is made of, by name and shape.
//!
//! The names are those of timm's `FastVit`, under `vision_model`: no other library has one.

use super::branches::{Branches, Reach};
use crate::model::architecture::fastvit::{Downsample, FastVitConfig, Mixer, Stage};
use crate::model::tower::tensors::List;

/// Squeeze and excitation after the last convolution.
pub(super) const EXCITE: &str = "vision_model.final_conv.se";

/// Lists all tensors but those of the projection.
pub(in crate::model::tower) fn expected(config: &FastVitConfig, all: &mut List) {
    stem(config).iter().for_each(|convolution| convolution.expected(all));
    let mut before = config.stem.width;
    for (index, stage) in config.stages.iter().enumerate() {
        let name = self::stage(index);
        if let Some(downsample) = stage.downsample {
            halving(&name, (downsample, [before, stage.width]), all);
        }
        if stage.position {
            all.affine(&format!("{name}.pos_emb.pos_enc"), &[stage.width, 1, 7, 7]);
        }
        (0..stage.blocks)
            .for_each(|block| self::block(&format!("{name}.blocks.{block}"), stage, all));
        before = stage.width;
    }
    last(config).expected(all);
    excite(EXCITE, [config.last.squeezed, config.last.width], all);
}

/// The three convolutions of the stem.
pub(super) fn stem(config: &FastVitConfig) -> [Branches; 3] {
    let [first, second, third] = [0, 1, 2].map(|index| format!("vision_model.stem.{index}"));
    let (width, scale) = (config.stem.width, config.stem.scale_branch);
    [
        Branches::mobile_one(&first, [3, width], (3, Reach::All)).halving(scale),
        Branches::mobile_one(&second, [width; 2], (3, Reach::One)).halving(scale),
        Branches::mobile_one(&third, [width; 2], (1, Reach::All)),
    ]
}

/// The name of a stage.
pub(super) fn stage(index: usize) -> String {
    format!("vision_model.stages.{index}")
}

/// The convolution after all stages.
pub(super) fn last(config: &FastVitConfig) -> Branches {
    let before = config.stages.last().map_or(config.stem.width, |stage| stage.width);
    let channels = [before, config.last.width];
    Branches::mobile_one("vision_model.final_conv", channels, (3, Reach::One))
}

fn halving(stage: &str, (downsample, channels): (Downsample, [i64; 2]), all: &mut List) {
    let name = format!("{stage}.downsample.proj");
    Branches::large(&format!("{name}.0"), channels).expected(all);
    if let Some(squeezed) = downsample.squeezed {
        excite(&format!("{name}.0.se"), [squeezed, channels[1]], all);
    }
    Branches::mobile_one(&format!("{name}.1"), [channels[1]; 2], (1, Reach::All)).expected(all);
}

fn excite(name: &str, [squeezed, width]: [i64; 2], all: &mut List) {
    all.affine(&format!("{name}.fc1"), &[squeezed, width, 1, 1]);
    all.affine(&format!("{name}.fc2"), &[width, squeezed, 1, 1]);
}

fn block(name: &str, stage: &Stage, all: &mut List) {
    let (width, mixer) = (stage.width, format!("{name}.token_mixer"));
    let mut scale = |of: &str| all.push(&format!("{of}.gamma"), &[width, 1, 1]);
    match stage.mixer {
        Mixer::Convolution => {
            scale(&format!("{mixer}.layer_scale"));
            scale(&format!("{name}.layer_scale"));
            Branches::mobile_one(&format!("{mixer}.mixer"), [width; 2], (3, Reach::One))
                .expected(all);
            Branches::norm_alone(&format!("{mixer}.norm"), width, 3).expected(all);
        }
        Mixer::Attention { layer_norm, .. } => {
            scale(&format!("{name}.layer_scale_1"));
            scale(&format!("{name}.layer_scale_2"));
            match layer_norm {
                true => all.affine(&format!("{name}.norm"), &[width]),
                false => all.batch_norm(&format!("{name}.norm"), width),
            }
            all.push(&format!("{mixer}.qkv.weight"), &[3 * width, width]);
            all.affine(&format!("{mixer}.proj"), &[width, width]);
        }
    }
    Branches::before_mlp(&format!("{name}.mlp"), width).expected(all);
    all.affine(&format!("{name}.mlp.fc1"), &[stage.mlp_width, width, 1, 1]);
    all.affine(&format!("{name}.mlp.fc2"), &[width, stage.mlp_width, 1, 1]);
}
