//! Parquet part files, each published whole (see `files`) and sealed (see `seal`).
//!
//! What a file holds (columns, provenance) is given; only how it is laid out is decided here.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::Length;
use parquet::schema::types::{ColumnPath, SchemaDescPtr};

use super::seal::{self, BLANK, SEAL_KEY, SealedFile};
use super::{Published, Sink};
use crate::contain::contain;
use crate::error::Error;
use crate::files;
use crate::travel::travel_writer;
use crate::watched::WatchedFile;

/// A row group is closed once its buffered pages reach this size: large enough to compress and
/// scan well, small enough that a writer holds no more than this.
pub const ROW_GROUP_BYTES: usize = 64 << 20;

/// The key under which a part says what it is.
pub(super) const ABOUT_KEY: &str = "clipmill.part";

/// What every part of a run has in common.
#[derive(Debug, Clone)]
pub struct PartOptions {
    /// The columns of the batches that are written.
    pub schema: SchemaRef,
    /// The columns as the file declares them.
    pub declared: SchemaRef,
    /// The input's columns, whose annotations are kept.
    pub input: SchemaDescPtr,
    /// Written as the file's key-value metadata.
    pub metadata: Vec<KeyValue>,
}

/// Writes part files into one folder.
pub struct ParquetSink {
    dir: PathBuf,
    options: PartOptions,
    properties: WriterProperties,
    open: Option<OpenPart>,
}

struct OpenPart {
    /// The final path.
    done: PathBuf,
    writer: ArrowWriter<SealedFile>,
    rows: u64,
}

impl ParquetSink {
    /// A sink into `dir`, which is there.
    pub fn new(dir: &Path, options: PartOptions) -> Self {
        let properties = properties(&options.declared);
        Self { dir: dir.to_owned(), options, properties, open: None }
    }

    fn open_part(&mut self) -> &mut OpenPart {
        self.open.as_mut().expect("run begins a part before it writes to it")
    }
}

impl Sink for ParquetSink {
    fn begin(&mut self, file_name: &str, metadata: &[KeyValue]) -> Result<(), Error> {
        let done = self.dir.join(file_name);
        let temporary = files::temporary(&done);
        let file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
        let PartOptions { schema, declared, input, metadata: own } = &self.options;
        let metadata = [metadata, own].concat();
        let properties = self.properties.clone().into_builder();
        let properties = properties.set_key_value_metadata(Some(metadata)).build();
        let file = SealedFile::new(file);
        let writer = travel_writer(declared, input, properties)
            .and_then(|options| ArrowWriter::try_new_with_options(file, schema.clone(), options))
            .map_err(|error| write_error(&done, error))?;
        self.open = Some(OpenPart { done, writer, rows: 0 });
        Ok(())
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        let part = self.open_part();
        part.rows += rows.num_rows() as u64;
        let written = part.writer.write(rows).and_then(|()| {
            if part.writer.in_progress_size() >= ROW_GROUP_BYTES {
                part.writer.flush()
            } else {
                Ok(())
            }
        });
        written.map_err(|error| write_error(&part.done, error))
    }

    fn publish(&mut self, about: String) -> Result<Published, Error> {
        let part = self.open.take().expect("run begins a part before it publishes it");
        let OpenPart { done, mut writer, rows } = part;
        // The rows go out, and what is left is the footer, with the seal in it.
        let written = writer.flush().and_then(|()| {
            writer.append_key_value_metadata(KeyValue::new(ABOUT_KEY.to_owned(), about));
            writer.append_key_value_metadata(KeyValue::new(SEAL_KEY.to_owned(), BLANK.to_owned()));
            writer.inner_mut().hold();
            writer.into_inner()
        });
        let sealed = written.map_err(|error| write_error(&done, error))?.finish();
        let (file, bytes, sha256) = sealed.map_err(Error::io("write", files::temporary(&done)))?;
        files::publish(file, &done)?;
        Ok(Published { rows, bytes, sha256 })
    }
}

/// What a part file says of itself, or `None` if it is no whole part of clipmill's: cut, changed,
/// or somebody else's. Reads all of it.
pub fn read_published(path: &Path) -> Result<Option<(String, Published)>, Error> {
    let file = WatchedFile::open(path).map_err(Error::io("open", path))?;
    let Some(sha256) = seal::check(&mut file.reader()).map_err(Error::io("read", path))? else {
        return Ok(None);
    };
    let bytes = file.len();
    // The seal fits, so the footer is ours.
    let read = contain(|| ParquetMetaDataReader::new().parse_and_finish(&file));
    let Some(Ok(footer)) = read else { return Ok(None) };
    let footer = footer.file_metadata();
    let mut pairs = footer.key_value_metadata().into_iter().flatten();
    let about = pairs.find(|pair| pair.key == ABOUT_KEY).and_then(|pair| pair.value.clone());
    let rows = footer.num_rows().max(0) as u64;
    Ok(about.map(|about| (about, Published { rows, bytes, sha256 })))
}

impl Drop for ParquetSink {
    /// A part that was not published leaves nothing behind.
    fn drop(&mut self) {
        if let Some(part) = self.open.take() {
            drop(part.writer);
            // Best effort: what is left is hidden and is overwritten by the next run.
            let _ = fs::remove_file(files::temporary(&part.done));
        }
    }
}

pub(super) fn properties(schema: &SchemaRef) -> WriterProperties {
    let zstd = ZstdLevel::try_new(3).expect("3 is a zstd level");
    // Page-level statistics are what the page index holds.
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(zstd))
        .set_statistics_enabled(EnabledStatistics::Page);
    for field in schema.fields() {
        let (mut leaf, mut data_type) = (vec![field.name().clone()], field.data_type());
        while let DataType::FixedSizeList(element, _) = data_type {
            leaf.extend(["list".to_owned(), element.name().clone()]);
            data_type = element.data_type();
        }
        if leaf.len() > 1 && data_type.is_floating() {
            // Every float of an embedding is new: a dictionary only costs time and space.
            let column = ColumnPath::new(leaf);
            builder = builder
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_statistics_enabled(column, EnabledStatistics::None);
        }
    }
    builder.build()
}

pub(super) fn write_error(path: &Path, error: parquet::errors::ParquetError) -> Error {
    use parquet::errors::ParquetError;
    let source = match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(io) => *io,
            Err(other) => std::io::Error::other(other),
        },
        other => std::io::Error::other(other),
    };
    Error::Io { action: "write", path: path.to_owned(), source }
}
