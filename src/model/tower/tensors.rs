//! Every tensor that the towers are made of, by name and shape.
//!
//! The names are those of the modules in transformers' modeling_clip.py, for all families; what a
//! family's weights call them is known in `family`. A pooling head's attention, layer norm and
//! perceptron are called as a block's are.

use crate::model::architecture::{Architecture, ImagePooling, TextProjection, TowerConfig};
use crate::model::weights::Expected;

/// Buffers that exports of old transformers carry: 0, 1, 2, ..., computed and never learned.
pub(in crate::model) const BUFFERS: [&str; 2] =
    ["text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"];

/// What the weights of this architecture hold, no more and no less.
pub(in crate::model) fn expected(architecture: &Architecture) -> Vec<Expected> {
    let (vision, text) = (&architecture.vision, &architecture.text);
    let (v, t, dim) = (vision.tower.width, text.tower.width, architecture.embedding_dim);
    let patch = vision.patch_size;
    let mut all = List(Vec::new());
    all.push("logit_scale", &[]);
    if architecture.logit_bias {
        all.push("logit_bias", &[]);
    }
    if vision.projection {
        all.push("visual_projection.weight", &[dim, v]);
    }
    match text.projection {
        TextProjection::Product => all.push("text_projection.weight", &[dim, t]),
        TextProjection::ProductAndBias => all.affine("text_projection", &[dim, t]),
    }
    match vision.patch_bias {
        false => all.push(&format!("{PATCHES}.weight"), &[v, 3, patch, patch]),
        true => all.affine(PATCHES, &[v, 3, patch, patch]),
    }
    all.push("vision_model.embeddings.position_embedding.weight", &[vision.tokens(), v]);
    all.push("text_model.embeddings.token_embedding.weight", &[text.vocab_size, t]);
    all.push("text_model.embeddings.position_embedding.weight", &[text.context_length, t]);
    if vision.pre_norm {
        // The misspelling is transformers'.
        all.affine("vision_model.pre_layrnorm", &[v]);
    }
    all.affine("vision_model.post_layernorm", &[v]);
    all.affine("text_model.final_layer_norm", &[t]);
    all.blocks("vision_model", &vision.tower);
    all.blocks("text_model", &text.tower);
    match vision.pooling {
        ImagePooling::ClassToken => all.push("vision_model.embeddings.class_embedding", &[v]),
        ImagePooling::Attention => {
            all.push("vision_model.head.probe", &[v]);
            all.attention("vision_model.head", v);
            all.perceptron("vision_model.head", &vision.tower);
        }
    }
    all.0
}

/// The product over patches.
pub(super) const PATCHES: &str = "vision_model.embeddings.patch_embedding";

struct List(Vec<Expected>);

impl List {
    fn push(&mut self, name: &str, shape: &[i64]) {
        self.0.push(Expected { name: name.into(), shape: shape.into() });
    }

    /// A weight of this shape, and a bias as long as its first side.
    fn affine(&mut self, name: &str, weight: &[i64]) {
        self.push(&format!("{name}.weight"), weight);
        self.push(&format!("{name}.bias"), &weight[..1]);
    }

    fn blocks(&mut self, prefix: &str, tower: &TowerConfig) {
        for layer in 0..tower.layers {
            let layer = format!("{prefix}.encoder.layers.{layer}");
            self.affine(&format!("{layer}.layer_norm1"), &[tower.width]);
            self.attention(&layer, tower.width);
            self.perceptron(&layer, tower);
        }
    }

    fn attention(&mut self, prefix: &str, width: i64) {
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            self.affine(&format!("{prefix}.self_attn.{part}"), &[width, width]);
        }
    }

    fn perceptron(&mut self, prefix: &str, tower: &TowerConfig) {
        let (width, mlp) = (tower.width, tower.mlp_width);
        self.affine(&format!("{prefix}.layer_norm2"), &[width]);
        self.affine(&format!("{prefix}.mlp.fc1"), &[mlp, width]);
        self.affine(&format!("{prefix}.mlp.fc2"), &[width, mlp]);
    }
}
