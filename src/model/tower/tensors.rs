//! Every tensor that the towers are made of, by name and shape.
//!
//! The names are those of the modules in transformers' modeling_clip.py, for all families (but see
//! `fastvit`); what a family's weights call them is known in `family`. A pooling head's attention,
//! layer norm and perceptron are called as a block's are.

use super::fastvit::tensors::expected as fastvit;
use crate::model::architecture::{
    Activation, Architecture, BlockKind, ImagePooling, PatchEmbedding, Pooling, Projection,
    STEM_SIDES, TextConfig, TokenEmbedding, TowerConfig, Vision, VisionConfig,
};
use crate::model::weights::Expected;

/// Whether a tensor decides nothing: the numbers 0, 1, 2, ..., that exports of old transformers
/// carry, and how many batches a batch norm has seen in training.
pub(in crate::model) fn is_buffer(name: &str) -> bool {
    let positions = ["text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"];
    positions.contains(&name) || name.ends_with(".num_batches_tracked")
}

/// What the weights of this architecture hold, no more and no less.
pub(in crate::model) fn expected(architecture: &Architecture) -> Vec<Expected> {
    let (vision, text) = (&architecture.vision, &architecture.text);
    let (v, t, dim) = (vision.width(), text.tower.width, architecture.embedding_dim);
    let mut all = List(Vec::new());
    all.push("logit_scale", &[]);
    if architecture.logit_bias {
        all.push("logit_bias", &[]);
    }
    all.projection("visual_projection", (vision.projection(), [dim, v]));
    all.projection("text_projection", (text.projection, [dim, t]));
    all.push("text_model.embeddings.token_embedding.weight", &[text.vocab_size, t]);
    all.token_embedding(text);
    all.blocks("text_model", &text.tower);
    match vision {
        Vision::Transformer(config) => all.transformer(config),
        Vision::FastVit(config) => fastvit(config, &mut all),
    }
    all.0
}

/// The product over patches.
pub(super) const PATCHES: &str = "vision_model.embeddings.patch_embedding";
/// The products of a stem.
pub(super) const STEM: &str = "vision_model.embeddings.stem";

/// Tensors by name and shape.
pub(super) struct List(Vec<Expected>);

impl List {
    pub fn push(&mut self, name: &str, shape: &[i64]) {
        self.0.push(Expected { name: name.into(), shape: shape.into() });
    }

    /// A weight of this shape, and a bias as long as its first side.
    pub fn affine(&mut self, name: &str, weight: &[i64]) {
        self.push(&format!("{name}.weight"), weight);
        self.push(&format!("{name}.bias"), &weight[..1]);
    }

    /// With the statistics of training.
    pub fn batch_norm(&mut self, name: &str, width: i64) {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            self.push(&format!("{name}.{part}"), &[width]);
        }
    }

    /// A vision transformer, without its projection.
    fn transformer(&mut self, vision: &VisionConfig) {
        let (v, patch) = (vision.tower.width, vision.patch_size);
        match vision.patches {
            PatchEmbedding::Product => {
                self.push(&format!("{PATCHES}.weight"), &[v, 3, patch, patch]);
            }
            PatchEmbedding::ProductAndBias => self.affine(PATCHES, &[v, 3, patch, patch]),
            PatchEmbedding::AnyGrid => self.affine(PATCHES, &[v, 3 * patch * patch]),
            PatchEmbedding::Stem { hidden } => self.stem(hidden, v),
        }
        self.push("vision_model.embeddings.position_embedding.weight", &[vision.positions(), v]);
        if vision.pre_norm {
            // The misspelling is transformers'.
            self.affine("vision_model.pre_layrnorm", &[v]);
        }
        self.affine("vision_model.post_layernorm", &[v]);
        self.blocks("vision_model", &vision.tower);
        if vision.class_token {
            self.push("vision_model.embeddings.class_embedding", &[v]);
        }
        if let ImagePooling::Attention { heads, mlp_width } = vision.pooling {
            let head = TowerConfig { heads, mlp_width, ..vision.tower.clone() };
            self.push("vision_model.head.probe", &[v]);
            self.attention("vision_model.head", &head);
            self.perceptron("vision_model.head", &head);
        }
    }

    fn stem(&mut self, hidden: i64, width: i64) {
        let [first, second, third] = STEM_SIDES;
        for (index, [channels, side]) in [[3, first], [hidden, second]].into_iter().enumerate() {
            let layer = format!("{STEM}.{index}");
            self.push(&format!("{layer}.weight"), &[hidden, channels, side, side]);
            self.batch_norm(&format!("{layer}.norm"), hidden);
        }
        self.affine(&format!("{STEM}.2"), &[width, hidden, third, third]);
    }

    fn projection(&mut self, name: &str, (projection, shape): (Projection, [i64; 2])) {
        match projection {
            Projection::None => {}
            Projection::Product => self.push(&format!("{name}.weight"), &shape),
            Projection::ProductAndBias => self.affine(name, &shape),
            Projection::Perceptron { hidden } => {
                let [dim, width] = shape;
                self.push(&format!("{name}.fc1.weight"), &[hidden, width]);
                self.push(&format!("{name}.fc2.weight"), &[dim, hidden]);
            }
        }
    }

    /// What is added to tokens, and what else is outside of the text tower's blocks.
    fn token_embedding(&mut self, text: &TextConfig) {
        let (width, positions) = (text.tower.width, "text_model.embeddings.position_embedding");
        match text.embedding {
            TokenEmbedding::Positions => {
                self.push(&format!("{positions}.weight"), &[text.context_length, width]);
                self.affine("text_model.final_layer_norm", &[width]);
            }
            TokenEmbedding::Bert { positions: rows, segments, .. } => {
                self.push(&format!("{positions}.weight"), &[rows, width]);
                self.push("text_model.embeddings.segment_embedding.weight", &[segments, width]);
                self.affine("text_model.embeddings.layer_norm", &[width]);
            }
        }
        if text.pooling == Pooling::FirstThroughTanh {
            self.affine("text_model.pooler", &[width, width]);
        }
    }

    fn blocks(&mut self, prefix: &str, tower: &TowerConfig) {
        for layer in 0..tower.layers {
            let layer = format!("{prefix}.encoder.layers.{layer}");
            self.affine(&format!("{layer}.layer_norm1"), &[tower.width]);
            self.attention(&layer, tower);
            self.perceptron(&layer, tower);
        }
    }

    fn attention(&mut self, prefix: &str, tower: &TowerConfig) {
        let named = |part: &str| format!("{prefix}.self_attn.{part}");
        let square = [tower.width, tower.width];
        for part in ["q_proj", "v_proj", "out_proj"] {
            self.affine(&named(part), &square);
        }
        match tower.block {
            BlockKind::PreNorm | BlockKind::PostNorm => self.affine(&named("k_proj"), &square),
            BlockKind::InnerNorm => {
                self.push(&named("k_proj.weight"), &square);
                self.affine(&named("norm"), &[tower.width]);
            }
        }
    }

    fn perceptron(&mut self, prefix: &str, tower: &TowerConfig) {
        let (width, mlp) = (tower.width, tower.mlp_width);
        self.affine(&format!("{prefix}.layer_norm2"), &[width]);
        self.affine(&format!("{prefix}.mlp.fc1"), &[mlp, width]);
        self.affine(&format!("{prefix}.mlp.fc2"), &[width, mlp]);
        if tower.activation == Activation::SwiGlu {
            self.affine(&format!("{prefix}.mlp.gate"), &[mlp, width]);
        }
        if tower.block == BlockKind::InnerNorm {
            self.affine(&format!("{prefix}.mlp.norm"), &[mlp]);
        }
    }
}
