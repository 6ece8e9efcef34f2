//! The rows whose vectors are nearest to a few others, by cosine: an exact scan of all of them.
//!
//! The vectors come from a file beside the table that is mapped into memory (`file`), or from the
//! table itself. Per row nothing is held but what is mapped. Where a query comes from is the
//! caller's affair.

mod column;
pub mod export;
mod file;
pub mod shown;
mod top;

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use self::column::Column;
use self::file::VectorFile;
use self::top::{Scan, exact_parts};
use crate::error::Error;
use crate::files;
use crate::store::is_url;
use crate::table::Table;

pub use self::column::Element;
pub use self::top::Hit;

/// Rows that are scanned as one piece of work.
const TASK_ROWS: u64 = 4096;

/// What rows are compared with.
#[derive(Debug, Clone)]
pub struct Query {
    /// Of any length but zero.
    pub vector: Vec<f32>,
    /// A row that is not a result: the one that the vector is of.
    pub except: Option<u64>,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Per query, best first, the lower row first of two with one score.
    pub hits: Vec<Vec<Hit>>,
    /// Rows that have a vector.
    pub searched: u64,
    /// How many rows have none, by reason: the row's status where there is one.
    pub without: BTreeMap<String, u64>,
}

/// Whether the file of vectors is used, and made where it is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    Use,
    /// The table is read each time.
    Leave,
}

/// An embedding column that is ready to be searched.
pub struct Index<'a> {
    column: Column<'a>,
    file: Option<VectorFile>,
    /// Why there is no file of vectors, where there should be one.
    pub note: Option<String>,
}

impl<'a> Index<'a> {
    /// Opens an embedding column of the table that was opened as `input`. The file of vectors is
    /// made if it is not there or is of other data; `on_build` hears its path and size before.
    ///
    /// # Errors
    /// `NoColumn`, `ColumnType` for what is no embedding or has vectors of two lengths; what
    /// reading gives. A file of vectors that cannot be written is no error.
    pub fn open(
        (table, input): (&'a Table, &Path),
        asked: Option<&'a str>,
        cache: Cache,
        on_build: impl FnOnce(&Path, u64),
    ) -> Result<Self, Error> {
        let column = Column::of(table, table.embedding(asked)?)?;
        if cache == Cache::Leave || column.dim == 0 {
            return Ok(Self { column, file: None, note: None });
        }
        let path = file::path(input, &column);
        if let Some(dir) = path.parent().filter(|_| is_url(input)) {
            // Beside what is far away there is no place; here there may be no folder yet.
            files::create_local(dir)?;
        }
        let (file, note) = match VectorFile::open(&path, &column) {
            Some(file) => (Some(file), None),
            None => {
                on_build(&path, file::bytes(&column));
                file::build(&path, &column)?
            }
        };
        Ok(Self { column, file, note })
    }

    /// The column's name.
    pub fn name(&self) -> &str {
        self.column.name
    }

    /// Numbers in a vector; 0 where no row has one.
    pub fn dim(&self) -> usize {
        self.column.dim
    }

    /// A row's vector, of unit length, if it has one.
    ///
    /// # Errors
    /// What reading gives; a row that is not there has no vector.
    pub fn vector(&self, row: u64) -> Result<Option<Vec<f32>>, Error> {
        let mut found = None;
        let mut keep = |vector: &[f32]| found = Some(unit(vector));
        match &self.file {
            Some(file) => file.vector(row, &mut keep),
            None => self.column.vector(row, &mut keep)?,
        }
        Ok(found)
    }

    /// How the column's numbers are kept.
    pub fn element(&self) -> Element {
        self.column.element
    }

    /// Calls `with` for each row that has a vector, in order, with its vector at unit length.
    ///
    /// # Errors
    /// What reading and `with` give.
    pub fn each(
        &self,
        mut with: impl FnMut(u64, Vec<f32>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(file) = &self.file else {
            return self.column.each(|row, vector| with(row, unit(vector)));
        };
        file.each(|row, vector| with(row, unit(vector)))
    }

    /// The `top` nearest rows of each query; fewer where there are no more.
    ///
    /// Rows are sifted by products in f32, and those that may be among the best are computed again
    /// in f64: the result is that of f64 arithmetic, rounded to f32, whatever the processor.
    ///
    /// # Errors
    /// What reading gives. Queries have the column's `dim`.
    pub fn nearest(&self, queries: &[Query], top: usize) -> Result<Found, Error> {
        if self.column.dim == 0 {
            let (searched, without) = self.column.count()?;
            return Ok(Found { hits: vec![Vec::new(); queries.len()], searched, without });
        }
        let new = || Scan::new(queries, self.column.dim, top);
        let (scan, searched, without) = match &self.file {
            Some(file) => {
                let tasks = (0..file.rows().div_ceil(TASK_ROWS)).into_par_iter();
                let each = |mut scan: Scan, task: u64| {
                    let first = task * TASK_ROWS;
                    file.scan(first..(first + TASK_ROWS).min(file.rows()), &mut scan);
                    scan
                };
                let scan = tasks.fold(new, each).reduce(new, Scan::merge);
                (scan, file.searched(), file.without().clone())
            }
            None => self.column.nearest(new)?,
        };
        Ok(Found { hits: scan.finish(), searched, without })
    }
}

/// A vector at unit length.
fn unit(vector: &[f32]) -> Vec<f32> {
    let (_, length) = exact_parts(vector, vector);
    vector.iter().map(|x| (f64::from(*x) / length) as f32).collect()
}
