//! What a FastViT is made of: the convolutional image towers of MobileCLIP (`FastVit` of timm).
//!
//! Sizes alone: which tensors hold them is known in `tower`, what weights call those in `family`.

use super::Projection;

/// A convolutional image tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastVitConfig {
    /// Side of the square input, in pixels.
    pub image_size: i64,
    pub stem: Stem,
    pub stages: Vec<Stage>,
    pub last: Last,
    pub projection: Projection,
}

/// Three convolutions, of which the first two halve the sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stem {
    pub width: i64,
    /// Whether they were trained with a branch that sees one place alone.
    pub scale_branch: bool,
}

/// Blocks that see maps of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Channels of a map.
    pub width: i64,
    /// Width between the two products of a block's perceptron.
    pub mlp_width: i64,
    pub blocks: i64,
    pub mixer: Mixer,
    /// What comes before the blocks, where sides are halved.
    pub downsample: Option<Downsample>,
    /// Whether places are told from their neighbours before the blocks (`RepConditionalPosEnc`).
    pub position: bool,
}

/// How a block's places see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixer {
    /// By a convolution of every channel (`RepMixer`).
    Convolution,
    /// By attention between all places, after a layer norm or else a batch norm.
    Attention { heads: i64, layer_norm: bool },
}

/// Two convolutions, of which the first halves the sides (`PatchEmbed` of timm's fastvit.py).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downsample {
    /// Between the two products of squeeze and excitation, where there is one.
    pub squeezed: Option<i64>,
}

/// The convolution after all stages, with squeeze and excitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    /// Channels, whose means over all places are projected.
    pub width: i64,
    pub squeezed: i64,
}

impl FastVitConfig {
    /// Places along a side that the last stage sees.
    pub fn grid(&self) -> i64 {
        let halvings = 2 + self.stages.iter().filter(|stage| stage.downsample.is_some()).count();
        (0..halvings).fold(self.image_size, |side, _| halved(side))
    }

    /// The most numbers that one image is at once: after the first convolution.
    pub fn widest(&self) -> i64 {
        self.stem.width * halved(self.image_size) * halved(self.image_size)
    }
}

/// A side after a convolution that takes every other place.
pub fn halved(side: i64) -> i64 {
    (side + 1) / 2
}
