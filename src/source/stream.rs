//! Rows from an Arrow IPC stream, as pyarrow, polars, DuckDB, Spark and others write it to a pipe.
//!
//! A stream is read once, from its first byte to its end marker: without the marker its writer
//! died, and what came is not all. Each of its batches is a part, so that what is made of it can be
//! given on as the batch that it was. Columns stay as they came.

use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;

use super::Source;
use crate::batch::{Position, RowBatch};
use crate::contain::contain;
use crate::error::Error;

/// The end of a stream: a continuation, and a message of no bytes.
///
/// Source: "Encapsulated message format" and "IPC Streaming Format" of Arrow's columnar format.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// A stream whose schema has been read.
pub struct ArrowStream<R> {
    name: PathBuf,
    reader: StreamReader<Marked<R>>,
}

impl<R: Read> ArrowStream<R> {
    /// Reads the schema. `name` is what messages call the stream.
    ///
    /// # Errors
    /// `Stream` for what is no Arrow stream, `Io` for what cannot be read.
    pub fn open(name: &Path, from: R) -> Result<Self, Error> {
        let reader = guarded(name, || StreamReader::try_new(Marked::new(from), None))?;
        Ok(Self { name: name.to_owned(), reader })
    }

    /// The columns of every batch.
    pub fn schema(&self) -> SchemaRef {
        self.reader.schema()
    }

    /// The next batch, or `None` after the end marker.
    ///
    /// # Errors
    /// `Stream` for a batch that is damaged and for a stream that ends before its marker.
    pub fn next_batch(&mut self) -> Result<Option<RecordBatch>, Error> {
        let reader = &mut self.reader;
        let batch = guarded(&self.name, || reader.next().transpose())?;
        if batch.is_some() {
            // Its own last bytes, whatever they are, are no marker.
            self.reader.get_mut().last = [0; END.len()];
        }
        if batch.is_none() && self.reader.get_ref().last != END {
            let problem = "it ends without Arrow's end marker: whoever wrote it did not come to its \
                           end";
            return Err(Error::Stream { path: self.name.clone(), problem: problem.into() });
        }
        Ok(batch)
    }
}

/// Reads, with a panic on a stranger's bytes as an error.
fn guarded<T>(name: &Path, read: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, Error> {
    let problem = match contain(read) {
        Some(Ok(read)) => return Ok(read),
        Some(Err(ArrowError::IoError(_, source))) if source.raw_os_error().is_some() => {
            return Err(Error::io("read", name)(source));
        }
        Some(Err(error)) => error.to_string(),
        None => "it is damaged".to_owned(),
    };
    Err(Error::Stream { path: name.to_owned(), problem })
}

/// Remembers the last bytes that were read.
struct Marked<R> {
    from: R,
    last: [u8; END.len()],
}

impl<R> Marked<R> {
    fn new(from: R) -> Self {
        Self { from, last: [0; END.len()] }
    }
}

impl<R: Read> Read for Marked<R> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(to)?;
        let kept = n.min(END.len());
        self.last.rotate_left(kept);
        self.last[END.len() - kept..].copy_from_slice(&to[n - kept..n]);
        Ok(n)
    }
}

/// The rows of a stream, in batches of a size and those of one of the stream's together.
pub struct StreamSource<R> {
    stream: ArrowStream<R>,
    batch_size: usize,
    /// Rows that may still be read.
    left: u64,
    /// The next of the stream's batches.
    part: usize,
    /// What of the one before was not given out yet.
    pending: VecDeque<RowBatch>,
}

impl<R> StreamSource<R> {
    /// The first rows of a stream: at most `limit`, where there is one.
    pub fn new(stream: ArrowStream<R>, batch_size: usize, limit: Option<u64>) -> Self {
        let left = limit.unwrap_or(u64::MAX);
        Self { stream, batch_size, left, part: 0, pending: VecDeque::new() }
    }
}

impl<R: Read + Send> Source for StreamSource<R> {
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
        if let Some(batch) = self.pending.pop_front() {
            return Ok(Some(batch));
        }
        if self.left == 0 {
            return Ok(None);
        }
        let Some(batch) = self.stream.next_batch()? else { return Ok(None) };
        let rows = batch.num_rows().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= rows as u64;
        let part = self.part;
        self.part += 1;
        // One of no rows is given on too.
        for start in (0..rows.max(1)).step_by(self.batch_size) {
            let n = (rows - start).min(self.batch_size);
            let position = Position { part, offset: start as u64, last: start + n == rows };
            self.pending.push_back(RowBatch { position, rows: batch.slice(start, n) });
        }
        Ok(self.pending.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::UInt32Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::ipc::writer::StreamWriter;

    use super::*;

    fn stream(batches: &[std::ops::Range<u32>]) -> Vec<u8> {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::UInt32, false)]));
        let mut writer = StreamWriter::try_new(Vec::new(), &schema).expect("a vector");
        for values in batches {
            let values = Arc::new(UInt32Array::from_iter_values(values.clone()));
            let batch = RecordBatch::try_new(schema.clone(), vec![values]).expect("one column");
            writer.write(&batch).expect("written");
        }
        writer.into_inner().expect("ended")
    }

    fn positions(
        bytes: &[u8],
        limit: Option<u64>,
    ) -> Result<Vec<(usize, u64, usize, bool)>, Error> {
        let stream = ArrowStream::open(Path::new("stdin"), bytes)?;
        let mut source = StreamSource::new(stream, 2, limit);
        let mut all = Vec::new();
        while let Some(RowBatch { position, rows }) = source.next_batch()? {
            all.push((position.part, position.offset, rows.num_rows(), position.last));
        }
        Ok(all)
    }

    #[test]
    fn batches_are_cut_and_stay_together_and_a_limit_ends_one() {
        let bytes = stream(&[0..3, 0..0, 3..5]);
        let all = positions(&bytes, None).expect("whole");
        let first = [(0, 0, 2, false), (0, 2, 1, true), (1, 0, 0, true)];
        assert_eq!(all, [&first[..], &[(2, 0, 2, true)]].concat());
        let some = positions(&bytes, Some(4)).expect("whole");
        assert_eq!(some, [&first[..], &[(2, 0, 1, true)]].concat());
    }

    #[test]
    fn a_stream_that_is_cut_anywhere_is_an_error() {
        let bytes = stream(&[0..3, 3..5]);
        assert!(positions(&bytes, None).is_ok());
        for end in 0..bytes.len() {
            let cut = positions(&bytes[..end], None);
            assert!(matches!(cut, Err(Error::Stream { .. })), "{end} of {}", bytes.len());
        }
    }
}
