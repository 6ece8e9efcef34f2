//! Images that keep their shape: the grid of patches that one is resized to, and those patches.
//!
//! Formulas: `get_image_size_for_max_num_patches` and `convert_image_to_patches` of transformers
//! 5.23's image_processing_pil_siglip2.py, in its f64. The resizing itself is in `resize`.

use crate::batch::Grid;
use crate::images::resize::Size;

/// Scales closer than this are the same.
const EPS: f64 = 1e-5;
/// No image is made larger than so many times its size.
const MOST_SCALE: f64 = 100.0;

/// The grid of an image of that size: sides are scaled alike and rounded up to whole patches of
/// `side` pixels, by the largest scale, found by halving, that gives at most `most` patches.
pub fn grid(size: Size, side: usize, most: usize) -> Grid {
    let along = |length: usize, scale: f64| {
        let patches = (length as f64 * scale / side as f64).ceil() as usize;
        patches.max(1)
    };
    let scaled =
        |scale| Grid { rows: along(size.height, scale), columns: along(size.width, scale) };
    let (mut fits, mut too_large) = (EPS / 10.0, MOST_SCALE);
    while too_large - fits >= EPS {
        let scale = (fits + too_large) / 2.0;
        match scaled(scale).patches() <= most {
            true => fits = scale,
            false => too_large = scale,
        }
    }
    scaled(fits)
}

/// Row-major u8 RGB pixels -> their patches of `side` pixels, one row of patches after the other,
/// each patch row-major. Both are as long as `grid` says.
pub fn cut(image: &[u8], (grid, side): (Grid, usize), patches: &mut [u8]) {
    let line = side * 3;
    let (stride, patch) = (grid.columns * line, side * line);
    let rows = image.chunks_exact(side * stride);
    for (pixels, row) in rows.zip(patches.chunks_exact_mut(grid.columns * patch)) {
        for (column, patch) in row.chunks_exact_mut(patch).enumerate() {
            for (y, own) in patch.chunks_exact_mut(line).enumerate() {
                own.copy_from_slice(&pixels[y * stride + column * line..][..line]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The grids themselves are compared with transformers' in tests/siglip.rs.
    #[test]
    fn no_image_has_more_patches_than_it_may_or_less_than_one() {
        for most in [1, 2, 7, 256, 1024] {
            for (width, height) in [(1, 1), (1, 60_000), (60_000, 1), (640, 480), (65_500, 65_500)]
            {
                let grid = grid(Size { width, height }, 16, most);
                assert!((1..=most).contains(&grid.patches()), "{width}x{height}: {grid:?}");
            }
        }
    }

    #[test]
    fn patches_are_cut_row_by_row() {
        // 2 x 3 patches of 2 x 2 pixels; a pixel is its own place.
        let image: Vec<u8> = (0..24).flat_map(|pixel| [pixel; 3]).collect();
        let mut patches = vec![0; image.len()];
        cut(&image, (Grid { rows: 2, columns: 3 }, 2), &mut patches);
        let pixels: Vec<u8> = patches.iter().step_by(3).copied().collect();
        assert_eq!(pixels[..8], [0, 1, 6, 7, 2, 3, 8, 9]);
        assert_eq!(pixels[16..], [14, 15, 20, 21, 16, 17, 22, 23]);
    }
}
