//! Rotary position embeddings: turns pairs of a head's numbers by angles that say where a patch is.
//!
//! Formulas: `RotaryEmbeddingCat` and `apply_rot_embed` of timm's pos_embed_sincos.py, whose
//! arithmetic in f32 is followed so that angles are the same. Tokens before the patches have no
//! place and stay as they are. What the turned queries and keys are for is `attend`'s affair.

use tch::{TchError, Tensor};

use crate::model::architecture::{Rotary, VisionConfig};
use crate::model::device::Placement;

/// timm's `rope_temperature`.
const TEMPERATURE: f32 = 10_000.0;

/// Cosine and sine of each token's angles, f32 `[tokens, 1, pairs of a head]`.
pub(super) struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// Of the tokens of an image.
    pub fn new(
        config: &VisionConfig,
        rotary: Rotary,
        placement: Placement,
    ) -> Result<Self, TchError> {
        let (grid, pairs) = (config.grid(), config.tower.width / config.tower.heads / 2);
        let bands = bands((pairs / 2) as usize);
        // Both axes have half of the pairs each.
        let of_axis = |index: i64| {
            let place = (index as f32 + rotary.first) / grid as f32 * rotary.trained_grid as f32;
            bands.iter().map(move |band| place * band)
        };
        let before = (config.tokens() - grid * grid) * pairs;
        let mut angles = vec![0.0_f32; before as usize];
        for (row, column) in (0..grid).flat_map(|row| (0..grid).map(move |column| (row, column))) {
            let [first, second] = if rotary.column_first { [column, row] } else { [row, column] };
            angles.extend(of_axis(first).chain(of_axis(second)));
        }
        let angles = Tensor::f_from_slice(&angles)?.f_view([config.tokens(), 1, pairs])?;
        let angles = angles.f_to_device(placement.device)?;
        Ok(Self { cos: angles.f_cos()?, sin: angles.f_sin()? })
    }

    /// The same tensors once more.
    pub fn shallow_clone(&self) -> Self {
        Self { cos: self.cos.shallow_clone(), sin: self.sin.shallow_clone() }
    }

    /// Turns queries or keys of whole images in place: `[images * tokens, heads * size]`, in which
    /// neighbours are a pair.
    pub fn turn(&self, x: &Tensor) -> Result<(), TchError> {
        let (tokens, _, pairs) = self.cos.size3()?;
        let heads = x.size()[1] / (2 * pairs);
        let mut of_pair = x.f_view([-1, tokens, heads, pairs, 2])?.f_unbind(-1)?;
        let (a, b) = (&of_pair[0], &of_pair[1]);
        let turned_a = a.f_mul(&self.cos)?.f_sub(&b.f_mul(&self.sin)?)?;
        let turned_b = b.f_mul(&self.cos)?.f_add(&a.f_mul(&self.sin)?)?;
        of_pair[0].f_copy_(&turned_a)?;
        of_pair[1].f_copy_(&turned_b)
    }
}

/// `1 / temperature^(i / n)`.
fn bands(n: usize) -> Vec<f32> {
    (0..n).map(|band| 1.0 / TEMPERATURE.powf(band as f32 / n as f32)).collect()
}
