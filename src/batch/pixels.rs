//! Preprocessed images on their way to the towers: whole, or as the patches of a grid of their own.
//!
//! How an image comes to its shape is the affair of `images`, what becomes of it that of `model`.

use std::fmt;

/// Preprocessed images, packed.
#[derive(Debug, Clone, Default)]
pub struct Pixels {
    /// u8 RGB, one image of `shape` after the other.
    pub data: Vec<u8>,
    pub shape: ImageShape,
    /// Of each slot where images are patches, else none.
    pub grids: Vec<Grid>,
    /// The batch row of each slot, ascending.
    pub rows: Vec<u32>,
}

/// The shape in which a model takes an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageShape {
    /// `[height, width, 3]`, row-major.
    Whole { height: usize, width: usize },
    /// `[most, side * side * 3]`: the patches of a grid, one of its rows after the other, each
    /// `[side, side, 3]`; then zeros.
    Patches { side: usize, most: usize },
}

/// How many patches an image has above and beside one another: at least one each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub rows: usize,
    pub columns: usize,
}

/// How u8 pixels become what the image tower was trained on: `(x * rescale - mean) / std`,
/// per channel in the order red, green, blue. Applied on the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelScale {
    /// `rescale_factor` of preprocessor_config.json, usually 1/255.
    pub rescale: f32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl PixelScale {
    /// Pixels as they are, for a run without images.
    pub const NONE: Self = Self { rescale: 1.0, mean: [0.0; 3], std: [1.0; 3] };
}

impl Pixels {
    /// The grid of a slot, where images are patches.
    pub fn grid(&self, slot: usize) -> Option<Grid> {
        self.grids.get(slot).copied()
    }

    /// The bytes of a slot without the zeros that fill it up.
    pub fn image(&self, slot: usize) -> &[u8] {
        let n_bytes = self.shape.n_bytes();
        let own = match self.shape {
            ImageShape::Whole { .. } => n_bytes,
            ImageShape::Patches { side, .. } => self.grids[slot].patches() * side * side * 3,
        };
        &self.data[slot * n_bytes..][..own]
    }
}

impl ImageShape {
    /// Of a whole image with that height and width.
    pub const fn square(side: usize) -> Self {
        Self::Whole { height: side, width: side }
    }

    /// The bytes of one image.
    pub const fn n_bytes(self) -> usize {
        match self {
            Self::Whole { height, width } => height * width * 3,
            Self::Patches { side, most } => most * side * side * 3,
        }
    }
}

impl Default for ImageShape {
    fn default() -> Self {
        Self::square(0)
    }
}

impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { height, width } => write!(f, "{width}x{height}"),
            Self::Patches { side, .. } => write!(f, "patches of {side}x{side}"),
        }
    }
}

impl Grid {
    /// How many patches there are.
    pub const fn patches(self) -> usize {
        self.rows * self.columns
    }
}
