//! Parquet input files: found, opened, their columns' types settled. Nothing is read beyond the
//! footer; rows are `parquet`'s affair.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue, ParquetMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::SchemaDescPtr;

use super::beside::Beside;
use super::footer::check_footer;
use super::hive::Partition;
use super::remote;
use crate::contain::contain;
use crate::digest;
use crate::error::{Cause, Error};
use crate::store::is_url;
use crate::travel::travel_reader;
use crate::watched::WatchedFile;

/// One input file, opened once to learn what it holds.
#[derive(Debug, Clone)]
pub struct InputFile {
    pub path: PathBuf,
    pub rows: u64,
    /// Rows of each row group.
    pub groups: Vec<u64>,
    pub bytes: u64,
    /// When it was last written, in nanoseconds since 1970. Only ever compared for equality.
    pub modified: i128,
    /// SHA-256 of the footer, which holds the offset and size of every page's column chunk.
    pub footer: String,
    /// Columns with their Arrow types, as the writer declared them. What batches hold is
    /// `travel_schema` of these.
    pub schema: SchemaRef,
    /// The same as Parquet has them.
    pub parquet: SchemaDescPtr,
    /// The file's own key-value metadata, less the encoded Arrow schema and what clipmill says of
    /// the run that made it.
    pub metadata: Vec<KeyValue>,
    /// What clipmill says there of how the file came about, `clipmill.*`.
    pub made_by: Vec<KeyValue>,
    /// What the names of its folders say: the last columns of `schema`, which are not in `parquet`.
    pub partitions: Vec<Partition>,
    /// The shard that has its images, where one has.
    pub beside: Option<Beside>,
    /// What it has the content of, where that is not a file of its path.
    pub piped: Option<Piped>,
}

/// What came through a pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piped {
    /// What records call it.
    pub name: PathBuf,
    /// Of all that came, as it was put into a file.
    pub sha256: String,
}

impl InputFile {
    /// What is known of a table before any of it was read: its columns.
    ///
    /// # Errors
    /// `DuplicateColumn`; `Stream` for a type that Parquet cannot hold.
    pub fn of_columns(name: &Path, schema: SchemaRef) -> Result<Self, Error> {
        check_names(name, &schema)?;
        let parquet = ArrowSchemaConverter::new().convert(&schema);
        let parquet = parquet.map_err(|error| Error::Stream {
            path: name.to_owned(),
            problem: format!("it has a column of a type that Parquet has not: {error}"),
        })?;
        Ok(Self {
            path: name.to_owned(),
            rows: 0,
            groups: Vec::new(),
            bytes: 0,
            modified: 0,
            footer: String::new(),
            schema,
            parquet: Arc::new(parquet),
            metadata: Vec::new(),
            made_by: Vec::new(),
            partitions: Vec::new(),
            beside: None,
            piped: None,
        })
    }

    /// Reads a file's footer.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::of(path, Opened::new(path)?)
    }

    /// What a footer says that was read.
    pub(super) fn of(path: &Path, opened: Opened) -> Result<Self, Error> {
        let (bytes, modified) = opened.stamp;
        let footer_sha256 = opened.footer_sha256(path)?;
        let Opened { footer, declared, .. } = opened;
        let groups = footer.row_groups().iter().map(|group| group.num_rows() as u64).collect();
        let footer = footer.file_metadata();
        check_names(path, &declared)?;
        let metadata = footer.key_value_metadata().cloned().unwrap_or_default();
        Ok(Self {
            path: path.to_owned(),
            rows: footer.num_rows() as u64,
            groups,
            bytes,
            modified,
            footer: footer_sha256,
            schema: declared,
            parquet: footer.schema_descr_ptr(),
            made_by: metadata.iter().filter(|pair| is_provenance(pair)).cloned().collect(),
            metadata: metadata.into_iter().filter(is_own).collect(),
            partitions: Vec::new(),
            beside: None,
            piped: None,
        })
    }
}

impl InputFile {
    /// What changes when the file does, in words.
    pub fn fingerprint(&self) -> String {
        let Self { rows, bytes, modified, footer, .. } = self;
        if let Some(Piped { sha256, .. }) = &self.piped {
            return format!("{rows} rows, sha256 {sha256}");
        }
        let own =
            format!("{rows} rows, {bytes} bytes, written {modified} ns, footer sha256 {footer}");
        match &self.beside {
            None => own,
            Some(Beside { stamp: (bytes, modified), headers, .. }) => format!(
                "{own}; its shard {bytes} bytes, written {modified} ns, headers sha256 {headers}"
            ),
        }
    }

    /// The digest of the weights that made a column of embeddings, where clipmill made it.
    pub fn weights_sha256(&self, column: &str) -> Option<String> {
        Some(self.model_of(column)?["weights_sha256"].as_str()?.to_owned())
    }

    /// What the file says of the model that made a column, where clipmill made it.
    pub fn model_of(&self, column: &str) -> Option<serde_json::Value> {
        let said = |key: &str| -> Option<serde_json::Value> {
            let pair = self.made_by.iter().find(|pair| pair.key == key)?;
            serde_json::from_str(pair.value.as_deref()?).ok()
        };
        said("clipmill.model").or_else(|| {
            let models = said("clipmill.models")?;
            let of = |model: &&serde_json::Value| {
                model["columns"].as_array().is_some_and(|all| all.iter().any(|name| name == column))
            };
            models.as_object()?.values().find(of).cloned()
        })
    }

    /// What records call it: its path, however it was typed.
    pub fn full_name(&self) -> String {
        self.full_path().display().to_string()
    }

    /// The file's path, however it was typed.
    pub fn full_path(&self) -> PathBuf {
        if let Some(piped) = &self.piped {
            return piped.name.clone();
        }
        // It was there a moment ago.
        self.path.canonicalize().unwrap_or_else(|_| self.path.clone())
    }
}

/// Whether a pair of a file's metadata is the owner's, and stays true of what is made of the file.
fn is_own(pair: &KeyValue) -> bool {
    pair.key != "ARROW:schema" && !pair.key.starts_with("clipmill.")
}

/// Whether a pair says how a file came about, and not what that one file is.
fn is_provenance(pair: &KeyValue) -> bool {
    let of_the_file = ["clipmill.sha256", "clipmill.part"].contains(&pair.key.as_str());
    pair.key.starts_with("clipmill.") && !of_the_file
}

/// Two columns of one name cannot both be meant, and most readers refuse them.
fn check_names(path: &Path, schema: &SchemaRef) -> Result<(), Error> {
    let mut seen = HashSet::new();
    match schema.fields().iter().find(|field| !seen.insert(field.name())) {
        None => Ok(()),
        Some(field) => {
            Err(Error::DuplicateColumn { path: path.to_owned(), column: field.name().clone() })
        }
    }
}

/// The input files that a path stands for, in the order in which they are read.
///
/// A file is itself, a folder its `*.parquet` by name (hidden files and those that begin with an
/// underscore are not data), a path with `*`, `?` or `[` a glob; so are objects of a store.
pub fn find_files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    find_named(path, ".parquet")
}

/// The same of files whose names end otherwise.
pub fn find_named(path: &Path, end: &str) -> Result<Vec<PathBuf>, Error> {
    if is_url(path) {
        let found = remote::find(path, end)?;
        return Ok(found.into_iter().map(|entry| entry.path).collect());
    }
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
            key: "the source's path".into(),
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
            hint: match pattern.contains("://") {
                true => ": tables are read from disks and from s3://, gs:// and az://".to_owned(),
                false => format!(": give a file, a folder of {end} files or a glob"),
            },
        });
    };
    files.retain(|file| file.is_file() && is_data(file, end));
    files.sort();
    if files.is_empty() {
        return Err(Error::NoInput { path: path.to_owned() });
    }
    Ok(files)
}

pub(super) fn is_data(path: &Path, end: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(end) && !name.starts_with(['.', '_'])
}

/// Makes sure that a file begins and ends as a Parquet file does.
pub fn check_magic(path: &Path) -> Result<(), Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut ends = [0; 8];
    let (head, tail) = ends.split_at_mut(4);
    let read = file.read_exact(head).and_then(|()| file.seek(SeekFrom::End(-4)));
    match read.and_then(|_| file.read_exact(tail)) {
        Ok(()) if head == b"PAR1" && tail == b"PAR1" => Ok(()),
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            Err(Error::io("read", path)(error))
        }
        _ => Err(no_parquet(path)),
    }
}

/// What to say of a file that has no magic.
pub(super) fn no_parquet(path: &Path) -> Error {
    let source = "it does not begin and end with \"PAR1\": not a Parquet file, or a cut one";
    Error::Parquet { path: path.to_owned(), source: source.into() }
}

/// A Parquet file whose footer was read and makes sense.
pub(super) struct Opened {
    pub file: WatchedFile,
    /// Its length and when it was last written, before anything was read.
    pub stamp: (u64, i128),
    pub footer: Arc<ParquetMetaData>,
    /// The columns as the writer declared them.
    pub declared: SchemaRef,
}

impl Opened {
    pub fn new(path: &Path) -> Result<Self, Error> {
        if !is_url(path) {
            check_magic(path)?;
        }
        Self::of(path, WatchedFile::open(path).map_err(Error::io("open", path))?)
    }

    /// The same of a file that is open.
    pub fn of(path: &Path, file: WatchedFile) -> Result<Self, Error> {
        let stamp = file.first_stamp().map_err(Error::io("read", path))?;
        let load = || ArrowReaderMetadata::load(&file, ArrowReaderOptions::new());
        let metadata = guarded(path, load).map_err(|error| file.explain(path, error))?;
        guarded(path, || check_footer(metadata.metadata(), file.len()))?;
        let declared = kept_schema(path, &metadata)?;
        Ok(Self { file, stamp, footer: metadata.metadata().clone(), declared })
    }

    /// The digest of the footer: metadata, its length in 4 bytes, magic.
    pub fn footer_sha256(&self, path: &Path) -> Result<String, Error> {
        let bytes = self.file.len();
        let digest = || {
            // `check_magic` and the reader have seen that both are there.
            let tail = self.file.get_bytes(bytes.saturating_sub(8), 8)?;
            let length = tail.iter().take(4).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            let from = bytes.saturating_sub(length + 8);
            Ok::<_, ParquetError>(digest::of_bytes(
                &self.file.get_bytes(from, length as usize + 8)?,
            ))
        };
        guarded(path, digest).map_err(|error| self.file.explain(path, error))
    }

    /// Makes sure that this is still the file that the plan was made for.
    ///
    /// # Errors
    /// `InputChanged`.
    pub fn check_is(&self, input: &InputFile) -> Result<(), Error> {
        let path = &input.path;
        let is_same = self.stamp == (input.bytes, input.modified)
            && self.footer_sha256(path)? == input.footer;
        if is_same { Ok(()) } else { Err(Error::InputChanged { path: path.clone() }) }
    }

    /// A reader whose batches have the columns' `travel_schema`.
    pub fn reader(
        self,
        path: &Path,
    ) -> Result<ParquetRecordBatchReaderBuilder<WatchedFile>, Error> {
        let metadata = guarded(path, || travel_reader(&self.footer, &self.declared))?;
        Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(self.file, metadata))
    }
}

/// Says that column chunks will be read soon.
pub(super) fn will_read<'a>(
    file: &WatchedFile,
    chunks: impl IntoIterator<Item = &'a ColumnChunkMetaData>,
) {
    let mut ranges: Vec<_> = chunks.into_iter().map(ColumnChunkMetaData::byte_range).collect();
    ranges.sort_unstable();
    // Those that follow one another are fetched together.
    let follows = |a: &(u64, u64), b: &(u64, u64)| a.0 + a.1 == b.0;
    for run in ranges.chunk_by(follows) {
        if !file.will_read(run[0].0, run.iter().map(|(_, bytes)| bytes).sum()) {
            return;
        }
    }
}

/// The Arrow types that bring every value back as it is.
///
/// An INT96 (Spark's old timestamp) spans more than nanoseconds in 64 bits do, so it is read in
/// microseconds. A date is days in Parquet, whatever Arrow type the writer had.
fn kept_schema(path: &Path, metadata: &ArrowReaderMetadata) -> Result<SchemaRef, Error> {
    let (schema, parquet) = (metadata.schema(), metadata.parquet_schema());
    let mut fields: Vec<FieldRef> = schema.fields().to_vec();
    for (leaf, column) in parquet.columns().iter().enumerate() {
        let root = parquet.get_column_root_idx(leaf);
        let field = &fields[root];
        let kept = match (column.physical_type(), field.data_type()) {
            (Type::INT96, DataType::Timestamp(_, zone)) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            (Type::INT96, other) => {
                return Err(Error::ColumnType {
                    path: path.to_owned(),
                    column: field.name().clone(),
                    found: other.to_string(),
                    wanted: "INT96 timestamps are read at the top level alone".into(),
                });
            }
            (Type::INT32, DataType::Date64) => DataType::Date32,
            _ => continue,
        };
        fields[root] = Arc::new(field.as_ref().clone().with_data_type(kept));
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

/// Calls the Parquet library on a file from strangers: a panic there is an error of that file.
pub(super) fn guarded<T, E: Into<Cause>>(
    path: &Path,
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, Error> {
    let source = match contain(call) {
        Some(Ok(value)) => return Ok(value),
        Some(Err(error)) => error.into(),
        None => "the Parquet reader panicked on it: the file is damaged".into(),
    };
    Err(Error::Parquet { path: path.to_owned(), source })
}
