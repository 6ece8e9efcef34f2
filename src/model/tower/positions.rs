//! Where an image's tokens lie, as vectors that are added to them.
//!
//! A table for images of one size, or a square of vectors that is resized to the grid of each
//! image (`Siglip2VisionEmbeddings.resize_positional_embeddings` of transformers'
//! modeling_siglip2.py). What attention itself is told of places is in `rotation`.

use tch::{TchError, Tensor};

use super::loader::{Loader, torch};
use crate::batch::Grid;
use crate::error::Error;
use crate::model::architecture::{PatchEmbedding, VisionConfig};

/// In f32, on the device.
pub(super) enum Positions {
    /// `[1, tokens, width]`.
    Table(Tensor),
    /// `[1, width, grid, grid]`.
    Square(Tensor),
}

impl Positions {
    pub fn load(loader: &Loader, config: &VisionConfig) -> Result<Self, Error> {
        let name = "vision_model.embeddings.position_embedding.weight";
        let positions = loader.placed_f32(name)?;
        let positions = match config.patches {
            PatchEmbedding::AnyGrid => square(&positions, config).map(Self::Square),
            _ => of_all_tokens(positions, config).map(Self::Table),
        };
        positions.map_err(torch)
    }

    /// Adds them to tokens f32 `[tokens of all images, width]`; `grids` are those of the images,
    /// equal ones together, where each has its own.
    pub fn add(&self, x: &Tensor, grids: &[Grid]) -> Result<Tensor, TchError> {
        match self {
            Self::Table(table) => {
                let (_, tokens, width) = table.size3()?;
                x.f_view([-1, tokens, width])?.f_add(table)?.f_view([-1, width])
            }
            Self::Square(square) => {
                let runs = grids.chunk_by(|a, b| a == b);
                let of_runs = runs.map(|run| {
                    let (_, width, _, _) = square.size4()?;
                    let images = run.len() as i64;
                    let shape = [images, run[0].patches() as i64, width];
                    resized(square, run[0])?.f_expand(shape, false)?.f_reshape([-1, width])
                });
                x.f_add(&Tensor::f_cat(&of_runs.collect::<Result<Vec<_>, TchError>>()?, 0)?)
            }
        }
    }
}

/// `F.interpolate(square, grid, mode="bilinear", antialias=True)`, patch by patch:
/// `[1, width, n, n]` -> `[1, patches, width]`.
fn resized(square: &Tensor, grid: Grid) -> Result<Tensor, TchError> {
    let (size, scale) = ([grid.rows as i64, grid.columns as i64], None::<f64>);
    let resized = square.f_internal_upsample_bilinear2d_aa(size, false, scale, scale)?;
    resized.f_flatten(2, 3)?.f_transpose(1, 2)
}

/// `[grid * grid, width]` -> `[1, width, grid, grid]`.
fn square(positions: &Tensor, config: &VisionConfig) -> Result<Tensor, TchError> {
    let square = positions.f_view([1, config.grid(), config.grid(), config.tower.width])?;
    square.f_permute([0, 3, 1, 2])?.f_contiguous()
}

/// `[positions, width]` -> `[1, tokens, width]`: zeros for a token without a position.
fn of_all_tokens(positions: Tensor, config: &VisionConfig) -> Result<Tensor, TchError> {
    let (width, without) = (config.tower.width, config.tokens() - config.positions());
    let zeros = Tensor::f_zeros([without, width], (positions.kind(), positions.device()))?;
    Tensor::f_cat(&[zeros, positions], 0)?.f_view([1, config.tokens(), width])
}
