//! Part files of row groups that were encoded elsewhere, column by column.
//!
//! For who encodes several columns at once. Files are laid out, published and sealed as those of
//! `ParquetSink` are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::KeyValue;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnDescPtr;

use super::Published;
use super::parquet::{ABOUT_KEY, PartOptions, properties, write_error};
use super::seal::{BLANK, SEAL_KEY, SealedFile};
use crate::error::Error;
use crate::files;
use crate::travel::travel_writer;

/// A column of a row group.
pub enum EncodedColumn {
    /// By Parquet's writer of Arrow arrays.
    Arrow(ArrowColumnChunk),
    /// Its bytes, offsets counted from their start.
    Bytes(Vec<u8>, ColumnCloseResult),
}

/// A part file that is being written.
pub struct GroupsFile {
    /// The final path.
    done: PathBuf,
    /// `None` once it is published.
    writer: Option<SerializedFileWriter<SealedFile>>,
    rows: u64,
}

impl GroupsFile {
    /// Opens a part of `dir`, with the key-value metadata of the input; and what makes the column
    /// writers of its row groups.
    pub fn create(
        dir: &Path,
        file_name: &str,
        options: &PartOptions,
        metadata: &[KeyValue],
    ) -> Result<(Self, ArrowRowGroupWriterFactory), Error> {
        let done = dir.join(file_name);
        let temporary = files::temporary(&done);
        let file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
        let PartOptions { schema, declared, input, metadata: own } = options;
        let pairs = Some([metadata, own].concat());
        let settings = properties(declared).into_builder().set_key_value_metadata(pairs).build();
        let made = travel_writer(declared, input, settings)
            .and_then(|settings| {
                ArrowWriter::try_new_with_options(SealedFile::new(file), schema.clone(), settings)
            })
            .and_then(ArrowWriter::into_serialized_writer);
        let (writer, factory) = made.map_err(|error| write_error(&done, error))?;
        Ok((Self { done, writer: Some(writer), rows: 0 }, factory))
    }

    /// A leaf column as the file has it.
    pub fn column(&self, leaf: usize) -> ColumnDescPtr {
        let writer = self.writer.as_ref().expect("publishing consumes the file");
        writer.schema_descr().column(leaf)
    }

    /// Appends a row group of so many rows, a column a leaf, in order.
    pub fn append(&mut self, rows: u64, columns: Vec<EncodedColumn>) -> Result<(), Error> {
        let writer = self.writer.as_mut().expect("publishing consumes the file");
        let written = writer.next_row_group().and_then(|mut group| {
            for column in columns {
                match column {
                    EncodedColumn::Arrow(chunk) => chunk.append_to_row_group(&mut group)?,
                    EncodedColumn::Bytes(bytes, close) => {
                        group.append_column(&Bytes::from(bytes), close)?;
                    }
                }
            }
            group.close().map(drop)
        });
        self.rows += rows;
        written.map_err(|error| write_error(&self.done, error))
    }

    /// Publishes the part: see `Sink::publish`.
    pub fn publish(mut self, about: String) -> Result<Published, Error> {
        let mut writer = self.writer.take().expect("publishing consumes the file");
        writer.append_key_value_metadata(KeyValue::new(ABOUT_KEY.to_owned(), about));
        writer.append_key_value_metadata(KeyValue::new(SEAL_KEY.to_owned(), BLANK.to_owned()));
        // The rows go out, and what is left is the footer, with the seal in it.
        let temporary = files::temporary(&self.done);
        writer.flush().map_err(Error::io("write", &temporary))?;
        writer.inner_mut().hold();
        let held = writer.into_inner();
        let sealed = held.map_err(|error| write_error(&self.done, error))?.finish();
        let (file, bytes, sha256) = sealed.map_err(Error::io("write", temporary))?;
        files::publish(file, &self.done)?;
        Ok(Published { rows: self.rows, bytes, sha256 })
    }
}

impl Drop for GroupsFile {
    /// A part that was not published leaves nothing behind.
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            // Best effort: what is left is hidden and is overwritten by the next run.
            let _ = fs::remove_file(files::temporary(&self.done));
        }
    }
}
