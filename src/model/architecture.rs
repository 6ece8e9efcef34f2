//! What a dual encoder is made of: both towers' shapes and what tells one family from another.
//!
//! Families fill this in from their configuration (see `family`), the towers are built from it
//! (see `tower`). Names of files, of keys and of tensors are not known here.

pub mod fastvit;

use self::fastvit::FastVitConfig;
use crate::batch::ImageShape;

/// Both towers and the space that they share.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    pub vision: Vision,
    pub text: TextConfig,
    /// Length of an embedding.
    pub embedding_dim: i64,
    /// Whether the weights hold what is added to scaled cosines before a sigmoid.
    pub logit_bias: bool,
}

/// The image tower, of one kind or the other.
#[derive(Debug, Clone, PartialEq)]
pub enum Vision {
    Transformer(VisionConfig),
    FastVit(FastVitConfig),
}

impl Vision {
    /// Whether the tower takes images of that shape.
    pub fn takes(&self, shape: ImageShape) -> bool {
        match self {
            Vision::Transformer(config) => config.takes(shape),
            Vision::FastVit(config) => shape == ImageShape::square(config.image_size as usize),
        }
    }

    /// What the tower takes, in words.
    pub fn input(&self) -> String {
        match self {
            Vision::Transformer(config) => config.input(),
            Vision::FastVit(config) => format!("{0}x{0}", config.image_size),
        }
    }

    /// Tokens of an image: without a transformer, places that the last layers tell apart.
    pub fn tokens(&self) -> i64 {
        match self {
            Vision::Transformer(config) => config.tokens(),
            Vision::FastVit(config) => config.grid() * config.grid(),
        }
    }

    /// Length of the vector that is projected.
    pub fn width(&self) -> i64 {
        match self {
            Vision::Transformer(config) => config.tower.width,
            Vision::FastVit(config) => config.last.width,
        }
    }

    /// What takes that vector into the shared space.
    pub fn projection(&self) -> Projection {
        match self {
            Vision::Transformer(config) => config.projection,
            Vision::FastVit(config) => config.projection,
        }
    }
}

/// A vision transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    pub tower: TowerConfig,
    /// Side of the square input, in pixels; of the square of positions, where images have a grid
    /// of their own.
    pub image_size: i64,
    /// Side of a patch, in pixels.
    pub patch_size: i64,
    pub patches: PatchEmbedding,
    /// Whether tokens are normalised before the first block.
    pub pre_norm: bool,
    /// Whether a token of its own comes before those of the patches.
    pub class_token: bool,
    /// Whether that token has a position too.
    pub class_position: bool,
    /// Whether attention also knows where patches lie.
    pub rotary: Option<Rotary>,
    pub pooling: ImagePooling,
    pub projection: Projection,
}

/// How a patch's pixels become a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchEmbedding {
    Product,
    ProductAndBias,
    /// The same of images that have a grid of their own, to which the square of positions is
    /// resized (`Siglip2VisionEmbeddings` of transformers): NaFlex.
    AnyGrid,
    /// Three products over squares of `STEM_SIDES`, of which the first two give so many numbers,
    /// are batch-normalised and followed by the exact GELU (`ConvStem` of timm): MobileCLIP-B's.
    Stem {
        hidden: i64,
    },
}

/// The sides of a stem's squares: in pixels, then in what the product before gave.
pub const STEM_SIDES: [i64; 3] = [4, 2, 2];

/// How an image's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePooling {
    /// By the class token.
    ClassToken,
    /// By a learned query that attends to all tokens, and a perceptron
    /// (`SiglipMultiheadAttentionPoolingHead`).
    Attention { heads: i64, mlp_width: i64 },
}

/// Rotary position embeddings of patches: queries and keys are turned by angles that grow with a
/// patch's row and column (`RotaryEmbeddingCat` of timm).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Patches along a side where the weights were trained: places on another grid are scaled to
    /// this one.
    pub trained_grid: i64,
    /// What the first row and column count as, before they are scaled.
    pub first: f32,
    /// Whether a head's first angles are those of the column, and not of the row.
    pub column_first: bool,
}

impl VisionConfig {
    /// Whether the tower takes images of that shape.
    pub fn takes(&self, shape: ImageShape) -> bool {
        match (self.patches, shape) {
            (PatchEmbedding::AnyGrid, ImageShape::Patches { side, .. }) => {
                side as i64 == self.patch_size
            }
            (PatchEmbedding::AnyGrid, _) | (_, ImageShape::Patches { .. }) => false,
            (_, whole) => whole == ImageShape::square(self.image_size as usize),
        }
    }

    /// What the tower takes, in words.
    pub fn input(&self) -> String {
        let (image, patch) = (self.image_size, self.patch_size);
        match self.patches {
            PatchEmbedding::AnyGrid => format!("patches of {patch}x{patch}"),
            _ => format!("{image}x{image}"),
        }
    }

    /// Whole patches along a side; pixels beyond the last whole patch are not seen.
    pub fn grid(&self) -> i64 {
        self.image_size / self.patch_size
    }

    /// Tokens that have a learned position.
    pub fn positions(&self) -> i64 {
        self.grid() * self.grid() + i64::from(self.class_token && self.class_position)
    }

    /// Tokens of an image: one for each patch, and the class token where there is one.
    pub fn tokens(&self) -> i64 {
        self.grid() * self.grid() + i64::from(self.class_token)
    }
}

/// The text tower.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    pub tower: TowerConfig,
    pub vocab_size: i64,
    /// The most tokens in a caption, control tokens included.
    pub context_length: i64,
    pub embedding: TokenEmbedding,
    pub pooling: Pooling,
    pub sight: Sight,
    pub projection: Projection,
}

impl TextConfig {
    /// Whether what fills a caption up decides its embedding too.
    pub fn sees_padding(&self) -> bool {
        let told = matches!(self.embedding, TokenEmbedding::Bert { .. });
        self.pooling == Pooling::Last || (self.sight == Sight::Full && !told)
    }
}

/// What a token's own vector is added to, before the first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEmbedding {
    /// A row of a table of positions, as long as the context.
    Positions,
    /// The same of a table of so many rows, of which the first token has this one; and the first
    /// of so many segments. The sum is normalised. BERT's; RoBERTa's first position is 2.
    Bert { positions: i64, first: i64, segments: i64 },
}

/// What takes the one vector that a tower makes into the shared space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    /// It is there already.
    None,
    Product,
    ProductAndBias,
    /// Two products without biases and the exact GELU between: open_clip's `hf_proj_type: mlp`.
    Perceptron {
        hidden: i64,
    },
}

/// Whether a token sees only itself and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    Causal,
    Full,
}

/// What the two towers have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct TowerConfig {
    /// Length of a token's vector.
    pub width: i64,
    /// Width between the two products of a block's perceptron.
    pub mlp_width: i64,
    pub layers: i64,
    pub heads: i64,
    pub activation: Activation,
    pub layer_norm_eps: f64,
    pub block: BlockKind,
}

/// What a block has, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Layer norms before attention and before the perceptron: CLIP's.
    PreNorm,
    /// The same, with two more layer norms: of what the heads saw and of what is between the
    /// perceptron's products. Keys have no bias. EVA-02's.
    InnerNorm,
    /// Layer norms of the sums after attention and after the perceptron, and none after the last
    /// block: BERT's.
    PostNorm,
}

/// The function between the two products of a block. A property of the weights: the wrong one
/// lowers the scores and raises no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's weights and some others.
    QuickGelu,
    /// `x * (1 + erf(x / sqrt 2)) / 2`: most OpenCLIP weights.
    Gelu,
    /// `x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`: SigLIP.
    GeluTanh,
    /// `g * sigmoid(g) * x`, where a second product makes the gate `g`: EVA-02's.
    SwiGlu,
}

impl Activation {
    /// As transformers' `hidden_act` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Activation::QuickGelu => "quick_gelu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
            Activation::SwiGlu => "swiglu",
        }
    }
}

/// Where the text tower's output is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first position of the highest id: open_clip's `argmax`, and configurations written
    /// before transformers 4.31, which say `eos_token_id: 2`.
    HighestId,
    /// The first position of this id.
    FirstOf(i64),
    /// The last position of a caption that is padded up to the context: SigLIP.
    Last,
    /// The first position: BERT.
    First,
    /// The same through a product and a tanh: `BertPooler`.
    FirstThroughTanh,
    /// The mean of all positions.
    Mean,
}
