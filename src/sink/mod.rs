//! Where rows go: a `Sink` takes the batches of one part after another and publishes each part
//! whole; a `StreamSink` gives them on.
//!
//! A sink knows nothing of the columns' meaning; `columns` has filled them.

mod groups;
mod parquet;
mod seal;
mod stream;

pub use groups::{EncodedColumn, GroupsFile};
pub use parquet::{ParquetSink, PartOptions, ROW_GROUP_BYTES, read_published};
pub use stream::StreamSink;

use ::parquet::file::metadata::KeyValue;
use arrow::array::RecordBatch;

use crate::error::Error;

/// Takes output rows part by part.
pub trait Sink {
    /// Opens the part that the next batches belong to, with the key-value metadata of the input
    /// that it is cut from.
    fn begin(&mut self, file_name: &str, metadata: &[KeyValue]) -> Result<(), Error>;

    /// Adds rows to the open part.
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Error>;

    /// Publishes the open part: under its final name it is complete and on disk, or absent. The
    /// file says `about` of itself, for [`read_published`].
    fn publish(&mut self, about: String) -> Result<Published, Error>;
}

/// A part file that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub rows: u64,
    pub bytes: u64,
    /// Of the whole file, in hexadecimal.
    pub sha256: String,
}
