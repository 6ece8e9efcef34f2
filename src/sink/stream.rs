//! An Arrow IPC stream of the output's rows, for whoever reads it from a pipe.
//!
//! Columns have the types that the table declares, whatever they travelled as.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use arrow::array::{RecordBatch, RecordBatchOptions};
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
        Ok(Self { name, declared, writer })
    }

    /// Writes a batch, and gives it out.
    ///
    /// # Errors
    /// `Io`; `Arrow` for a value that its declared type cannot hold, as text that is not UTF-8.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        let columns = rows.columns().iter().zip(self.declared.fields());
        let columns = columns.map(|(column, field)| {
            arrived(column, field.data_type()).map_err(|source| Error::Stream {
                path: self.name.clone(),
                problem: format!("column \"{}\" does not fit its type: {source}", field.name()),
            })
        });
        let columns = columns.collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.declared.clone(), columns, &options);
        let written = rows.and_then(|rows| {
            self.writer.write(&rows)?;
            self.writer.flush()
        });
        written.map_err(|error| refused(&self.name, error))
    }

    /// Writes the end marker.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(&mut self) -> Result<(), Error> {
        let finished = self.writer.finish().and_then(|()| self.writer.flush());
        finished.map_err(|error| refused(&self.name, error))
    }
}

fn refused(name: &PathBuf, error: ArrowError) -> Error {
    match error {
        ArrowError::IoError(_, source) => Error::io("write to", name)(source),
        source => Error::Arrow { action: "write an Arrow stream", source },
    }
}
