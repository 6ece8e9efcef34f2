//! Pillow's arithmetic from its modes to RGB on white: alpha, CMYK, palettes, packed samples.
//!
//! The formulas are those of Pillow's `libImaging/{AlphaComposite,Convert,Unpack}.c`.

/// One pixel over opaque white, as `Image.alpha_composite` rounds it.
pub fn on_white([r, g, b, a]: [u8; 4]) -> [u8; 3] {
    // AlphaComposite.c with an opaque destination: 7 extra bits, then a rounded division by 255.
    let over = u32::from(a) << 7;
    let under = (255 << 7) - over;
    [r, g, b].map(|value| {
        let sum = u32::from(value) * over + 255 * under + (0x80 << 7);
        ((((sum >> 8) + sum) >> 8) >> 7) as u8
    })
}

/// CMYK (255 is full ink) to RGB, as `cmyk2rgb`.
pub fn cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let paper = 255 - u32::from(k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * paper + 128;
        (paper - (((product >> 8) + product) >> 8)) as u8
    })
}

/// Premultiplied RGBA to RGBA, as `unpackRGBa`.
pub fn unpremultiply([r, g, b, a]: [u8; 4]) -> [u8; 4] {
    match a {
        0 => [0; 4],
        255 => [r, g, b, a],
        _ => {
            let [r, g, b] = [r, g, b].map(|v| (u32::from(v) * 255 / u32::from(a)).min(255) as u8);
            [r, g, b, a]
        }
    }
}

/// A 16-bit gray sample in 8 bits: Pillow's `I;16` to RGB saturates, it does not scale.
pub fn gray16(value: u16) -> u8 {
    value.min(255) as u8
}

/// Appends RGB pixels made from each `N` samples.
pub fn each<const N: usize>(samples: &[u8], to_rgb: impl Fn([u8; N]) -> [u8; 3]) -> Vec<u8> {
    let samples = samples.as_chunks::<N>().0;
    let mut data = Vec::with_capacity(samples.len() * 3);
    data.extend(samples.iter().flat_map(|sample| to_rgb(*sample)));
    data
}

/// Samples of `bits` (1, 2, 4 or 8) in rows that start at a whole byte, one sample a byte.
///
/// `rows` holds `height` rows of `ceil(width * bits / 8)` bytes, high bits first.
pub fn unpack(rows: &[u8], width: usize, bits: usize) -> Vec<u8> {
    if bits == 8 {
        return rows.to_vec();
    }
    let row_bytes = (width * bits).div_ceil(8);
    let mask = (1u8 << bits) - 1;
    let mut samples = Vec::with_capacity(rows.len() / row_bytes * width);
    for row in rows.chunks_exact(row_bytes) {
        samples.extend((0..width).map(|x| {
            let bit = x * bits;
            row[bit / 8] >> (8 - bits - bit % 8) & mask
        }));
    }
    samples
}

/// What a gray sample of that depth is in 8 bits: 0 is black and the highest is 255.
pub fn gray_step(bits: usize) -> u8 {
    (255u16 / ((1u16 << bits) - 1)) as u8
}

/// 256 colours with alpha. Those that a file does not set are opaque black.
pub struct Palette(pub [[u8; 4]; 256]);

impl Palette {
    /// From RGB triples.
    pub fn from_rgb(triples: &[u8]) -> Self {
        let mut colours = [[0, 0, 0, 255]; 256];
        for (colour, [r, g, b]) in colours.iter_mut().zip(triples.as_chunks::<3>().0) {
            *colour = [*r, *g, *b, 255];
        }
        Self(colours)
    }

    /// Gray levels equal to their index.
    pub fn gray() -> Self {
        Self(std::array::from_fn(|level| [level as u8, level as u8, level as u8, 255]))
    }

    /// The indices' colours on white, RGB.
    pub fn paint(&self, indices: &[u8]) -> Vec<u8> {
        let on_white = self.0.map(on_white);
        each::<1>(indices, |[index]| on_white[usize::from(index)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_is_unchanged_and_clear_is_white() {
        for value in 0..=255 {
            assert_eq!(on_white([value, value, value, 255]), [value; 3]);
            assert_eq!(on_white([value, value, value, 0]), [255; 3]);
        }
    }

    #[test]
    fn bits_come_high_first_and_rows_start_at_a_byte() {
        assert_eq!(unpack(&[0b1010_0000, 0b0100_0000], 3, 1), [1, 0, 1, 0, 1, 0]);
        assert_eq!(unpack(&[0x12, 0x30], 3, 4), [1, 2, 3]);
    }
}
