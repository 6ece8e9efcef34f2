//! Parquet part files, each published whole (see `files`).
//!
//! What a file holds (columns, provenance) is given; only how it is laid out is decided here.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{Published, Sink};
use crate::digest::DigestedFile;
use crate::error::Error;
use crate::files;

/// A row group is closed once its buffered pages reach this size: large enough to compress and
/// scan well, small enough that a writer holds no more than this.
pub const ROW_GROUP_BYTES: usize = 64 << 20;

/// What every part of a run has in common.
#[derive(Debug, Clone)]
pub struct PartOptions {
    pub schema: SchemaRef,
    /// Written as the file's key-value metadata.
    pub metadata: Vec<KeyValue>,
}

/// Writes part files into one folder.
pub struct ParquetSink {
    dir: PathBuf,
    schema: SchemaRef,
    properties: WriterProperties,
    metadata: Vec<KeyValue>,
    open: Option<OpenPart>,
}

struct OpenPart {
    /// The final path.
    done: PathBuf,
    writer: ArrowWriter<DigestedFile>,
    rows: u64,
}

impl ParquetSink {
    /// A sink into `dir`, which is made if it is not there and cleared of what a killed run left
    /// under temporary names.
    pub fn create(dir: &Path, options: PartOptions) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create the output folder", dir))?;
        files::remove_leftovers(dir)?;
        let PartOptions { schema, metadata } = options;
        let properties = properties(&schema);
        Ok(Self { dir: dir.to_owned(), schema, properties, metadata, open: None })
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
        let metadata = [metadata, &self.metadata].concat();
        let properties = self.properties.clone().into_builder();
        let properties = Some(properties.set_key_value_metadata(Some(metadata)).build());
        let writer = ArrowWriter::try_new(DigestedFile::new(file), self.schema.clone(), properties)
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

    fn publish(&mut self) -> Result<Published, Error> {
        let part = self.open.take().expect("run begins a part before it publishes it");
        let OpenPart { done, writer, rows } = part;
        let written = writer.into_inner().map_err(|error| write_error(&done, error))?;
        let (file, sha256) = written.finish();
        let bytes = file.metadata().map_err(Error::io("read", &done))?.len();
        files::publish(file, &done)?;
        Ok(Published { rows, bytes, sha256 })
    }
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

fn properties(schema: &SchemaRef) -> WriterProperties {
    let zstd = ZstdLevel::try_new(3).expect("3 is a zstd level");
    // Page-level statistics are what the page index holds.
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(zstd))
        .set_statistics_enabled(EnabledStatistics::Page);
    for field in schema.fields() {
        if let DataType::FixedSizeList(element, _) = field.data_type()
            && element.data_type().is_floating()
        {
            // Every float of an embedding is new: a dictionary only costs time and space.
            let leaf = [field.name().as_str(), "list", element.name()].map(str::to_owned);
            let column = ColumnPath::new(leaf.to_vec());
            builder = builder
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_statistics_enabled(column, EnabledStatistics::None);
        }
    }
    builder.build()
}

fn write_error(path: &Path, error: parquet::errors::ParquetError) -> Error {
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
