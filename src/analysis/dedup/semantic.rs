//! Rows whose embeddings are near, found within k-means cells.
//!
//! As SemDeDup does (Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale through
//! semantic deduplication"): rows are put into cells by k-means, and within each cell every pair is
//! compared. Near rows that fell into different cells are not found.
//!
//! Held in memory: 8 bytes a row (its cell, its place), the cells' training sample, and two blocks
//! of vectors. On disk, while it goes on: the vectors in f32, cell after cell.

use std::fs::File;
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tch::{Device, TchError, Tensor};

use super::Found;
use crate::analysis::Reasons;
use crate::analysis::cluster::{Centroids, Nearest, download, train, upload};
use crate::analysis::unit::UnitColumn;
use crate::error::Error;
use crate::files;
use crate::spec::{DedupSpec, TrainingSpec};

/// Vectors of a block. A product of two is 16 MiB.
const BLOCK: usize = 2048;

/// The most cells that are made by default.
const MOST_CELLS: usize = 65_536;

/// The most rounds of training.
const ROUNDS: NonZeroU32 = NonZeroU32::new(5).unwrap();

/// The cell of a row without a vector.
const NONE: u32 = u32::MAX;

/// Joins the rows of a cell whose cosine is at least `spec.threshold`. Gives the cells' centroids.
pub fn join(
    column: &UnitColumn<'_>,
    spec: &DedupSpec,
    device: Device,
    found: &mut Found,
) -> Result<(Reasons, Centroids), Error> {
    let by_default = || ((column.table.rows() as f64).sqrt() as usize).clamp(1, MOST_CELLS);
    let cells = spec.cells.map_or_else(by_default, |cells| cells.get() as usize);
    // Cells need not be the best ones.
    let training =
        TrainingSpec { iterations: ROUNDS, passes: 0, ..TrainingSpec::with_seed(spec.seed) };
    let centroids = train(column, cells, &training, device)?.centroids;
    if centroids.k() == 0 {
        return Ok((reasons(column)?, centroids));
    }
    let (cell_of, missing) = assign(column, &Nearest::new(&centroids, device)?, found)?;
    let cells = Cells::spill(column, &cell_of, (centroids.k(), &spec.path))?;
    drop(cell_of);
    for cell in 0..centroids.k() {
        cells.join(cell, (spec.threshold, device), found)?;
    }
    Ok((missing, centroids))
}

/// Why the rows of a table without any vector have none.
fn reasons(column: &UnitColumn<'_>) -> Result<Reasons, Error> {
    let mut missing = Reasons::default();
    let columns = super::with_status(column.table, column.name);
    column.table.scan(&columns, |_, batch| {
        (0..batch.num_rows()).for_each(|row| missing.add(batch, row, "no embedding"));
        Ok(())
    })?;
    Ok(missing)
}

/// Every row's cell.
fn assign(
    column: &UnitColumn<'_>,
    nearest: &Nearest,
    found: &mut Found,
) -> Result<(Vec<u32>, Reasons), Error> {
    let mut cell_of = vec![NONE; column.table.rows() as usize];
    let mut missing = Reasons::default();
    let columns = super::with_status(column.table, column.name);
    column.table.scan(&columns, |first, batch| {
        let unit = column.of(batch)?;
        column.missing(batch, &unit, &mut missing);
        if !unit.rows.is_empty() {
            let labels = nearest.of(&unit.values)?.labels;
            for (row, label) in unit.rows.iter().zip(labels) {
                let row = first as usize + *row as usize;
                cell_of[row] = label;
                found.has_key(row as u32);
            }
        }
        Ok(())
    })?;
    Ok((cell_of, missing))
}

/// Vectors on disk, cell after cell.
struct Cells {
    file: File,
    dim: usize,
    /// The rows, in the file's order.
    rows: Vec<u32>,
    /// Where each cell begins, and where the last one ends.
    starts: Vec<usize>,
}

impl Cells {
    /// Writes the vectors into a file without a name, in the output's folder: it is as large as
    /// the output may be, and gone with the process.
    fn spill(
        column: &UnitColumn<'_>,
        cell_of: &[u32],
        (k, dir): (usize, &Path),
    ) -> Result<Self, Error> {
        let mut starts = vec![0; k + 1];
        for cell in cell_of.iter().filter(|cell| **cell != NONE) {
            starts[*cell as usize + 1] += 1;
        }
        (0..k).for_each(|cell| starts[cell + 1] += starts[cell]);
        files::create_folder(dir)?;
        let dir = &files::local(dir);
        let file = tempfile::tempfile_in(dir).map_err(Error::io("make a file in", dir))?;
        let mut cells = Self { file, dim: column.dim, rows: vec![0; starts[k]], starts };
        let mut next = cells.starts.clone();
        column.scan(|first, unit| {
            let mut places: Vec<(usize, usize)> = Vec::with_capacity(unit.rows.len());
            for (at, row) in unit.rows.iter().enumerate() {
                let row = first as usize + *row as usize;
                let place = &mut next[cell_of[row] as usize];
                cells.rows[*place] = row as u32;
                places.push((*place, at));
                *place += 1;
            }
            cells.write(places, &unit.values).map_err(Error::io("write a file in", dir))
        })?;
        Ok(cells)
    }

    /// Writes vectors to their places, neighbours at once.
    fn write(&self, mut places: Vec<(usize, usize)>, values: &[f32]) -> std::io::Result<()> {
        places.sort_unstable();
        for run in places.chunk_by(|a, b| a.0 + 1 == b.0) {
            let vectors =
                run.iter().flat_map(|(_, at)| &values[at * self.dim..(at + 1) * self.dim]);
            let bytes: Vec<u8> = vectors.flat_map(|value| value.to_le_bytes()).collect();
            self.file.write_all_at(&bytes, (run[0].0 * self.dim * 4) as u64)?;
        }
        Ok(())
    }

    /// The vectors from a place on, at most a block and not beyond `end`.
    fn block(&self, start: usize, end: usize, device: Device) -> Result<Tensor, Error> {
        let mut bytes = vec![0; (end.min(start + BLOCK) - start) * self.dim * 4];
        let read = self.file.read_exact_at(&mut bytes, (start * self.dim * 4) as u64);
        read.map_err(Error::io("read back a file in", "the output folder"))?;
        let values: Vec<_> =
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        upload(&values, self.dim, device).map_err(Error::torch("put vectors on the device"))
    }

    /// Joins the near rows of a cell.
    fn join(
        &self,
        cell: usize,
        (threshold, device): (f64, Device),
        found: &mut Found,
    ) -> Result<(), Error> {
        let (start, end) = (self.starts[cell], self.starts[cell + 1]);
        for left in (start..end).step_by(BLOCK) {
            let x = self.block(left, end, device)?;
            for right in (left..end).step_by(BLOCK) {
                let y =
                    if right == left { x.shallow_clone() } else { self.block(right, end, device)? };
                let near = near(&x, &y, threshold);
                let near = near.map_err(Error::torch("compare the vectors of a cell"))?;
                for [a, b] in near.as_chunks::<2>().0 {
                    let (a, b) = (left + *a as usize, right + *b as usize);
                    if a < b {
                        found.groups.join(self.rows[a], self.rows[b]);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Where the cosines of two blocks' vectors are at least a threshold: row of `x`, row of `y`, ...
fn near(x: &Tensor, y: &Tensor, threshold: f64) -> Result<Vec<i64>, TchError> {
    let cosines = x.f_matmul(&y.f_transpose(0, 1)?)?;
    download(&cosines.f_ge(threshold)?.f_nonzero()?)
}
