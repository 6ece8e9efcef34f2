//! The last stage: embedded batches become columns, and go where the run's output goes.
//!
//! What an output is made of (`parts` of files and a manifest, parts that are `asked` for, a
//! `stream`) is told apart here; what a column holds is `columns`', how a file is laid out and
//! published the sink's affair.

mod asked;
mod parts;
mod stream;

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;

pub use asked::AskedWriter;
pub use parts::{Follow, Output, PartEvent, PartWriter};
pub use stream::{StreamWriter, Streamed};

use crate::batch::EncodedBatch;
use crate::columns::Column;
use crate::error::{Error, RowStatus};
use crate::spec::OnRowError;

/// Takes the batches of a run, in order.
pub trait Writer {
    /// What a run that came to its end leaves.
    type Done;

    /// Writes a batch. Returns how many of its rows failed.
    fn write(&mut self, batch: &EncodedBatch) -> Result<u64, Error>;

    /// Whether everything that this run makes is there.
    fn is_complete(&self) -> bool;

    /// What an interruption left.
    fn interrupted(&self, signal: i32) -> Error;

    /// All stages ended well: makes sure that nothing is missing.
    fn complete(self) -> Result<Self::Done, Error>;
}

/// What a batch's rows become.
pub struct OutputRows {
    /// The input's columns, then the declared ones.
    pub schema: SchemaRef,
    /// The declared columns.
    pub columns: Vec<Column>,
    pub on_row_error: OnRowError,
}

/// The rows of a batch as they are written, and how it went with them.
struct Filled {
    rows: RecordBatch,
    failed: u64,
}

impl OutputRows {
    /// Fills the declared columns and leaves out what should be; counts rows by status.
    ///
    /// # Errors
    /// `Row` where a failed one ends the run; `place` says of which table it is which row.
    fn fill(
        &self,
        batch: &EncodedBatch,
        counts: &mut BTreeMap<String, u64>,
        place: impl Fn(usize) -> (PathBuf, u64),
    ) -> Result<Filled, Error> {
        let n_rows = batch.given().num_rows();
        let statuses: Vec<_> = (0..n_rows).map(|row| batch.status(row)).collect();
        let first = statuses.iter().position(|status| *status != RowStatus::Ok);
        if let (OnRowError::Fail, Some(at)) = (self.on_row_error, first) {
            let (path, row) = place(at);
            let message = batch.message(at).unwrap_or_default();
            return Err(Error::Row { path, row, status: statuses[at], message });
        }
        for status in &statuses {
            *counts.entry(status.to_string()).or_default() += 1;
        }
        let mut rows = self.columns_of(batch)?;
        if first.is_some() && self.on_row_error == OnRowError::Drop {
            rows = good_rows(&rows, &statuses)?;
        }
        let failed = statuses.iter().filter(|status| **status != RowStatus::Ok).count() as u64;
        Ok(Filled { rows, failed })
    }

    /// The input's columns, unchanged, then the declared ones.
    fn columns_of(&self, batch: &EncodedBatch) -> Result<RecordBatch, Error> {
        // What is hidden comes after them.
        let from_input = self.schema.fields().len() - self.columns.len();
        let mut columns: Vec<ArrayRef> = batch.given().columns()[..from_input].to_vec();
        for column in &self.columns {
            columns.push(column.fill(batch)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.given().num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|source| Error::Arrow { action: "put the output columns together", source })
    }
}

fn good_rows(rows: &RecordBatch, statuses: &[RowStatus]) -> Result<RecordBatch, Error> {
    let good = statuses.iter().map(|status| Some(*status == RowStatus::Ok));
    filter_record_batch(rows, &BooleanArray::from_iter(good))
        .map_err(|source| Error::Arrow { action: "drop failed rows", source })
}
