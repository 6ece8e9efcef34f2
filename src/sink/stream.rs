//! An Arrow IPC stream of the output's rows, for whoever reads it from a pipe.
//!
//! Columns have the types that the table declares, whatever they travelled as. Arrow's text is
//! UTF-8: what is none is null there, and counted.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;

use crate::error::Error;
use crate::travel::arrived;

/// Writes one stream.
pub struct StreamSink {
    name: PathBuf,
    declared: SchemaRef,
    writer: StreamWriter<BufWriter<Box<dyn Write + Send>>>,
    no_text: u64,
}

impl StreamSink {
    /// Begins a stream of batches with the `declared` columns. `name` is what messages call it.
    ///
    /// # Errors
    /// `Io` where it cannot be written.
    pub fn new(
        name: PathBuf,
        to: Box<dyn Write + Send>,
        declared: SchemaRef,
    ) -> Result<Self, Error> {
        // Schema and first batch leave together: some readers wait for both.
        let writer = StreamWriter::try_new(BufWriter::new(to), &declared);
        let writer = writer.map_err(|error| refused(&name, error))?;
        Ok(Self { name, declared, writer, no_text: 0 })
    }

    /// Writes a batch, and gives it out.
    ///
    /// # Errors
    /// `Io`; `Arrow` for a column that its declared type cannot hold.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        let mut columns = Vec::with_capacity(rows.num_columns());
        for (column, field) in rows.columns().iter().zip(self.declared.fields()) {
            let given = arrived(column, field.data_type())
                .map_err(|source| Error::Arrow { action: "give a column on", source })?;
            self.no_text += given.null_count().saturating_sub(column.null_count()) as u64;
            columns.push(given);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.declared.clone(), columns, &options);
        let written = rows.and_then(|rows| {
            self.writer.write(&rows)?;
            self.writer.flush()
        });
        written.map_err(|error| refused(&self.name, error))
    }

    /// Writes the end marker. Returns how many values were no text where some was declared.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(&mut self) -> Result<u64, Error> {
        let finished = self.writer.finish().and_then(|()| self.writer.flush());
        finished.map_err(|error| refused(&self.name, error))?;
        Ok(self.no_text)
    }
}

fn refused(name: &PathBuf, error: ArrowError) -> Error {
    match error {
        ArrowError::IoError(_, source) => Error::io("write to", name)(source),
        source => Error::Arrow { action: "write an Arrow stream", source },
    }
}
