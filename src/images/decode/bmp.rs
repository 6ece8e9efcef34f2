//! BMP: 1, 4, 8, 16, 24 and 32 bits, palettes, bit fields, RLE4 and RLE8.
//!
//! Written after Pillow's `BmpImagePlugin`, which is stricter and odder than the format: the
//! fourth byte of a 32-bit pixel is alpha only if the bit fields say so, a palette of gray
//! levels in order is no palette, and only some bit fields are known.

use super::convert::{self, Palette};
use super::{Gate, truncated, undecodable};
use crate::batch::ImageFormat;
use crate::error::RowError;
use crate::images::resize::Rgb;

const RAW: u32 = 0;
const RLE8: u32 = 1;
const RLE4: u32 = 2;
const BIT_FIELDS: u32 = 3;

struct Header {
    width: usize,
    height: usize,
    top_down: bool,
    bits: usize,
    compression: u32,
    /// Entries of the palette; 0 in the file means all.
    colours: usize,
    /// Bytes of a palette entry.
    entry: usize,
    masks: [u32; 4],
    /// Where the palette starts.
    palette: usize,
    /// Where the pixels start.
    pixels: usize,
}

/// The image.
pub fn decode(bytes: &[u8], gate: &mut Gate<'_>) -> Result<Rgb, RowError> {
    let header = Header::read(bytes, gate)?;
    let (width, height) = (header.width, header.height);
    let data = match (header.bits, header.compression) {
        (1 | 4 | 8, RAW | RLE8 | RLE4) => {
            let palette = header.palette(bytes)?;
            let indices = match header.compression {
                RAW => convert::unpack(&header.rows(bytes)?, width, header.bits),
                _ => super::bmp_rle::expand(
                    bytes,
                    header.pixels,
                    (width, height),
                    header.compression == RLE4,
                )?,
            };
            palette.paint(&indices)
        }
        (16 | 24 | 32, RAW | BIT_FIELDS) => header.colours(&header.rows(bytes)?)?,
        (bits, compression) => {
            return Err(undecodable(format!("a BMP of {bits} bits, compression {compression}")));
        }
    };
    let mut data = data;
    if !header.top_down {
        data = data.rchunks_exact(width * 3).flatten().copied().collect();
    }
    Ok(Rgb { width, height, data })
}

impl Header {
    fn read(bytes: &[u8], gate: &mut Gate<'_>) -> Result<Self, RowError> {
        let size = u32_at(bytes, 14)? as usize;
        let core = size == 12;
        if !core && !matches!(size, 40 | 52 | 56 | 64 | 108 | 124) {
            return Err(undecodable(format!("a BMP header of {size} bytes")));
        }
        let (width, stored, bits) = if core {
            (u16_at(bytes, 18)?, u16_at(bytes, 20)?, u16_at(bytes, 24)?)
        } else {
            (u32_at(bytes, 18)?, u32_at(bytes, 22)?, u16_at(bytes, 28)?)
        };
        // Pillow's test for a negative height, which means top-down.
        let top_down = !core && stored >> 24 == 0xff;
        let height = if top_down { stored.wrapping_neg() } else { stored };
        gate.admit(width, height, ImageFormat::Bmp)?;
        let mut header = Self {
            width: width as usize,
            height: height as usize,
            top_down,
            bits: bits as usize,
            compression: if core { RAW } else { u32_at(bytes, 30)? },
            colours: if core { 0 } else { u32_at(bytes, 46)? as usize },
            entry: if core { 3 } else { 4 },
            masks: [0; 4],
            palette: 14 + size,
            pixels: u32_at(bytes, 10)? as usize,
        };
        if header.compression == BIT_FIELDS {
            header.read_masks(bytes, size)?;
        }
        header.place_palette(14 + size);
        Ok(header)
    }

    /// How many colours there are, and where the pixels start behind them, as Pillow finds it.
    fn place_palette(&mut self, end_of_header: usize) {
        if self.colours == 0 {
            self.colours = 1usize.checked_shl(self.bits as u32).unwrap_or(0);
        }
        let palette = if self.bits <= 8 { self.entry * self.colours } else { 0 };
        if self.pixels == end_of_header {
            self.pixels += palette;
        } else if self.pixels == 0 {
            self.pixels = self.palette + palette;
        }
    }

    fn read_masks(&mut self, bytes: &[u8], size: usize) -> Result<(), RowError> {
        // A header of 40 bytes has three masks behind it, longer ones have them inside.
        let n = if size >= 56 { 4 } else { 3 };
        for (index, mask) in self.masks.iter_mut().take(n).enumerate() {
            *mask = u32_at(bytes, 54 + index * 4)?;
        }
        if size == 40 {
            self.palette += 12;
        }
        Ok(())
    }

    fn palette(&self, bytes: &[u8]) -> Result<Palette, RowError> {
        if !(1..=256).contains(&self.colours) {
            return Err(undecodable(format!("a BMP palette of {} colours", self.colours)));
        }
        let end = self.palette + self.colours * self.entry;
        let entries = bytes.get(self.palette..end).ok_or_else(truncated)?;
        let colours: Vec<u8> =
            entries.chunks_exact(self.entry).flat_map(|bgr| [bgr[2], bgr[1], bgr[0]]).collect();
        let two = self.colours == 2;
        let gray =
            colours.as_chunks::<3>().0.iter().enumerate().all(|(index, rgb)| {
                *rgb == [if two { (index * 255) as u8 } else { index as u8 }; 3]
            });
        match (gray, two, self.bits) {
            // Black and white is what the palette says anyway.
            (false, ..) | (true, true, 1) => Ok(Palette::from_rgb(&colours)),
            (true, false, 8) => Ok(Palette::gray()),
            // Pillow reads these as if they had another depth.
            _ if self.compression == RAW => Err(undecodable("a BMP with an odd gray palette")),
            (true, true, _) => Err(undecodable("a BMP with an odd gray palette")),
            _ => Ok(Palette::gray()),
        }
    }

    /// The rows without their padding to four bytes, as stored.
    fn rows(&self, bytes: &[u8]) -> Result<Vec<u8>, RowError> {
        let row = (self.width * self.bits).div_ceil(8);
        let stride = (self.width * self.bits).div_ceil(32) * 4;
        let stored = bytes.get(self.pixels..).ok_or_else(truncated)?;
        // The last row needs no padding.
        if stored.len() < stride * (self.height - 1) + row {
            return Err(truncated());
        }
        let rows = stored.chunks(stride).take(self.height);
        Ok(rows.flat_map(|line| &line[..row]).copied().collect())
    }

    fn colours(&self, rows: &[u8]) -> Result<Vec<u8>, RowError> {
        let fields = self.compression == BIT_FIELDS;
        let [r, g, b, a] = self.masks;
        let five_six_five = |pixel: [u8; 2]| {
            let pixel = u32::from(u16::from_le_bytes(pixel));
            [widen(pixel >> 11, 31), widen(pixel >> 5, 63), widen(pixel, 31)]
        };
        let five_five_five = |pixel: [u8; 2]| {
            let pixel = u32::from(u16::from_le_bytes(pixel));
            [widen(pixel >> 10, 31), widen(pixel >> 5, 31), widen(pixel, 31)]
        };
        Ok(match (self.bits, [r, g, b]) {
            (16, [0xf800, 0x7e0, 0x1f]) if fields => convert::each(rows, five_six_five),
            (16, [0x7c00, 0x3e0, 0x1f]) if fields => convert::each(rows, five_five_five),
            (16, _) if !fields => convert::each(rows, five_five_five),
            (24, [0xff_0000, 0xff00, 0xff]) => convert::each(rows, |[b, g, r]| [r, g, b]),
            (24, _) if !fields => convert::each(rows, |[b, g, r]| [r, g, b]),
            (32, _) => {
                let order = if fields { byte_order(self.masks) } else { Some(([2, 1, 0], None)) };
                let unknown = || undecodable(format!("BMP bit fields {r:x} {g:x} {b:x} {a:x}"));
                let (rgb, alpha) = order.ok_or_else(unknown)?;
                convert::each::<4>(rows, |pixel| {
                    let [r, g, b] = rgb.map(|index: usize| pixel[index]);
                    convert::on_white([r, g, b, alpha.map_or(255, |index: usize| pixel[index])])
                })
            }
            _ => return Err(undecodable(format!("BMP bit fields {r:x} {g:x} {b:x} {a:x}"))),
        })
    }
}

/// The places of red, green, blue and alpha in a pixel of four bytes, for the masks that
/// Pillow knows.
fn byte_order(masks: [u32; 4]) -> Option<([usize; 3], Option<usize>)> {
    Some(match masks {
        [0xff_0000, 0xff00, 0xff, 0] => ([2, 1, 0], None),
        [0xff00_0000, 0xff_0000, 0xff00, 0] => ([3, 2, 1], None),
        [0xff00_0000, 0xff00, 0xff, 0] => ([3, 1, 0], None),
        [0xff00_0000, 0xff_0000, 0xff00, 0xff] => ([3, 2, 1], Some(0)),
        [0xff, 0xff00, 0xff_0000, 0xff00_0000] => ([0, 1, 2], Some(3)),
        [0xff_0000, 0xff00, 0xff, 0xff00_0000] | [0, 0, 0, 0] => ([2, 1, 0], Some(3)),
        [0xff00_0000, 0xff00, 0xff, 0xff_0000] => ([3, 1, 0], Some(2)),
        _ => return None,
    })
}

/// The low bits of a field as 0 to 255, rounded down as Pillow does.
fn widen(field: u32, most: u32) -> u8 {
    ((field & most) * 255 / most) as u8
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u32, RowError> {
    let bytes =
        bytes.get(at..at + 2).and_then(|bytes| bytes.first_chunk()).ok_or_else(truncated)?;
    Ok(u32::from(u16::from_le_bytes(*bytes)))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, RowError> {
    let bytes =
        bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk()).ok_or_else(truncated)?;
    Ok(u32::from_le_bytes(*bytes))
}
