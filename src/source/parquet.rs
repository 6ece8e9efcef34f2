//! Reading parts of Parquet files, in order.
//!
//! A part's batches start at the part's first row whatever the file's row groups are, so that a
//! part read alone gives the batches that it gives in a whole run. They hold strings as views of
//! their bytes (see `travel`), and no more than a number of bytes, whatever the pages expand to.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use parquet::file::metadata::ParquetMetaData;

use super::hive::with_partitions;
use super::input::{InputFile, Opened, guarded, will_read};
use super::pages::{Most, check_group};
use super::pieces::{MOST_ROWS as READ_AHEAD, row_ends, rows_per_read, rows_that_fit};
use super::{Part, Source};
use crate::batch::{Position, RowBatch};
use crate::error::Error;
use crate::watched::WatchedFile;

/// The bytes that the values of a batch may take together, each written out.
pub const BATCH_BYTES: u64 = 128 << 20;

/// What a row group may take. A page alone may take 2 GiB, by the format; good ones take a megabyte,
/// and where a value is an image, some hundred.
pub(super) const MOST: Most = Most { row_bytes: BATCH_BYTES, page_bytes: 2 << 30 };

/// Reads parts of Parquet files, in the order given.
pub struct ParquetSource {
    inputs: Arc<[InputFile]>,
    parts: VecDeque<Part>,
    batch_size: usize,
    open: Option<OpenFile>,
    /// Rows of the first part in `parts` that have been given out.
    given: u64,
}

impl ParquetSource {
    /// A source of `parts`, each cut from one of `inputs`, in batches of `batch_size` rows.
    pub fn new(inputs: impl Into<Arc<[InputFile]>>, parts: Vec<Part>, batch_size: usize) -> Self {
        let inputs = inputs.into();
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
        self.given += rows.num_rows() as u64;
        let last = self.given == part.rows;
        if last {
            // What was read is published as what the plan was made for.
            let open = self.open.as_ref().expect("it was read from");
            open.check_unchanged(&self.inputs[part.input])?;
            self.parts.pop_front();
            self.given = 0;
        }
        let rows = with_partitions(rows, &self.inputs[part.input])?;
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
    file: WatchedFile,
    footer: Arc<ParquetMetaData>,
    /// The first row group that was not tried yet, and its first row.
    untried: (usize, u64),
    reader: ParquetRecordBatchReader,
    pending: Option<RecordBatch>,
}

impl OpenFile {
    /// Opens a file at a part's first row. Row groups before it are not read.
    fn new(input: &InputFile, part: Part, batch_size: usize) -> Result<Self, Error> {
        let path = &input.path;
        let opened = Opened::new(path)?;
        opened.check_is(input)?;
        let file = opened.file.clone();
        let builder = opened.reader(path)?;
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
        let footer = builder.metadata().clone();
        let untried = (groups.start, part.start - skip);
        let schema = builder.schema().clone();
        let builder = builder
            .with_row_groups(groups.collect())
            .with_offset(skip as usize)
            .with_batch_size(rows_per_read(&footer, BATCH_BYTES).min(batch_size));
        let reader = guarded(path, || builder.build());
        let reader = reader.map_err(|error| file.explain(path, error))?;
        Ok(Self {
            input: part.input,
            path: path.clone(),
            schema,
            file_rows: input.rows,
            at: part.start,
            file,
            footer,
            untried,
            reader,
            pending: None,
        })
    }

    /// Makes sure that nobody has written to the file meanwhile.
    ///
    /// # Errors
    /// `InputChanged`.
    fn check_unchanged(&self, input: &InputFile) -> Result<(), Error> {
        match self.file.stamp().map_err(Error::io("read", &self.path))? {
            stamp if stamp == (input.bytes, input.modified) => Ok(()),
            _ => Err(Error::InputChanged { path: self.path.clone() }),
        }
    }

    /// Tries the row groups that hold the rows before `end`, before they are read.
    fn try_groups(&mut self, end: u64) -> Result<(), Error> {
        while self.untried.1 < end && self.untried.0 < self.footer.num_row_groups() {
            let (group, first) = self.untried;
            let file = Arc::new(self.file.clone());
            will_read(&file, self.footer.row_group(group).columns());
            let tried = guarded(&self.path, || check_group(&file, &self.footer, group, MOST));
            tried.map_err(|error| self.file.explain(&self.path, error))?;
            let rows = self.footer.row_group(group).num_rows().max(0) as u64;
            self.untried = (group + 1, first + rows);
        }
        Ok(())
    }

    /// The next `wanted` rows, or those of them that take [`BATCH_BYTES`]; one at least. At the
    /// file's last row, makes sure that there are no more.
    fn take(&mut self, wanted: usize) -> Result<RecordBatch, Error> {
        let mut pieces = Vec::new();
        let (mut missing, mut left) = (wanted, BATCH_BYTES);
        self.try_groups(self.at + wanted as u64 + READ_AHEAD)?;
        while missing > 0 {
            let Some(piece) = self.read()? else {
                let found = self.at + (wanted - missing) as u64;
                return Err(self.row_count(found));
            };
            let ends = row_ends(&piece);
            let fits = match rows_that_fit(&ends, left) {
                // The batch is full, unless there is nothing in it.
                1 if ends[1] > left && !pieces.is_empty() => 0,
                fits => fits,
            };
            let used = fits.min(missing);
            // One at least, for it may be what does not fit anywhere.
            self.check_sizes(&ends[..=used.max(1).min(piece.num_rows())], wanted - missing)?;
            if used < piece.num_rows() {
                self.pending = Some(piece.slice(used, piece.num_rows() - used));
            }
            pieces.push(piece.slice(0, used));
            missing -= used;
            left = left.saturating_sub(ends[used]);
            if fits < piece.num_rows() {
                break;
            }
        }
        self.at += (wanted - missing) as u64;
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

    /// Refuses a row that is larger than a batch may be: writing it takes several times its size.
    fn check_sizes(&self, ends: &[u64], before: usize) -> Result<(), Error> {
        let sizes = ends.windows(2).map(|ends| ends[1] - ends[0]);
        match sizes.enumerate().find(|(_, bytes)| *bytes > BATCH_BYTES) {
            None => Ok(()),
            Some((row, bytes)) => Err(Error::RowSize {
                path: self.path.clone(),
                row: self.at + (before + row) as u64,
                bytes,
                most: BATCH_BYTES,
            }),
        }
    }

    fn read(&mut self) -> Result<Option<RecordBatch>, Error> {
        if let Some(pending) = self.pending.take() {
            return Ok(Some(pending));
        }
        let read = guarded(&self.path, || self.reader.next().transpose());
        read.map_err(|error| self.file.explain(&self.path, error))
    }

    fn row_count(&self, found: u64) -> Error {
        Error::RowCount { path: self.path.clone(), expected: self.file_rows, found }
    }
}
