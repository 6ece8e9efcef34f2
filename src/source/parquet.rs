//! Parquet files as a source: finding them, opening them, reading parts of them.
//!
//! A part's batches start at the part's first row whatever the file's row groups are, so that a
//! part read alone gives the batches that it gives in a whole run.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::KeyValue;

use super::{Part, Source};
use crate::batch::{Position, RowBatch};
use crate::error::{Cause, Error};

/// One input file, opened once to learn what it holds.
#[derive(Debug, Clone)]
pub struct InputFile {
    pub path: PathBuf,
    pub rows: u64,
    pub bytes: u64,
    /// Time of the last change, seconds and nanoseconds since 1970; compared, never interpreted.
    pub modified: String,
    /// Columns with their Arrow types, as the writer declared them.
    pub schema: SchemaRef,
    /// The file's own key-value metadata, less the encoded Arrow schema.
    pub metadata: Vec<KeyValue>,
}

impl InputFile {
    /// Reads a file's footer.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let builder = reader(path)?;
        let footer = builder.metadata().file_metadata();
        let rows = u64::try_from(footer.num_rows()).map_err(|_| Error::Parquet {
            path: path.to_owned(),
            source: format!("its footer claims {} rows", footer.num_rows()).into(),
        })?;
        let file = std::fs::metadata(path).map_err(Error::io("read", path))?;
        let metadata = footer.key_value_metadata().cloned().unwrap_or_default();
        Ok(Self {
            path: path.to_owned(),
            rows,
            bytes: file.len(),
            modified: format!("modified {}.{:09}", file.mtime(), file.mtime_nsec()),
            schema: builder.schema().clone(),
            metadata: metadata.into_iter().filter(|pair| pair.key != "ARROW:schema").collect(),
        })
    }
}

/// The input files that a path stands for, in the order in which they are read.
///
/// A file is itself, a folder its `*.parquet` by name (hidden files and those that begin with an
/// underscore are not data), a path with `*`, `?` or `[` a glob.
pub fn find_files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let pattern = path.to_string_lossy();
    let mut files = if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(Error::io("list", path))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        paths.collect::<Result<Vec<_>, _>>().map_err(Error::io("list", path))?
    } else if pattern.contains(['*', '?', '[']) {
        let found = glob::glob(&pattern).map_err(|error| Error::Setting {
            key: "source.parquet.path".into(),
            problem: format!("\"{pattern}\" is not a glob: {error}"),
        })?;
        found.collect::<Result<Vec<_>, _>>().map_err(|error| {
            let path = error.path().to_owned();
            Error::Io { action: "list", path, source: error.into() }
        })?
    } else {
        return Err(Error::NotFound {
            what: "input",
            path: path.to_owned(),
            hint: ": give a file, a folder of Parquet files or a glob".into(),
        });
    };
    files.retain(|file| file.is_file() && is_data(file));
    files.sort();
    if files.is_empty() {
        return Err(Error::NoInput { path: path.to_owned() });
    }
    Ok(files)
}

fn is_data(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".parquet") && !name.starts_with(['.', '_'])
}

/// Whether a file begins and ends as a Parquet file does.
pub fn has_parquet_magic(path: &Path) -> Result<bool, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let bytes = file.metadata().map_err(Error::io("read", path))?.len();
    if bytes < 12 {
        return Ok(false);
    }
    let mut ends = [0; 8];
    let (head, tail) = ends.split_at_mut(4);
    file.read_exact(head).map_err(Error::io("read", path))?;
    file.seek(SeekFrom::End(-4)).map_err(Error::io("read", path))?;
    file.read_exact(tail).map_err(Error::io("read", path))?;
    Ok(head == b"PAR1" && tail == b"PAR1")
}

fn reader(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, Error> {
    if !has_parquet_magic(path)? {
        return Err(Error::Parquet {
            path: path.to_owned(),
            source: "it does not begin and end with \"PAR1\": not a Parquet file, or a cut one"
                .into(),
        });
    }
    let file = File::open(path).map_err(Error::io("open", path))?;
    guarded(path, || ParquetRecordBatchReaderBuilder::try_new(file))
}

/// Calls the Parquet library on a file from strangers: a panic there is an error of that file.
fn guarded<T, E: Into<Cause>>(
    path: &Path,
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, Error> {
    let source = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.into(),
        Err(_) => "the Parquet reader panicked on it: the file is damaged".into(),
    };
    Err(Error::Parquet { path: path.to_owned(), source })
}

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
