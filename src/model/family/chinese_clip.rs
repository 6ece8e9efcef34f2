//! Chinese-CLIP as transformers' `ChineseCLIPModel` folders describe it: CLIP's image tower, and
//! BERT for captions.
//!
//! Missing keys take the defaults of `ChineseCLIPTextConfig` and `ChineseCLIPVisionConfig`
//! (configuration_chinese_clip.py of transformers 5.23), of which the latter are CLIP's.
//! Architecture and names: modeling_chinese_clip.py.

use std::path::Path;

use super::section::Section;
use super::{Source, bert, clip};
use crate::error::Error;
use crate::model::architecture::{
    Activation, Architecture, BlockKind, Pooling, Projection, Sight, TextConfig, TokenEmbedding,
    TowerConfig, Vision,
};

/// Reads config.json.
///
/// # Errors
/// `NotFound` without the file; `ModelFile` naming the key that cannot be used.
pub fn read(dir: &Path) -> Result<Architecture, Error> {
    let root = Section::read(dir, super::CONFIG)?;
    root.check_model_type("chinese_clip", "ChineseCLIPModel")?;
    Ok(Architecture {
        vision: Vision::Transformer(clip::vision(&clip::tower(&root, "vision_config")?)?),
        text: text(&clip::tower(&root, "text_config")?)?,
        embedding_dim: root.size("projection_dim", 512)?,
        logit_bias: false,
    })
}

fn text(section: &Section) -> Result<TextConfig, Error> {
    let tower = section.tower(TowerConfig {
        width: 768,
        mlp_width: 3072,
        layers: 12,
        heads: 12,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-12,
        block: BlockKind::PostNorm,
    })?;
    let context_length = section.size("max_position_embeddings", 512)?;
    let segments = section.size("type_vocab_size", 2)?;
    Ok(TextConfig {
        tower,
        vocab_size: section.size("vocab_size", 30522)?,
        context_length,
        embedding: TokenEmbedding::Bert { positions: context_length, first: 0, segments },
        pooling: Pooling::First,
        sight: Sight::Full,
        projection: Projection::Product,
    })
}

/// Where a tensor of the towers is in the weights.
pub fn source(tensor: &str) -> Source {
    bert::source("text_model.", tensor).unwrap_or_else(|| Source::whole(tensor))
}
