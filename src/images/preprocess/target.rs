//! What size an image is given, and which part of that is kept: in whole pixels, as Python counts.
//!
//! Nothing is resized here (see `resize`). The grids of images in patches are in `patches`.

use super::patches;
use crate::batch::Grid;
use crate::images::resize::Size;

/// The size before the crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// As the image is.
    Keep,
    /// The shorter side becomes this, the longer one follows.
    ShortestSide(usize),
    /// Both sides, whatever the shape.
    Squash(Size),
    /// The longer side becomes this, the shorter one follows.
    LongestSide(usize),
    /// Whole patches of that side, at most so many, in a grid of the image's own shape.
    Patches { side: usize, most: usize },
}

/// Where along an axis a centre crop or its padding begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crop {
    /// transformers: the offset of a crop is floored, padding before the image rounded up.
    Floored,
    /// torchvision: the offset is rounded to the nearest, halves to even; padding is floored.
    Rounded,
}

impl Target {
    /// Of an image of that width and height.
    pub fn size(self, width: usize, height: usize) -> Size {
        match self {
            Target::Keep => Size { width, height },
            Target::Squash(size) => size,
            Target::Patches { side, most } => {
                let Grid { rows, columns } = patches::grid(Size { width, height }, side, most);
                Size { width: columns * side, height: rows * side }
            }
            Target::LongestSide(side) => {
                // `ResizeKeepRatio`: sides over the larger ratio, rounded as Python does.
                let ratio = (height as f64 / side as f64).max(width as f64 / side as f64);
                let of = |size: usize| ((size as f64 / ratio).round_ties_even() as usize).max(1);
                Size { width: of(width), height: of(height) }
            }
            Target::ShortestSide(side) => {
                let (short, long) = (width.min(height), width.max(height));
                // Python divides and then drops the fraction; the product is exact in f64.
                let long = ((side * long) as f64 / short as f64) as usize;
                match width <= height {
                    true => Size { width: side, height: long },
                    false => Size { width: long, height: side },
                }
            }
        }
    }
}

impl Crop {
    /// Along one axis, the part of `size` that a centre crop keeps and where it lands in the crop.
    pub fn along(self, size: usize, wanted: usize) -> (std::ops::Range<usize>, usize) {
        match (size.checked_sub(wanted), self) {
            (Some(surplus), Crop::Floored) => (surplus / 2..surplus / 2 + wanted, 0),
            (Some(surplus), Crop::Rounded) => {
                let offset = (surplus as f64 / 2.0).round_ties_even() as usize;
                (offset..offset + wanted, 0)
            }
            (None, Crop::Floored) => (0..size, (wanted - size).div_ceil(2)),
            (None, Crop::Rounded) => (0..size, (wanted - size) / 2),
        }
    }
}
