//! Where rows come from: a `Source` yields batches of a plan's parts, in order.
//!
//! A source reads tables only; the images that a row names are loaded by `images`.

mod asked;
mod beside;
mod elements;
mod find;
mod folder;
mod footer;
mod hive;
mod input;
mod inputs;
mod levels;
mod members;
mod pages;
mod parquet;
mod pieces;
pub mod preflight;
mod remote;
mod rows;
mod samples;
mod stream;
mod tar;
mod webdataset;

pub use asked::{AskedSource, Open};
pub use beside::{Beside, BesideSource, find_beside, shard_of};
pub use elements::ElementsSource;
pub use find::{find_all, find_shards};
pub use folder::{FolderSource, IMAGE as FOLDER_IMAGE, open_folder};
pub use hive::{Folders, Partition, partition};
pub use input::{InputFile, Piped, check_magic, find_files};
pub use inputs::{nearest, no_column, open_files, open_inputs};
pub use members::Members;
pub use parquet::{BATCH_BYTES, ParquetSource};
pub use rows::{GroupRows, Pages};
pub use stream::{ArrowStream, StreamSource};
pub use webdataset::{WebdatasetSource, open_shards};

use crate::batch::RowBatch;
use crate::error::Error;

/// Yields the rows of the parts that it was made for, in order, in batches that never straddle
/// two parts. Every part ends in a batch with `position.last`, an empty part too.
pub trait Source: Send {
    /// The next batch, or `None` after the last part's last batch.
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error>;
}

/// A run of rows of one input file that becomes one output file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Part {
    /// Position in the plan.
    pub index: usize,
    /// The number in its file's name: its position, but in an output that grows with its input.
    pub number: usize,
    /// Index of the input file.
    pub input: usize,
    /// First row, counted in the input file.
    pub start: u64,
    /// Number of rows.
    pub rows: u64,
}

/// The name of a part's file.
pub fn part_name(number: usize) -> String {
    format!("part-{number:05}.parquet")
}

impl Part {
    /// The part's file name in the output folder.
    pub fn file_name(&self) -> String {
        part_name(self.number)
    }
}
