//! One pixel at a time.

use super::*;

pub fn write(row: &Row<'_>, out: &mut [u8]) {
    for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
        let y = row.luma[x];
        let rgb = match row.sampling {
            Sampling::Gray => [y; 3],
            _ => {
                let [cb, cr] = row.chroma.map(|chroma| sample(row, chroma, x));
                rgb(y, cb - 128, cr - 128)
            }
        };
        pixel.copy_from_slice(&rgb);
    }
}

/// The chroma of a pixel.
fn sample(row: &Row<'_>, chroma: Chroma<'_>, x: usize) -> i32 {
    let near = |at: usize| i32::from(chroma.near[at]);
    let sum = |at: usize| near(at) * 3 + i32::from(chroma.far[at]);
    // The sample that the pixel is in, the other one that it is next to, and which it is of two.
    let (this, odd) = (1 + x / 2, x % 2);
    let next = if odd == 0 { this - 1 } else { this + 1 };
    match row.sampling {
        Sampling::Gray | Sampling::Full => near(1 + x),
        Sampling::Across => (near(this) * 3 + near(next) + 1 + odd as i32) >> 2,
        Sampling::Down => (sum(1 + x) + i32::from(row.bias())) >> 2,
        Sampling::Both => (sum(this) * 3 + sum(next) + 8 - odd as i32) >> 4,
    }
}

fn rgb(y: u8, cb: i32, cr: i32) -> [u8; 3] {
    let half = 1 << 15;
    let red = cr + ((i32::from(CR_RED) * cr + half) >> 16);
    let green = ((i32::from(CB_GREEN) * cb + i32::from(CR_GREEN) * cr + half) >> 16) - cr;
    let blue = 2 * cb + ((i32::from(CB_BLUE) * cb + half) >> 16);
    [red, green, blue].map(|difference| (i32::from(y) + difference).clamp(0, 255) as u8)
}
