//! A stream of batches: what the rows become is given on as soon as it is there.
//!
//! Nothing stays of it here, and nobody can go on with it: it is whole when it has its end marker.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use super::{Filled, OutputRows, Writer};
use crate::batch::EncodedBatch;
use crate::error::Error;
use crate::sink::StreamSink;

/// Writes a stream.
pub struct StreamWriter {
    sink: StreamSink,
    rows: OutputRows,
    /// What messages call the input.
    input: PathBuf,
    /// Whether batches of one part are one batch of the stream.
    joins: bool,
    /// Those of the open part.
    open: Vec<RecordBatch>,
    done: Streamed,
}

/// What went through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streamed {
    pub rows: u64,
    /// Rows by status.
    pub statuses: BTreeMap<String, u64>,
}

impl StreamWriter {
    /// Writes to `sink` what `rows` says. With `joins`, the batches of a part are written as one:
    /// for parts that were a stream's batches.
    pub fn new(sink: StreamSink, rows: OutputRows, input: PathBuf, joins: bool) -> Self {
        Self { sink, rows, input, joins, open: Vec::new(), done: Streamed::default() }
    }
}

impl Writer for StreamWriter {
    type Done = Streamed;

    fn write(&mut self, batch: &EncodedBatch) -> Result<u64, Error> {
        let before = self.done.rows;
        let place = |row| (self.input.clone(), before + row as u64);
        let Filled { rows, failed } = self.rows.fill(batch, &mut self.done.statuses, place)?;
        self.done.rows += batch.given().num_rows() as u64;
        if !self.joins {
            self.sink.write(&rows)?;
        } else {
            self.open.push(rows);
            if batch.position.last {
                let joined = match self.open.as_slice() {
                    [only] => only.clone(),
                    all => concat_batches(&self.rows.schema, all)
                        .map_err(|source| Error::Arrow { action: "join two batches", source })?,
                };
                self.open.clear();
                self.sink.write(&joined)?;
            }
        }
        Ok(failed)
    }

    /// Never while it is asked: nobody here knows how many more rows there are.
    fn is_complete(&self) -> bool {
        false
    }

    fn interrupted(&self, signal: i32) -> Error {
        Error::StreamInterrupted { signal, rows: self.done.rows }
    }

    /// Writes the end marker.
    fn complete(mut self) -> Result<Streamed, Error> {
        self.sink.finish()?;
        Ok(self.done)
    }
}
