//! TIFF: the first page, of the kinds that people have.
//!
//! Gray, palette, RGB, RGBA and CMYK, 1 to 16 bits, in strips or tiles, raw, LZW, deflate,
//! PackBits or JPEG, as Pillow reads them (`TiffImagePlugin.OPEN_INFO`). Fax, floats, Lab and
//! whatever else could not be shown to be identical is refused, not approximated.

use turbojpeg::Colorspace;

use super::convert::{self, Palette};
use super::tiff_data::{Ifd, Packing};
use super::{Gate, exif, jpeg, truncated, undecodable};
use crate::batch::ImageFormat;
use crate::error::RowError;
use crate::images::resize::Rgb;

/// The tags that decide the pixels: none of them may be cut off.
const TAGS: [u16; 18] =
    [256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 324, 325, 338, 339];

const WHITE_IS_ZERO: u32 = 0;
const BLACK_IS_ZERO: u32 = 1;
const RGB: u32 = 2;
const PALETTE: u32 = 3;
const CMYK: u32 = 5;
const YCBCR: u32 = 6;
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

struct Page<'a> {
    ifd: &'a Ifd<'a>,
    width: usize,
    height: usize,
    bits: usize,
    /// Samples a pixel.
    samples: usize,
    photometric: u32,
    compression: u32,
    /// What the samples past the colour's own are: 0 unknown, 1 premultiplied alpha, 2 alpha.
    extra: Vec<u32>,
    /// Each sample has strips or tiles of its own.
    planar: bool,
    /// The size of a strip or tile.
    chunk: (usize, usize),
    tiled: bool,
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

    fn predictor(&self) -> u32 {
        self.ifd.number(317).unwrap_or(1)
    }

    /// Rows of interleaved samples, each row from a whole byte.
    fn samples(&self) -> Result<Vec<u8>, RowError> {
        let packing = Packing::from_number(self.compression)
            .ok_or_else(|| undecodable(format!("a TIFF of compression {}", self.compression)))?;
        let planes = if self.planar { self.samples } else { 1 };
        let per_pixel = self.samples / planes;
        let row = (self.width * per_pixel * self.bits).div_ceil(8);
        let chunk_row = (self.chunk.0 * per_pixel * self.bits).div_ceil(8);
        let mut out = vec![0; row * self.height * planes];
        let across = self.width.div_ceil(self.chunk.0);
        let down = self.height.div_ceil(self.chunk.1);
        for (index, bytes) in self.chunks(across * down * planes)?.into_iter().enumerate() {
            let (plane, place) = (index / (across * down), index % (across * down));
            let (x, y) = (place % across * chunk_row, place / across * self.chunk.1);
            let rows = self.chunk.1.min(self.height - y);
            let stored = if self.tiled { self.chunk.1 } else { rows };
            let mut chunk = packing.unpack(&bytes, chunk_row * stored)?;
            self.undo_predictor(&mut chunk, chunk_row, per_pixel);
            for (line, from) in chunk.chunks_exact(chunk_row).take(rows).enumerate() {
                let start = plane * row * self.height + (y + line) * row + x;
                let n = chunk_row.min(row - x);
                out[start..start + n].copy_from_slice(&from[..n]);
            }
        }
        if planes == 1 {
            return Ok(out);
        }
        let plane = row * self.height;
        let pixels = 0..self.width * self.height;
        Ok(pixels
            .flat_map(|at| (0..planes).map(move |p| p * plane + at))
            .map(|at| out[at])
            .collect())
    }

    /// The packed bytes of each strip or tile, bits in the usual order.
    fn chunks(&self, expected: usize) -> Result<Vec<Vec<u8>>, RowError> {
        let (offsets, sizes) = if self.tiled { (324, 325) } else { (273, 279) };
        let offsets = self.ifd.numbers(offsets).ok_or_else(truncated)?;
        // A single raw strip may leave out its size.
        let sizes = self.ifd.numbers(sizes).unwrap_or_else(|| vec![u32::MAX; offsets.len()]);
        if offsets.len() < expected || sizes.len() < expected {
            return Err(truncated());
        }
        let raw = self.compression == 1;
        let reversed = self.ifd.number(266) == Some(2);
        let chunks = offsets.iter().zip(&sizes).take(expected).map(|(&at, &size)| {
            let rest = self.ifd.bytes.get(at as usize..).ok_or_else(truncated)?;
            // Pillow reads raw strips by itself and does not ask for their size; libtiff does.
            let size = if raw { rest.len().min(size as usize) } else { size as usize };
            let bytes = rest.get(..size).ok_or_else(truncated)?;
            Ok(match reversed {
                true => bytes.iter().map(|byte| byte.reverse_bits()).collect(),
                false => bytes.to_vec(),
            })
        });
        chunks.collect()
    }

    /// Samples were stored as differences to the sample on their left.
    fn undo_predictor(&self, chunk: &mut [u8], row: usize, per_pixel: usize) {
        if self.predictor() != 2 || self.compression == 1 || self.compression == 32_773 {
            return;
        }
        for line in chunk.chunks_exact_mut(row) {
            if self.bits == 8 {
                for at in per_pixel..line.len() {
                    line[at] = line[at].wrapping_add(line[at - per_pixel]);
                }
                continue;
            }
            let samples = line.as_chunks_mut::<2>().0;
            for at in per_pixel..samples.len() {
                let sum = self.word(samples[at]).wrapping_add(self.word(samples[at - per_pixel]));
                samples[at] =
                    if self.ifd.big_endian { sum.to_be_bytes() } else { sum.to_le_bytes() };
            }
        }
    }

    fn word(&self, bytes: [u8; 2]) -> u16 {
        if self.ifd.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    fn jpeg(&self) -> Result<Vec<u8>, RowError> {
        let wanted = match (self.photometric, self.samples) {
            (BLACK_IS_ZERO, 1) => Colorspace::Gray,
            (RGB, 3) => Colorspace::RGB,
            (YCBCR, 3) => Colorspace::YCbCr,
            _ => return Err(undecodable("a JPEG-compressed TIFF of that colour space")),
        };
        let tables = self.ifd.blob(347).unwrap_or_default();
        let tables = tables.strip_suffix(&[0xff, 0xd9]).unwrap_or(tables);
        let across = self.width.div_ceil(self.chunk.0);
        let down = self.height.div_ceil(self.chunk.1);
        let mut out = vec![0; self.width * self.height * 3];
        for (index, bytes) in self.chunks(across * down)?.into_iter().enumerate() {
            let (x, y) = (index % across * self.chunk.0, index / across * self.chunk.1);
            let rows = self.chunk.1.min(self.height - y);
            let size = (self.chunk.0, if self.tiled { self.chunk.1 } else { rows });
            // The strip follows the tables as if it were one file.
            let from = if tables.is_empty() { 0 } else { 2.min(bytes.len()) };
            let (part, space) = jpeg::decode_part(&[tables, &bytes[from..]].concat(), size)?;
            if space != wanted {
                return Err(undecodable("JPEG data of another colour space in a TIFF"));
            }
            let n = size.0.min(self.width - x) * 3;
            for (line, from) in part.data.chunks_exact(size.0 * 3).take(rows).enumerate() {
                let start = ((y + line) * self.width + x) * 3;
                out[start..start + n].copy_from_slice(&from[..n]);
            }
        }
        Ok(out)
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
