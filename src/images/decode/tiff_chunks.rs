//! A TIFF page's strips or tiles put together to rows.
//!
//! What the samples mean is in `tiff`, how their bytes are packed in `tiff_data`.

use super::tiff::{BLACK_IS_ZERO, Page, RGB, YCBCR};
use super::tiff_data::Packing;
use super::turbo::Colorspace;
use super::{jpeg, truncated, undecodable};
use crate::error::RowError;

/// The packed bytes of a strip or tile, or why there are none.
type Chunk<'a> = Result<&'a [u8], RowError>;

impl Page<'_> {
    /// Rows of interleaved samples, each row from a whole byte.
    pub fn samples(&self) -> Result<Vec<u8>, RowError> {
        let packing = Packing::from_number(self.compression)
            .ok_or_else(|| undecodable(format!("a TIFF of compression {}", self.compression)))?;
        let planes = if self.planar { self.samples } else { 1 };
        let per_pixel = self.samples / planes;
        let row = (self.width * per_pixel * self.bits).div_ceil(8);
        let chunk_row = (self.chunk.0 * per_pixel * self.bits).div_ceil(8);
        if self.tiled && !(self.chunk.0 * per_pixel * self.bits).is_multiple_of(8) {
            return Err(undecodable("a TIFF whose tiles do not end at a byte"));
        }
        let mut out = vec![0; row * self.height * planes];
        let across = self.width.div_ceil(self.chunk.0);
        let down = self.height.div_ceil(self.chunk.1);
        for (index, bytes) in self.chunks(across * down * planes)?.enumerate() {
            let (plane, place) = (index / (across * down), index % (across * down));
            let (x, y) = (place % across * chunk_row, place / across * self.chunk.1);
            let rows = self.chunk.1.min(self.height - y);
            let stored = if self.tiled { self.chunk.1 } else { rows };
            let mut chunk = packing.unpack(bytes?, chunk_row * stored)?;
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

    /// The packed bytes of each strip or tile, one after the other.
    fn chunks(&self, expected: usize) -> Result<impl Iterator<Item = Chunk<'_>>, RowError> {
        let raw = self.compression == 1;
        let (offsets, sizes) = if self.tiled { (324, 325) } else { (273, 279) };
        let offsets = self.ifd.numbers(offsets).ok_or_else(truncated)?;
        // A single raw strip may leave out its size.
        let sizes = self.ifd.numbers(sizes).unwrap_or_else(|| vec![u32::MAX; offsets.len()]);
        if offsets.len() < expected || sizes.len() < expected {
            return Err(truncated());
        }
        // A small file could name itself as each of a million strips.
        let total: u64 = sizes.iter().take(expected).map(|size| u64::from(*size)).sum();
        if !raw && total > self.ifd.bytes.len() as u64 {
            return Err(truncated());
        }
        Ok(offsets.into_iter().zip(sizes).take(expected).map(move |(at, size)| {
            let rest = self.ifd.bytes.get(at as usize..).ok_or_else(truncated)?;
            // Pillow reads raw strips by itself and does not ask for their size; libtiff does.
            let size = if raw { rest.len().min(size as usize) } else { size as usize };
            rest.get(..size).ok_or_else(truncated)
        }))
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

    /// The RGB pixels of JPEG strips or tiles.
    pub fn jpeg(&self) -> Result<Vec<u8>, RowError> {
        let wanted = match (self.photometric, self.samples) {
            (BLACK_IS_ZERO, 1) => Colorspace::Gray,
            (RGB, 3) => Colorspace::Rgb,
            (YCBCR, 3) => Colorspace::YCbCr,
            _ => return Err(undecodable("a JPEG-compressed TIFF of that colour space")),
        };
        let tables = self.ifd.blob(347).unwrap_or_default();
        let tables = tables.strip_suffix(&[0xff, 0xd9]).unwrap_or(tables);
        let across = self.width.div_ceil(self.chunk.0);
        let down = self.height.div_ceil(self.chunk.1);
        let mut out = vec![0; self.width * self.height * 3];
        for (index, bytes) in self.chunks(across * down)?.enumerate() {
            let bytes = bytes?;
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
}
