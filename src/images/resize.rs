//! Pillow's resampling of u8 RGB, for a window of the resized image only.
//!
//! This is `libImaging/Resample.c`: weights in f64, normalised, rounded to 22 fractional bits;
//! two passes, the first rounded and clipped to u8 before the second. Other resizers differ
//! from it by up to 9 of 255. Only the rows and columns that the window needs are
//! computed, so neither a 1 x 100,000 image nor its 22,400,000 resized rows take memory.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod horizontal;
mod taps;
mod vertical;

use std::ops::Range;
use std::slice::ChunksMut;

use horizontal::BLOCK;
use taps::Taps;

/// Decoded pixels: u8 RGB, row-major, `height * width * 3` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    pub width: usize,
    pub height: usize,
    pub data: Vec<u8>,
}

/// Some of an image's pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

impl Region {
    /// All of an image's pixels.
    pub fn whole(width: usize, height: usize) -> Self {
        Self { columns: 0..width, rows: 0..height }
    }

    /// The smallest region that holds both.
    pub fn hull(self, other: Self) -> Self {
        let hull = |a: Range<usize>, b: Range<usize>| a.start.min(b.start)..a.end.max(b.end);
        Self { columns: hull(self.columns, other.columns), rows: hull(self.rows, other.rows) }
    }
}

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub width: usize,
    pub height: usize,
}

/// Pillow's filters, numbered as in `preprocessor_config.json`'s `resample`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    Nearest = 0,
    Lanczos = 1,
    Bilinear = 2,
    Bicubic = 3,
    Box = 4,
    Hamming = 5,
}

impl Filter {
    /// The filter of that number in Pillow.
    pub fn from_number(number: u64) -> Option<Self> {
        use Filter::*;
        [Nearest, Lanczos, Bilinear, Bicubic, Box, Hamming]
            .get(usize::try_from(number).ok()?)
            .copied()
    }
}

/// The vector instructions that the passes use. The pixels are the same with all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vector {
    Scalar,
    Avx2,
    Avx512,
}

impl Vector {
    /// What this machine has, slowest first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Vector::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(avx2::available().then_some(Vector::Avx2));
            all.extend(avx512::available().then_some(Vector::Avx512));
        }
        all
    }

    /// The fastest that this machine has.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        match (avx512::available(), avx2::available()) {
            (true, _) => return Vector::Avx512,
            (_, true) => return Vector::Avx2,
            _ => {}
        }
        Vector::Scalar
    }
}

/// What to make of an image: which size, how, and which part of that is wanted.
#[derive(Debug, Clone)]
pub struct Resize {
    /// The size of the whole resized image.
    pub to: Size,
    pub filter: Filter,
    /// The columns of the resized image that are wanted, within `0..to.width`.
    pub columns: Range<usize>,
    /// The rows of the resized image that are wanted, within `0..to.height`.
    pub rows: Range<usize>,
    /// One of those that this machine has.
    pub vector: Vector,
}

impl Resize {
    /// The whole image at that size.
    pub fn whole(to: Size, filter: Filter) -> Self {
        Self { to, filter, columns: 0..to.width, rows: 0..to.height, vector: Vector::best() }
    }

    /// The pixels of an image of that width and height that the window is made from.
    pub fn source(&self, width: usize, height: usize) -> Region {
        match self.filter {
            Filter::Nearest => Region::whole(width, height),
            filter => Region {
                columns: taps::source(width, self.to.width, &self.columns, filter),
                rows: taps::source(height, self.to.height, &self.rows, filter),
            },
        }
    }

    /// Writes the window's pixels, u8 RGB, row after row, each `stride` bytes after the last.
    ///
    /// `out` holds at least `(rows.len() - 1) * stride + columns.len() * 3` bytes.
    pub fn apply(&self, image: &Rgb, out: &mut [u8], stride: usize) {
        if self.columns.is_empty() || self.rows.is_empty() {
            return;
        }
        if self.filter == Filter::Nearest {
            return self.nearest(image, out, stride);
        }
        let across = Taps::new(image.width, self.to.width, &self.columns, self.filter);
        let down = Taps::new(image.height, self.to.height, &self.rows, self.filter);
        let [across, down] = [across, down].map(|taps| taps.made_for(self.vector));
        match self.vertical_first(image) {
            true => self.down_then_across(image, [&down, &across], out.chunks_mut(stride)),
            false => self.across_then_down(image, [&across, &down], out.chunks_mut(stride)),
        }
    }

    /// Which pass comes first, which matters because the first one clips. Pillow up to 12
    /// always began with the horizontal one; 13 begins with the vertical one where it takes
    /// away more than twice as many rows as the other takes columns. (Found by trying: 0 of 1365
    /// random sizes differ; `tests/oracle/pixels.py` tries again.)
    fn vertical_first(&self, image: &Rgb) -> bool {
        let fewer = |from: usize, to: usize| from as i64 - to as i64;
        let rows = fewer(image.height, self.to.height);
        rows > 0 && rows > 2 * fewer(image.width, self.to.width)
    }

    fn across_then_down(&self, image: &Rgb, [across, down]: [&Taps; 2], lines: ChunksMut<'_, u8>) {
        // The vertical pass reads rows in order, so a ring of as many as one output row needs,
        // and those of a block that come early, is enough: it stays in the cache, and is
        // bounded whatever the image's height.
        let row_bytes = self.columns.len() * 3;
        let stride = image.width * 3;
        let ring_rows = (down.longest() + BLOCK).next_multiple_of(BLOCK);
        let mut ring = vec![0u8; ring_rows * row_bytes];
        let mut offsets = Vec::with_capacity(ring_rows);
        let Range { start: mut next, end } = down.span();
        let base = next;
        let slot = |row: usize| (row - base) % ring_rows * row_bytes;
        for (y, line) in lines.take(self.rows.len()).enumerate() {
            let Range { start: first, end: past } = down.sources(y);
            while next < past {
                let n = BLOCK.min(end - next);
                let block = &mut ring[slot(next)..][..n * row_bytes];
                horizontal::rows(&image.data[next * stride..], stride, across, block);
                next += n;
            }
            offsets.clear();
            offsets.extend((first..past).map(slot));
            let rows = vertical::Rows { data: &ring, row_bytes, offsets: &offsets };
            vertical::row(&rows, (down, y), &mut line[..row_bytes]);
        }
    }

    fn down_then_across(&self, image: &Rgb, [down, across]: [&Taps; 2], lines: ChunksMut<'_, u8>) {
        let stride = image.width * 3;
        // Only the columns that the horizontal pass will read.
        let columns = across.span();
        let bytes = columns.start * 3..columns.end * 3;
        let mut reduced = vec![0u8; stride];
        let mut offsets = Vec::with_capacity(down.longest());
        for (y, line) in lines.take(self.rows.len()).enumerate() {
            offsets.clear();
            offsets.extend(down.sources(y).map(|row| row * stride + bytes.start));
            let rows =
                vertical::Rows { data: &image.data, row_bytes: bytes.len(), offsets: &offsets };
            vertical::row(&rows, (down, y), &mut reduced[bytes.clone()]);
            let line = &mut line[..self.columns.len() * 3];
            horizontal::rows(&reduced, 0, across, line);
        }
    }

    /// `ImagingScaleAffine`: the source position is summed up in f64, column after column.
    fn nearest(&self, image: &Rgb, out: &mut [u8], stride: usize) {
        let positions = |from: usize, to: usize, window: &Range<usize>| -> Vec<usize> {
            let step = from as f64 / to as f64;
            let mut position = step * 0.5;
            let mut wanted = Vec::with_capacity(window.len());
            for index in 0..window.end {
                if index >= window.start {
                    wanted.push(position as usize);
                }
                position += step;
            }
            wanted
        };
        let columns = positions(image.width, self.to.width, &self.columns);
        let rows = positions(image.height, self.to.height, &self.rows);
        for (line, &y) in out.chunks_mut(stride).zip(&rows) {
            for (pixel, &x) in line.as_chunks_mut::<3>().0.iter_mut().zip(&columns) {
                // The sum can drift past the last pixel, and Pillow leaves black there.
                *pixel = if x < image.width && y < image.height {
                    let at = (y * image.width + x) * 3;
                    [image.data[at], image.data[at + 1], image.data[at + 2]]
                } else {
                    [0; 3]
                };
            }
        }
    }
}
