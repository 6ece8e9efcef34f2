//! Reading parts of Parquet files, in order.
//!
//! A part's batches start at the part's first row whatever the file's row groups are, so that a
//! part read alone gives the batches that it gives in a whole run.

use std::collections::VecDeque;
use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::input::{InputFile, guarded, reader};
use super::{Part, Source};
use crate::batch::{Position, RowBatch};
use crate::error::Error;

/// Reads parts of Parquet files, in the order given.
pub struct ParquetSource {
    inputs: Vec<InputFile>,
    parts: VecDeque<Part>,
    batch_size: usize,
    open: Option<OpenFile>,
    /// Rows of the first part in `parts` that have been given out.
    given: u64,
}

impl ParquetSource {
    /// A source of `parts`, each cut from one of `inputs`, in batches of `batch_size` rows.
    pub fn new(inputs: Vec<InputFile>, parts: Vec<Part>, batch_size: usize) -> Self {
        Self { inputs, parts: parts.into(), batch_size, open: None, given: 0 }
    }

    /// The reader of a part's file, kept open when the part starts where the last one ended.
    fn open(&mut self, part: Part) -> Result<&mut OpenFile, Error> {
        let at = part.start + self.given;
        let fits = self.open.as_ref().is_some_and(|open| open.input == part.input && open.at == at);
        if !fits {
            self.open = None;
        }
        match &mut self.open {
            Some(open) => Ok(open),
            empty => {
                Ok(empty.insert(OpenFile::new(&self.inputs[part.input], part, self.batch_size)?))
            }
        }
    }
}

impl Source for ParquetSource {
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
        let Some(part) = self.parts.front().copied() else { return Ok(None) };
        let offset = self.given;
        let wanted = (part.rows - offset).min(self.batch_size as u64);
        let rows = self.open(part)?.take(wanted as usize)?;
        self.given += wanted;
        let last = self.given == part.rows;
        if last {
            self.parts.pop_front();
            self.given = 0;
        }
        Ok(Some(RowBatch { position: Position { part: part.index, offset, last }, rows }))
    }
}

/// A file being read, and the rows that were read and not yet given out.
struct OpenFile {
    input: usize,
    path: PathBuf,
    schema: SchemaRef,
    file_rows: u64,
    /// The file's row that comes next.
    at: u64,
    reader: ParquetRecordBatchReader,
    pending: Option<RecordBatch>,
}

impl OpenFile {
    /// Opens a file at a part's first row. Row groups before it are not read.
    fn new(input: &InputFile, part: Part, batch_size: usize) -> Result<Self, Error> {
        let path = &input.path;
        let builder = reader(path)?;
        if builder.metadata().file_metadata().num_rows() != input.rows as i64 {
            let found = builder.metadata().file_metadata().num_rows().max(0) as u64;
            return Err(Error::RowCount { path: path.clone(), expected: input.rows, found });
        }
        let mut skip = part.start;
        let mut groups = 0..builder.metadata().num_row_groups();
        for group in builder.metadata().row_groups() {
            let rows = group.num_rows().max(0) as u64;
            if skip < rows {
                break;
            }
            skip -= rows;
            groups.start += 1;
        }
        let builder = builder
            .with_row_groups(groups.collect())
            .with_offset(skip as usize)
            .with_batch_size(batch_size);
        let reader = guarded(path, || builder.build())?;
        Ok(Self {
            input: part.input,
            path: path.clone(),
            schema: input.schema.clone(),
            file_rows: input.rows,
            at: part.start,
            reader,
            pending: None,
        })
    }

    /// The next `wanted` rows, exactly. At the file's last row, makes sure that there are no more.
    fn take(&mut self, wanted: usize) -> Result<RecordBatch, Error> {
        let mut pieces = Vec::new();
        let mut missing = wanted;
        while missing > 0 {
            let Some(piece) = self.read()? else {
                let found = self.at + (wanted - missing) as u64;
                return Err(self.row_count(found));
            };
            let used = piece.num_rows().min(missing);
            if used < piece.num_rows() {
                self.pending = Some(piece.slice(used, piece.num_rows() - used));
            }
            pieces.push(piece.slice(0, used));
            missing -= used;
        }
        self.at += wanted as u64;
        if self.at == self.file_rows
            && let Some(extra) = self.read()?
        {
            return Err(self.row_count(self.at + extra.num_rows() as u64));
        }
        match pieces.len() {
            1 => Ok(pieces.swap_remove(0)),
            _ => concat_batches(&self.schema, &pieces)
                .map_err(|source| Error::Arrow { action: "join two batches", source }),
        }
    }

    fn read(&mut self) -> Result<Option<RecordBatch>, Error> {
        if let Some(pending) = self.pending.take() {
            return Ok(Some(pending));
        }
        guarded(&self.path, || self.reader.next().transpose())
    }

    fn row_count(&self, found: u64) -> Error {
        Error::RowCount { path: self.path.clone(), expected: self.file_rows, found }
    }
}
