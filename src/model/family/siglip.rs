//! SigLIP, and SigLIP 2 of a fixed resolution, as transformers' `SiglipModel` folders describe it;
//! SigLIP 2 of any resolution (NaFlex) as those of its `Siglip2Model` do.
//!
//! Missing keys take the defaults of `SiglipTextConfig` and `SiglipVisionConfig`
//! (configuration_siglip.py of transformers 5.23, and configuration_siglip2.py, which has the
//! same); folders of the first releases hold little more than an empty `text_config`. Architecture
//! and names: modeling_siglip.py and modeling_siglip2.py.

use std::path::Path;

use serde_json::Value;

use super::section::Section;
use super::{Part, Source};
use crate::error::Error;
use crate::model::architecture::{
    Activation, Architecture, BlockKind, ImagePooling, PatchEmbedding, Pooling, Projection, Sight,
    TextConfig, TokenEmbedding, TowerConfig, Vision, VisionConfig,
};

/// Reads config.json.
///
/// # Errors
/// `NotFound` without the file; `ModelFile` naming the key that cannot be used.
pub fn read(dir: &Path) -> Result<Architecture, Error> {
    let root = Section::read(dir, super::CONFIG)?;
    let any_grid = root.model_type() == "siglip2";
    if !any_grid {
        root.check_model_type("siglip", "SiglipModel")?;
    }
    let section = root.section("vision_config")?;
    let vision = match any_grid {
        true => naflex(&section)?,
        false => vision(&section, PatchEmbedding::ProductAndBias, section.sides(224, 16)?)?,
    };
    let section = root.section("text_config")?;
    let text = text(&section)?;
    let embedding_dim = match section.map.get("projection_size") {
        None | Some(Value::Null) => text.tower.width,
        Some(_) => section.size("projection_size", 1)?,
    };
    if embedding_dim != vision.tower.width {
        let what = format!(
            "is {embedding_dim}, and the image tower's embeddings are vision_config.hidden_size = \
             {} long",
            vision.tower.width
        );
        return Err(section.problem("projection_size", &what));
    }
    let vision = Vision::Transformer(vision);
    Ok(Architecture { vision, text, embedding_dim, logit_bias: true })
}

/// Both towers have these.
fn defaults() -> TowerConfig {
    TowerConfig {
        width: 768,
        mlp_width: 3072,
        layers: 12,
        heads: 12,
        activation: Activation::GeluTanh,
        layer_norm_eps: 1e-6,
        block: BlockKind::PreNorm,
    }
}

/// The tower of images that have a grid of their own.
fn naflex(section: &Section) -> Result<VisionConfig, Error> {
    let (patch_size, positions) =
        (section.side("patch_size", 16)?, section.size("num_patches", 256)?);
    let grid = positions.isqrt();
    if grid * grid != positions {
        let what = format!("is {positions}, and the positions of patches are a square");
        return Err(section.problem("num_patches", &what));
    }
    vision(section, PatchEmbedding::AnyGrid, [grid * patch_size, patch_size])
}

fn vision(
    section: &Section,
    patches: PatchEmbedding,
    [image_size, patch_size]: [i64; 2],
) -> Result<VisionConfig, Error> {
    section.check_channels()?;
    if section.map.get("vision_use_head").and_then(Value::as_bool) == Some(false) {
        let what = "is false: without its head the image tower gives no embedding";
        return Err(section.problem("vision_use_head", what));
    }
    let tower = section.tower(defaults())?;
    let TowerConfig { heads, mlp_width, .. } = tower;
    Ok(VisionConfig {
        tower,
        image_size,
        patch_size,
        patches,
        pre_norm: false,
        class_token: false,
        class_position: true,
        rotary: None,
        pooling: ImagePooling::Attention { heads, mlp_width },
        projection: Projection::None,
    })
}

fn text(section: &Section) -> Result<TextConfig, Error> {
    Ok(TextConfig {
        tower: section.tower(defaults())?,
        vocab_size: section.size("vocab_size", 32_000)?,
        context_length: section.size("max_position_embeddings", 64)?,
        embedding: TokenEmbedding::Positions,
        pooling: Pooling::Last,
        sight: Sight::Full,
        projection: Projection::ProductAndBias,
    })
}

/// Where a tensor of the towers is in the weights.
pub fn source(tensor: &str) -> Source {
    if let Some(part) = tensor.strip_prefix("text_projection.") {
        return Source::whole(format!("text_model.head.{part}"));
    }
    if let "logit_scale" | "logit_bias" = tensor {
        return Source { name: tensor.into(), part: Part::Leading(1) };
    }
    let Some(head) = tensor.strip_prefix("vision_model.head.") else {
        return Source::whole(tensor);
    };
    if head == "probe" {
        return Source { name: tensor.into(), part: Part::Leading(2) };
    }
    if let Some(part) = head.strip_prefix("layer_norm2.") {
        return Source::whole(format!("vision_model.head.layernorm.{part}"));
    }
    if let Some(part) = head.strip_prefix("self_attn.out_proj.") {
        return Source::whole(format!("vision_model.head.attention.out_proj.{part}"));
    }
    // torch's MultiheadAttention has the three side by side.
    for (index, of) in ["q", "k", "v"].into_iter().enumerate() {
        if let Some(part) = head.strip_prefix(&format!("self_attn.{of}_proj.")) {
            let name = format!("vision_model.head.attention.in_proj_{part}");
            return Source { name, part: Part::Rows { index: index as i64, of: 3 } };
        }
    }
    Source::whole(tensor)
}
