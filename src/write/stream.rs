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
    /// Of which table the first row of a part is, and which row of it; of what came as a stream
    /// nobody says.
    parts: Vec<(PathBuf, u64)>,
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
    /// Values that were declared to be text and are null in the stream: they are not UTF-8.
    pub no_text: u64,
}

impl StreamWriter {
    /// Writes to `sink` what `rows` says: of `parts`, each told by its table and its first row there;
    /// or, where there are none, of the batches of a stream, each as one again.
    pub fn new(sink: StreamSink, rows: OutputRows, parts: Vec<(PathBuf, u64)>) -> Self {
        Self { sink, rows, parts, open: Vec::new(), done: Streamed::default() }
    }
}

impl Writer for StreamWriter {
    type Done = Streamed;

    fn write(&mut self, batch: &EncodedBatch) -> Result<u64, Error> {
        let before = self.done.rows;
        let position = batch.position;
        let place = |row| match self.parts.get(position.part) {
            Some((path, first)) => (path.clone(), first + position.offset + row as u64),
            None => ("stdin".into(), before + row as u64),
        };
        let Filled { rows, failed } = self.rows.fill(batch, &mut self.done.statuses, place)?;
        self.done.rows += batch.given().num_rows() as u64;
        if !self.parts.is_empty() {
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
        let no_text = self.sink.finish()?;
        Ok(Streamed { no_text, ..self.done })
    }
}
