//! From coefficients to the wanted pixels, a row of MCUs at a time.

use std::ops::Range;

use super::colour::{Chroma, OVERREAD, Row, Sampling};
use super::header::Header;
use super::idct::Blocks;
use super::scan::{Group, LANES};
use crate::images::resize::{Region, Vector};

/// Which MCUs the wanted pixels depend on.
pub struct Plan<'a> {
    header: &'a Header<'a>,
    sampling: Sampling,
    wanted: &'a Region,
    /// Pixels to a sample of chroma, across and down.
    factors: (usize, usize),
    /// How many MCUs there are, across and down.
    pub mcus: (usize, usize),
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

impl<'a> Plan<'a> {
    pub fn new(header: &'a Header<'a>, sampling: Sampling, wanted: &'a Region) -> Self {
        let factors = header.components[0].blocks;
        let covering = |pixels: &Range<usize>, margin: usize, side: usize, n_mcus: usize| {
            let end = (pixels.end + margin).div_ceil(side).min(n_mcus);
            (pixels.start.saturating_sub(margin) / side).min(end)..end
        };
        let (width, height) = (8 * factors.0, 8 * factors.1);
        let mcus = (header.width.div_ceil(width), header.height.div_ceil(height));
        // The nearest pixel of the sample of chroma next to a pixel's own.
        let columns = covering(&wanted.columns, factors.0, width, mcus.0);
        let rows = covering(&wanted.rows, factors.1 - 1, height, mcus.1);
        Self { header, sampling, wanted, factors, mcus, columns, rows }
    }

    /// The rows of pixels that are complete with a row of MCUs, and were not before. The last one
    /// of each waits for the next row of chroma.
    fn complete(&self, mcu_row: usize) -> Range<usize> {
        let (height, waiting) = (8 * self.factors.1, self.factors.1 - 1);
        let start = (mcu_row * height).saturating_sub(waiting);
        let end = match mcu_row + 1 == self.mcus.1 {
            true => self.header.height,
            false => (mcu_row + 1) * height - waiting,
        };
        start.max(self.wanted.rows.start)..end.min(self.wanted.rows.end)
    }
}

/// Samples of a component: the last row of the row of MCUs before, and the rows of this one.
#[derive(Default)]
struct Plane {
    samples: Vec<u8>,
    stride: usize,
}

/// Where a plane's rows begin: there is room for a sample before the first.
const LEFT: usize = 32;

/// Samples of as many columns of MCUs as are wanted.
pub struct Planes {
    vector: Vector,
    planes: [Plane; 3],
}

impl Planes {
    pub fn new(vector: Vector) -> Self {
        Self { vector: super::colour::supported(vector), planes: Default::default() }
    }

    /// Makes room.
    pub fn start(&mut self, plan: &Plan<'_>) {
        let n_groups = plan.columns.len().div_ceil(LANES);
        for (plane, component) in self.planes.iter_mut().zip(&plan.header.components) {
            let (across, down) = component.blocks;
            plane.stride = LEFT + n_groups * across * LANES * 8 + OVERREAD;
            plane.samples.resize((1 + 8 * down) * plane.stride, 0);
        }
    }

    /// Transforms the blocks of up to four MCUs, from that column on.
    pub fn transform(&mut self, plan: &Plan<'_>, column: usize, groups: &[Group]) -> Option<()> {
        let column = column - plan.columns.start;
        let mut groups = groups.iter();
        for (plane, component) in self.planes.iter_mut().zip(&plan.header.components) {
            let (across, down) = component.blocks;
            for y in 0..down {
                for (x, group) in groups.by_ref().take(across).enumerate() {
                    let at = LEFT + (column * across + x * LANES) * 8;
                    let out = &mut plane.samples[(1 + 8 * y) * plane.stride + at..];
                    let blocks = Blocks {
                        coefficients: &group.coefficients,
                        quant: &component.quant,
                        flat: group.last == 0,
                    };
                    blocks.transform(self.vector, out, plane.stride)?;
                }
            }
        }
        Some(())
    }

    /// Writes the wanted rows of pixels that are complete with this row of MCUs.
    pub fn write(&mut self, plan: &Plan<'_>, mcu_row: usize, out: &mut [u8]) {
        let width = plan.header.width;
        self.repeat_edges(plan);
        let columns = plan.wanted.columns.start / 2 * 2..plan.wanted.columns.end;
        for y in plan.complete(mcu_row) {
            let out = &mut out[(y * width + columns.start) * 3..][..columns.len() * 3];
            self.row(plan, (columns.start, y), mcu_row).write(self.vector, out);
        }
        for plane in self.planes.iter_mut().take(plan.header.components.len()) {
            plane.keep_last();
        }
    }

    /// Repeats the chroma at the image's edges, which makes jdsample.c's special cases of its
    /// general one.
    fn repeat_edges(&mut self, plan: &Plan<'_>) {
        let width = plan.header.width.div_ceil(plan.factors.0) - plan.columns.start * 8;
        let has_left = plan.columns.start == 0;
        let has_right = plan.columns.end == plan.mcus.0;
        for plane in self.planes.iter_mut().take(plan.header.components.len()).skip(1) {
            for row in plane.samples.chunks_exact_mut(plane.stride).skip(1) {
                if has_left {
                    row[LEFT - 1] = row[LEFT];
                }
                if has_right {
                    row[LEFT + width] = row[LEFT + width - 1];
                }
            }
        }
    }

    /// The samples of the pixels from that one on.
    fn row(&self, plan: &Plan<'_>, (x, y): (usize, usize), mcu_row: usize) -> Row<'_> {
        let (across, down) = plan.factors;
        let x = x - plan.columns.start * 8 * across;
        let near = y / down;
        let far_is_above = y % 2 == 0;
        let last = plan.header.height.div_ceil(down) - 1;
        let far = if far_is_above { near.saturating_sub(1) } else { (near + 1).min(last) };
        let chroma = |plane: usize| {
            let row = |y: usize| self.planes[plane].row(y + 1 - 8 * mcu_row, x / across);
            let far = if down == 2 { row(far) } else { &[] };
            match plan.sampling {
                Sampling::Gray => Chroma { near: &[], far: &[] },
                _ => Chroma { near: row(near), far },
            }
        };
        let luma = &self.planes[0].row(y + 1 - 8 * down * mcu_row, x)[1..];
        Row { sampling: plan.sampling, luma, chroma: [chroma(1), chroma(2)], far_is_above }
    }
}

impl Plane {
    /// A row of samples, from the one before that column on.
    fn row(&self, y: usize, x: usize) -> &[u8] {
        &self.samples[y * self.stride..][..self.stride][LEFT - 1 + x..]
    }

    /// Keeps the last row for the next row of MCUs.
    fn keep_last(&mut self) {
        let start = self.samples.len() - self.stride;
        self.samples.copy_within(start.., 0);
    }
}
