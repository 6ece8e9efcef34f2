//! Every tensor that the towers are made of, by name and shape.
//!
//! The names are those of the modules in transformers' modeling_clip.py, for all families; what a
//! family's weights call them is known in `family`. A pooling head's attention, layer norm and
//! perceptron are called as a block's are.

use crate::model::architecture::{
    Activation, Architecture, BlockKind, ImagePooling, PatchEmbedding, Pooling, Projection,
    STEM_SIDES, TextConfig, TokenEmbedding, TowerConfig,
};
use crate::model::weights::Expected;

/// Buffers that decide nothing: the numbers 0, 1, 2, ..., that exports of old transformers carry,
/// and how many batches a batch norm has seen in training.
pub(in crate::model) const BUFFERS: [&str; 4] = [
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
    "visual.trunk.patch_embed.backbone.0.bn.num_batches_tracked",
    "visual.trunk.patch_embed.backbone.1.bn.num_batches_tracked",
];

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
    all.projection("visual_projection", (vision.projection, [dim, v]));
    all.projection("text_projection", (text.projection, [dim, t]));
    match vision.patches {
        PatchEmbedding::Product => all.push(&format!("{PATCHES}.weight"), &[v, 3, patch, patch]),
        PatchEmbedding::ProductAndBias => all.affine(PATCHES, &[v, 3, patch, patch]),
        PatchEmbedding::AnyGrid => all.affine(PATCHES, &[v, 3 * patch * patch]),
        PatchEmbedding::Stem { hidden } => all.stem(hidden, v),
    }
    all.push("vision_model.embeddings.position_embedding.weight", &[vision.positions(), v]);
    all.push("text_model.embeddings.token_embedding.weight", &[text.vocab_size, t]);
    all.token_embedding(text);
    if vision.pre_norm {
        // The misspelling is transformers'.
        all.affine("vision_model.pre_layrnorm", &[v]);
    }
    all.affine("vision_model.post_layernorm", &[v]);
    all.blocks("vision_model", &vision.tower);
    all.blocks("text_model", &text.tower);
    if vision.class_token {
        all.push("vision_model.embeddings.class_embedding", &[v]);
    }
    if let ImagePooling::Attention { heads, mlp_width } = vision.pooling {
        let head = TowerConfig { heads, mlp_width, ..vision.tower.clone() };
        all.push("vision_model.head.probe", &[v]);
        all.attention("vision_model.head", &head);
        all.perceptron("vision_model.head", &head);
    }
    all.0
}

/// The product over patches.
pub(super) const PATCHES: &str = "vision_model.embeddings.patch_embedding";
/// The products of a stem.
pub(super) const STEM: &str = "vision_model.embeddings.stem";

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

    fn stem(&mut self, hidden: i64, width: i64) {
        let [first, second, third] = STEM_SIDES;
        for (index, [channels, side]) in [[3, first], [hidden, second]].into_iter().enumerate() {
            let layer = format!("{STEM}.{index}");
            self.push(&format!("{layer}.weight"), &[hidden, channels, side, side]);
            for part in ["weight", "bias", "running_mean", "running_var"] {
                self.push(&format!("{layer}.norm.{part}"), &[hidden]);
            }
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
