//! Every tensor of a `CLIPModel`, by name and shape.
//!
//! The names are those of the modules in transformers' modeling_clip.py.

use crate::model::config::{ClipConfig, TowerConfig};
use crate::model::weights::Expected;

/// Buffers that exports of old transformers carry: 0, 1, 2, ..., computed and never learned.
pub(super) const BUFFERS: [&str; 2] =
    ["text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"];

/// What the weights of this architecture hold, no more and no less.
pub(super) fn expected(config: &ClipConfig) -> Vec<Expected> {
    let (vision, text) = (&config.vision, &config.text);
    let (v, t) = (vision.tower.width, text.tower.width);
    let patch = vision.patch_size;
    let mut all = List(Vec::new());
    all.push("logit_scale", &[]);
    all.push("visual_projection.weight", &[config.projection_dim, v]);
    all.push("text_projection.weight", &[config.projection_dim, t]);
    all.push("vision_model.embeddings.class_embedding", &[v]);
    all.push("vision_model.embeddings.patch_embedding.weight", &[v, 3, patch, patch]);
    all.push("vision_model.embeddings.position_embedding.weight", &[vision.tokens(), v]);
    all.push("text_model.embeddings.token_embedding.weight", &[text.vocab_size, t]);
    all.push("text_model.embeddings.position_embedding.weight", &[text.context_length, t]);
    // The misspelling is transformers'.
    all.affine("vision_model.pre_layrnorm", &[v]);
    all.affine("vision_model.post_layernorm", &[v]);
    all.affine("text_model.final_layer_norm", &[t]);
    all.blocks("vision_model", &vision.tower);
    all.blocks("text_model", &text.tower);
    all.0
}

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
        let (width, mlp) = (tower.width, tower.mlp_width);
        for layer in 0..tower.layers {
            let named = |part: &str| format!("{prefix}.encoder.layers.{layer}.{part}");
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.affine(&named(&format!("self_attn.{part}")), &[width, width]);
            }
            self.affine(&named("layer_norm1"), &[width]);
            self.affine(&named("layer_norm2"), &[width]);
            self.affine(&named("mlp.fc1"), &[mlp, width]);
            self.affine(&named("mlp.fc2"), &[width, mlp]);
        }
    }
}
