//! TIFF: the first page, of the kinds that people have.
//!
//! Gray, palette, RGB, RGBA and CMYK, 1 to 16 bits, in strips or tiles, raw, LZW, deflate,
//! PackBits or JPEG, as Pillow reads them (`TiffImagePlugin.OPEN_INFO`). Fax, floats, Lab and
//! whatever else could not be shown to be identical is refused, not approximated.

use super::convert::{self, Palette};
use super::tiff_data::Ifd;
use super::{Gate, exif, truncated, undecodable};
use crate::batch::ImageFormat;
use crate::error::RowError;
use crate::images::resize::Rgb;

/// The tags that decide the pixels: none of them may be cut off.
const TAGS: [u16; 19] =
    [256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 324, 325, 338, 339, 347];

const WHITE_IS_ZERO: u32 = 0;
pub const BLACK_IS_ZERO: u32 = 1;
pub const RGB: u32 = 2;
const PALETTE: u32 = 3;
const CMYK: u32 = 5;
pub const YCBCR: u32 = 6;
const JPEG: u32 = 7;

/// The image and its orientation, which for a TIFF Pillow applies whenever it loads one.
pub fn decode(bytes: &[u8], gate: &mut Gate<'_>) -> Result<(Rgb, u32), RowError> {
    let ifd = Ifd::first(bytes).ok_or_else(truncated)?;
    if !ifd.holds(&TAGS) {
        return Err(truncated());
    }
    let page = Page::read(&ifd, gate)?;
    let data = match page.compression {
        JPEG => page.jpeg()?,
        _ => page.to_rgb(&page.samples()?)?,
    };
    let orientation = exif::orientation(Some(bytes), ifd.blob(700));
    Ok((Rgb { width: page.width, height: page.height, data }, orientation))
}

pub struct Page<'a> {
    pub ifd: &'a Ifd<'a>,
    pub width: usize,
    pub height: usize,
    pub bits: usize,
    /// Samples a pixel.
    pub samples: usize,
    pub photometric: u32,
    pub compression: u32,
    /// What the samples past the colour's own are: 0 unknown, 1 premultiplied alpha, 2 alpha.
    extra: Vec<u32>,
    /// Each sample has strips or tiles of its own.
    pub planar: bool,
    /// The size of a strip or tile.
    pub chunk: (usize, usize),
    pub tiled: bool,
}

impl<'a> Page<'a> {
    fn read(ifd: &'a Ifd<'a>, gate: &mut Gate<'_>) -> Result<Self, RowError> {
        let number = |tag, default| ifd.number(tag).unwrap_or(default);
        let width = ifd.number(256).ok_or_else(|| undecodable("a TIFF without a width"))?;
        let height = ifd.number(257).ok_or_else(|| undecodable("a TIFF without a height"))?;
        gate.admit(width, height, ImageFormat::Tiff)?;
        let bits = ifd.numbers(258).unwrap_or_else(|| vec![1]);
        let bits = match bits[..] {
            [first, ..] if bits.iter().all(|other| *other == first) => first as usize,
            _ => return Err(undecodable("TIFF samples of different depths")),
        };
        let tiled = ifd.number(322).is_some();
        let chunk = match tiled {
            true => (number(322, 0), number(323, 0)),
            false => (width, number(278, height).min(height)),
        };
        if chunk.0 == 0 || chunk.1 == 0 {
            return Err(undecodable("TIFF tiles of 0 pixels"));
        }
        // A tile may be larger than the image, but not so much that it is a bomb.
        gate.admit(chunk.0.max(width), chunk.1.max(height), ImageFormat::Tiff)?;
        gate.admit(width, height, ImageFormat::Tiff)?;
        let page = Self {
            ifd,
            width: width as usize,
            height: height as usize,
            bits,
            samples: number(277, 1) as usize,
            photometric: number(262, WHITE_IS_ZERO),
            compression: number(259, 1),
            extra: ifd.numbers(338).unwrap_or_default(),
            planar: number(284, 1) == 2,
            chunk: (chunk.0 as usize, chunk.1 as usize),
            tiled,
        };
        page.check()?;
        Ok(page)
    }

    fn check(&self) -> Result<(), RowError> {
        let formats = self.ifd.numbers(339).unwrap_or_default();
        let odd = match () {
            () if !matches!(self.bits, 1 | 2 | 4 | 8 | 16) => "depth",
            () if !(1..=6).contains(&self.samples) => "number of samples",
            // Low bits first: for most kinds Pillow does not know it either.
            () if self.ifd.number(266).is_some_and(|order| order != 1) => "fill order",
            () if self.planar && !self.planar_is_known() => "planar layout",
            () if formats.iter().any(|format| *format != 1) => "sample format",
            () if self.predictor() > 2 || (self.predictor() == 2 && self.bits < 8) => "predictor",
            () => return Ok(()),
        };
        Err(undecodable(format!("a TIFF of a {odd} that clipmill does not read")))
    }

    /// Whether Pillow knows the bands as they lie in separate planes.
    fn planar_is_known(&self) -> bool {
        let colour = match (self.photometric, self.samples) {
            (_, 1) => true,
            (RGB, 3) | (CMYK, 4) => self.extra.is_empty(),
            (RGB, 4) => !matches!(self.extra.first(), Some(0 | 1)),
            _ => false,
        };
        colour && self.bits == 8 && self.compression != JPEG
    }

    pub fn predictor(&self) -> u32 {
        self.ifd.number(317).unwrap_or(1)
    }

    /// A sample of 16 bits.
    pub fn word(&self, bytes: [u8; 2]) -> u16 {
        if self.ifd.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    fn to_rgb(&self, samples: &[u8]) -> Result<Vec<u8>, RowError> {
        let extra = self.extra.first().copied();
        // Where the high byte of a 16-bit sample is.
        let high = if self.ifd.big_endian { 0 } else { 1 };
        let (photometric, unknown) = (self.photometric, || {
            let (n, bits) = (self.samples, self.bits);
            undecodable(format!(
                "a TIFF of photometric {}, {n} samples of {bits} bits",
                self.photometric
            ))
        });
        Ok(match (photometric, self.bits, self.samples) {
            (WHITE_IS_ZERO | BLACK_IS_ZERO, 1 | 2 | 4 | 8, 1) => self.gray(samples),
            // Pillow does not invert 16 bits, and does not know the other byte order.
            (BLACK_IS_ZERO, 16, 1) => self.gray16(samples),
            (WHITE_IS_ZERO, 16, 1) if !self.ifd.big_endian => self.gray16(samples),
            (BLACK_IS_ZERO, 8, 2) if extra == Some(0) => convert::each(samples, |[v, _]| [v; 3]),
            (BLACK_IS_ZERO, 8, 2) if extra == Some(2) => {
                convert::each(samples, |[v, a]| convert::on_white([v, v, v, a]))
            }
            (PALETTE, 1 | 2 | 4 | 8, 1) => {
                self.palette()?.paint(&convert::unpack(samples, self.width, self.bits))
            }
            (RGB, 8, 3) => samples.to_vec(),
            (RGB, 16, 3) => convert::each::<6>(samples, |s| [0, 2, 4].map(|at| s[at + high])),
            (RGB, 8, 4) => rgba(samples, extra, |s: [u8; 4]| s),
            (RGB, 8, 5) => rgba(samples, extra, |[r, g, b, a, _]| [r, g, b, a]),
            (RGB, 8, 6) => rgba(samples, extra, |[r, g, b, a, _, _]| [r, g, b, a]),
            (RGB, 16, 4) => rgba(samples, extra, |s: [u8; 8]| [0, 2, 4, 6].map(|at| s[at + high])),
            (CMYK, 8, 4) => convert::each(samples, convert::cmyk),
            (CMYK, 16, 4) => {
                convert::each::<8>(samples, |s| convert::cmyk([0, 2, 4, 6].map(|at| s[at + high])))
            }
            _ => return Err(unknown()),
        })
    }

    fn gray(&self, samples: &[u8]) -> Vec<u8> {
        let step = if self.bits == 8 { 1 } else { convert::gray_step(self.bits) };
        let flip = if self.photometric == WHITE_IS_ZERO { 255 } else { 0 };
        let values = convert::unpack(samples, self.width, self.bits);
        convert::each::<1>(&values, |[value]| [(value * step) ^ flip; 3])
    }

    fn gray16(&self, samples: &[u8]) -> Vec<u8> {
        convert::each::<2>(samples, |sample| [convert::gray16(self.word(sample)); 3])
    }

    /// All reds, then all greens, then all blues, of 16 bits.
    fn palette(&self) -> Result<Palette, RowError> {
        let levels = self.ifd.numbers(320).ok_or_else(|| undecodable("no palette"))?;
        let n = levels.len() / 3;
        let triples = (0..n.min(256))
            .flat_map(|index| [index, index + n, index + 2 * n].map(|at| (levels[at] / 256) as u8));
        Ok(Palette::from_rgb(&triples.collect::<Vec<u8>>()))
    }
}

/// Four samples on white, by what the fourth is; without a word, alpha.
fn rgba<const N: usize>(
    samples: &[u8],
    extra: Option<u32>,
    four: impl Fn([u8; N]) -> [u8; 4],
) -> Vec<u8> {
    convert::each(samples, |sample| {
        let [r, g, b, a] = four(sample);
        match extra {
            Some(0) => [r, g, b],
            Some(1) => convert::on_white(convert::unpremultiply([r, g, b, a])),
            _ => convert::on_white([r, g, b, a]),
        }
    })
}
