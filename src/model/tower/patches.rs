//! Patches of u8 pixels as vectors, before they are given a place among tokens.
//!
//! Scaling and normalising are folded into the product over patches; a stem of several products
//! over ever larger patches, none of which overlap, has its batch norms folded in too. Formulas:
//! `CLIPVisionEmbeddings` of transformers' modeling_clip.py, `Siglip2VisionEmbeddings` of its
//! modeling_siglip2.py, `ConvStem` of timm's vision_transformer_hybrid.py.

use tch::{Kind, TchError, Tensor};

use super::batch_norm::BatchNorm;
use super::layers::Linear;
use super::loader::{Loader, torch};
use super::tensors::{PATCHES, STEM};
use crate::batch::PixelScale;
use crate::error::Error;
use crate::model::architecture::{PatchEmbedding, STEM_SIDES, VisionConfig};
use crate::model::device::Placement;

/// Subtracted from pixels before the product. -128..127 is exact in bf16, as 0..255 is, and
/// rounding of the weights weighs half as much.
const CENTRE: f64 = 128.0;

pub(super) struct Patches {
    /// Each with the side of the square that it takes, in pixels or in what the one before gave.
    products: Vec<(i64, Linear)>,
    /// Pixels along a side that are seen.
    seen: i64,
    placement: Placement,
}

impl Patches {
    pub fn load(loader: &Loader, config: &VisionConfig, scale: PixelScale) -> Result<Self, Error> {
        let product = |name: &str, side: i64, parts: Result<[Tensor; 2], TchError>| {
            Ok::<_, Error>((side, Linear::new(loader, name, parts.map_err(torch)?)?))
        };
        let products = match config.patches {
            PatchEmbedding::Product | PatchEmbedding::ProductAndBias => {
                let folded = with_pixels(&weight_and_bias(loader, PATCHES)?, scale);
                vec![product(PATCHES, config.patch_size, folded)?]
            }
            PatchEmbedding::AnyGrid => {
                let [weight, bias] = weight_and_bias(loader, PATCHES)?;
                let side = config.patch_size;
                let weight = as_convolution(&weight, side).map_err(torch)?;
                vec![product(PATCHES, side, with_pixels(&[weight, bias], scale))?]
            }
            PatchEmbedding::Stem { .. } => {
                let [first, second, third] = [0, 1, 2].map(|index| format!("{STEM}.{index}"));
                let [first_side, second_side, third_side] = STEM_SIDES;
                let pixels = with_pixels(&normed(loader, &first)?, scale);
                let hidden = as_rows(&normed(loader, &second)?);
                let last = as_rows(&weight_and_bias(loader, &third)?);
                vec![
                    product(&first, first_side, pixels)?,
                    product(&second, second_side, hidden)?,
                    product(&third, third_side, last)?,
                ]
            }
        };
        let (seen, placement) = (config.grid() * config.patch_size, loader.placement);
        Ok(Self { products, seen, placement })
    }

    /// u8 `[n, side, side, 3]` on the device -> f32 `[n * grid * grid, width]`, with the exact GELU
    /// between products.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor, TchError> {
        let pixels = pixels.f_narrow(1, 0, self.seen)?.f_narrow(2, 0, self.seen)?;
        let (n, mut grid) = (pixels.size()[0], self.seen);
        let mut x = pixels;
        for (index, (side, product)) in self.products.iter().enumerate() {
            grid /= side;
            let rows = cut(&x, (n, grid, *side))?;
            let rows = match index {
                0 => self.centred(&rows)?,
                _ => rows.f_gelu("none")?,
            };
            x = product.forward(&rows)?;
        }
        x.f_to_kind(Kind::Float)
    }

    /// The same of patches that were cut before, for a single product:
    /// u8 `[patches, side * side * 3]` on the device -> f32 `[patches, width]`.
    pub fn forward_cut(&self, patches: &Tensor) -> Result<Tensor, TchError> {
        let (_, product) = &self.products[0];
        product.forward(&self.centred(patches)?)?.f_to_kind(Kind::Float)
    }

    fn centred(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        rows.f_to_kind(self.placement.kind)?.f_sub_scalar_(CENTRE)
    }
}

/// Squares of `side` values along each side as rows, channels last:
/// `n * (grid side)^2` values of `c` -> `[n * grid^2, side^2 c]`.
fn cut(x: &Tensor, (n, grid, side): (i64, i64, i64)) -> Result<Tensor, TchError> {
    let channels = *x.size().last().unwrap_or(&1);
    let x = x.f_reshape([n, grid, side, grid, side, channels])?;
    x.f_permute([0, 1, 3, 2, 4, 5])?.f_reshape([n * grid * grid, side * side * channels])
}

/// f64 `[out, in, side, side]`, or as it is in the file, and `[out]`.
fn weight_and_bias(loader: &Loader, name: &str) -> Result<[Tensor; 2], Error> {
    let weight = loader.tensor_f64(&format!("{name}.weight"))?;
    let bias = loader.tensor_or_zeros(&format!("{name}.bias"), weight.size()[0])?;
    Ok([weight, bias.f_to_kind(Kind::Double).map_err(torch)?])
}

/// The same followed by a batch norm.
fn normed(loader: &Loader, name: &str) -> Result<[Tensor; 2], Error> {
    let norm = BatchNorm::load(loader, &format!("{name}.norm"))?;
    norm.after(&weight_and_bias(loader, name)?).map_err(torch)
}

/// A product over patches as a convolution: `[out, side side 3]` -> `[out, 3, side, side]`.
fn as_convolution(weight: &Tensor, side: i64) -> Result<Tensor, TchError> {
    weight.f_view([-1, side, side, 3])?.f_permute([0, 3, 1, 2])
}

/// A convolution as a product over rows that `cut` makes, f32.
fn as_rows([weight, bias]: &[Tensor; 2]) -> Result<[Tensor; 2], TchError> {
    let weight = weight.f_permute([0, 2, 3, 1])?.f_flatten(1, -1)?;
    Ok([weight.f_to_kind(Kind::Float)?, bias.f_to_kind(Kind::Float)?])
}

/// The convolution over normalised pixels as a product over centred u8 pixels: with
/// `s = rescale / std` and `m = mean / std` per channel, `w` becomes `w s` and the bias
/// `sum(w (128 s - m))`, to which its own bias is added. Folded in f64.
fn with_pixels([weight, own]: &[Tensor; 2], scale: PixelScale) -> Result<[Tensor; 2], TchError> {
    let per_channel = |of: fn(f64, f64, f64) -> f64| -> Result<Tensor, TchError> {
        let of = |c: usize| of(scale.rescale.into(), scale.mean[c].into(), scale.std[c].into());
        Tensor::f_from_slice(&[0, 1, 2].map(of))?.f_view([1, 3, 1, 1])
    };
    let factor = per_channel(|rescale, _, std| rescale / std)?;
    let offset = per_channel(|rescale, mean, std| (CENTRE * rescale - mean) / std)?;
    let bias = weight.f_mul(&offset)?;
    let bias = bias.f_sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Double)?.f_add(own)?;
    as_rows(&[weight.f_mul(&factor)?, bias])
}
