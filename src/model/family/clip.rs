//! CLIP as transformers' `CLIPModel` folders describe it.
//!
//! Missing keys take the defaults of transformers' `CLIPTextConfig` and `CLIPVisionConfig`
//! (configuration_clip.py of transformers 5.23), so that the old and sparse files of the first
//! releases read as they do there. Weights are not looked at here; the towers' tensors have these
//! folders' names.

use std::path::Path;

use super::section::Section;
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
    root.check_model_type("clip", "CLIPModel")?;
    Ok(Architecture {
        vision: Vision::Transformer(vision(&tower(&root, "vision_config")?)?),
        text: text(&tower(&root, "text_config")?)?,
        embedding_dim: root.size("projection_dim", 512)?,
        logit_bias: false,
    })
}

/// A tower's object. `{name}_dict`, where an old file has it, counts alone: transformers
/// completes it with defaults and lets the result override `name`.
pub fn tower(root: &Section, name: &str) -> Result<Section, Error> {
    let old = format!("{name}_dict");
    match root.map.get(&old).is_some_and(|value| !value.is_null()) {
        true => root.section(&old),
        false => root.section(name),
    }
}

/// The image tower.
pub fn vision(section: &Section) -> Result<VisionConfig, Error> {
    let tower = section.tower(TowerConfig {
        width: 768,
        mlp_width: 3072,
        layers: 12,
        heads: 12,
        activation: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        block: BlockKind::PreNorm,
    })?;
    section.check_channels()?;
    let [image_size, patch_size] = section.sides(224, 32)?;
    Ok(VisionConfig {
        tower,
        image_size,
        patch_size,
        patches: PatchEmbedding::Product,
        pre_norm: true,
        class_token: true,
        class_position: true,
        rotary: None,
        pooling: ImagePooling::ClassToken,
        projection: Projection::Product,
    })
}

fn text(section: &Section) -> Result<TextConfig, Error> {
    let pooling = match section.map.get("eos_token_id") {
        None => Pooling::FirstOf(49407),
        Some(value) => match value.as_i64() {
            Some(2) => Pooling::HighestId,
            Some(id) if id >= 0 => Pooling::FirstOf(id),
            _ => return Err(section.problem("eos_token_id", "is not one token id")),
        },
    };
    let tower = section.tower(TowerConfig {
        width: 512,
        mlp_width: 2048,
        layers: 12,
        heads: 8,
        activation: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        block: BlockKind::PreNorm,
    })?;
    Ok(TextConfig {
        tower,
        vocab_size: section.size("vocab_size", 49408)?,
        context_length: section.size("max_position_embeddings", 77)?,
        embedding: TokenEmbedding::Positions,
        pooling,
        sight: Sight::Causal,
        projection: Projection::Product,
    })
}
