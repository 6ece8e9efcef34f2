//! The last stage: embedded batches become columns, part files and the manifest.
//!
//! It decides when a part is complete. How a file is laid out and published is the sink's affair,
//! what a column holds is `columns`'.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;

use crate::batch::EncodedBatch;
use crate::columns::Column;
use crate::error::{Error, RowStatus};
use crate::manifest::{Manifest, PartAbout, PartRecord};
use crate::sink::{Published, Sink};
use crate::source::{InputFile, Part};
use crate::spec::OnRowError;

/// What the stage needs to know of the plan.
pub struct Output {
    pub dir: PathBuf,
    pub schema: SchemaRef,
    pub columns: Vec<Column>,
    pub on_row_error: OnRowError,
    /// The parts that this run makes.
    pub parts: Vec<Part>,
    /// The key of every part of the whole plan.
    pub keys: Vec<String>,
    /// The input file of each part's `input`.
    pub inputs: Vec<InputFile>,
    /// Parts in the whole plan, those of earlier runs included.
    pub total_parts: usize,
    /// Updated after every part.
    pub manifest: Manifest,
    /// Whether the folder's manifest is this run's to write. Else others work on the output too,
    /// and what the parts say of themselves is collected in the end.
    pub writes_manifest: bool,
}

/// The stage's state.
pub struct Writer {
    sink: Box<dyn Sink>,
    output: Output,
    open: Option<OpenPart>,
}

/// The part that is being written.
struct OpenPart {
    part: Part,
    rows_in: u64,
    statuses: BTreeMap<String, u64>,
}

impl Writer {
    /// Writes through `sink` what `output` describes.
    pub fn new(sink: Box<dyn Sink>, output: Output) -> Self {
        Self { sink, output, open: None }
    }

    /// Writes a batch and, if it is its part's last, publishes and records the part. Returns how
    /// many of its rows failed.
    pub fn write(&mut self, batch: &EncodedBatch) -> Result<u64, Error> {
        let open = match self.open.take() {
            Some(open) => self.open.insert(open),
            None => {
                let part = self.output.part(batch.position.part);
                self.sink.begin(&part.file_name(), &self.output.inputs[part.input].metadata)?;
                self.open.insert(OpenPart { part, rows_in: 0, statuses: BTreeMap::new() })
            }
        };
        let n_rows = batch.rows.num_rows();
        let statuses: Vec<_> = (0..n_rows).map(|row| batch.status(row)).collect();
        let failed = statuses.iter().filter(|status| **status != RowStatus::Ok).count();
        if failed > 0 && self.output.on_row_error == OnRowError::Fail {
            return Err(first_failure(&self.output, open, batch));
        }
        for status in &statuses {
            *open.statuses.entry(status.to_string()).or_default() += 1;
        }
        open.rows_in += n_rows as u64;
        let mut rows = self.output.fill(batch)?;
        if failed > 0 && self.output.on_row_error == OnRowError::Drop {
            rows = good_rows(&rows, &statuses)?;
        }
        self.sink.write(&rows)?;
        if batch.position.last {
            self.publish()?;
        }
        Ok(failed as u64)
    }

    fn publish(&mut self) -> Result<(), Error> {
        let OpenPart { part, rows_in, statuses } =
            self.open.take().expect("only called with an open part");
        let path = &self.output.inputs[part.input].path;
        if rows_in != part.rows {
            return Err(Error::RowCount {
                path: path.clone(),
                expected: part.rows,
                found: rows_in,
            });
        }
        let about = PartAbout { key: self.output.keys[part.index].clone(), rows_in, statuses };
        let Published { rows: rows_out, bytes, sha256 } = self.sink.publish(about.to_json())?;
        let record = PartRecord { about, rows_out, bytes, sha256 };
        self.output.manifest.parts.insert(part.file_name(), record);
        match self.output.writes_manifest {
            true => self.output.manifest.write(&self.output.dir),
            false => Ok(()),
        }
    }

    /// What an interruption left.
    pub fn interrupted(&self, signal: i32) -> Error {
        Error::Interrupted {
            signal,
            complete: self.output.manifest.parts.len(),
            parts: self.output.total_parts,
            output: self.output.dir.clone(),
        }
    }

    /// Whether every part of this run is published and recorded.
    pub fn is_complete(&self) -> bool {
        let recorded = &self.output.manifest.parts;
        self.output.parts.iter().all(|part| recorded.contains_key(&part.file_name()))
    }

    /// All stages ended well: makes sure that every part is there.
    pub fn complete(self) -> Result<Manifest, Error> {
        match self.is_complete() {
            true => Ok(self.output.manifest),
            false => Err(Error::StagePanicked { stage: "write" }),
        }
    }
}

impl Output {
    fn part(&self, index: usize) -> Part {
        let part = self.parts.iter().find(|part| part.index == index);
        *part.expect("the source gives the parts of this plan")
    }

    /// The input's columns, unchanged, then the declared ones.
    fn fill(&self, batch: &EncodedBatch) -> Result<RecordBatch, Error> {
        // What is hidden comes after them.
        let from_input = self.schema.fields().len() - self.columns.len();
        let mut columns: Vec<ArrayRef> = batch.rows.columns()[..from_input].to_vec();
        for column in &self.columns {
            columns.push(column.fill(batch)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.rows.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|source| Error::Arrow { action: "put the output columns together", source })
    }
}

fn good_rows(rows: &RecordBatch, statuses: &[RowStatus]) -> Result<RecordBatch, Error> {
    let good = statuses.iter().map(|status| Some(*status == RowStatus::Ok));
    filter_record_batch(rows, &BooleanArray::from_iter(good))
        .map_err(|source| Error::Arrow { action: "drop failed rows", source })
}

fn first_failure(output: &Output, open: &OpenPart, batch: &EncodedBatch) -> Error {
    let row = (0..batch.rows.num_rows())
        .find(|row| batch.status(*row) != RowStatus::Ok)
        .expect("the caller counted a failure");
    Error::Row {
        path: output.inputs[open.part.input].path.clone(),
        row: open.part.start + batch.position.offset + row as u64,
        status: batch.status(row),
        message: batch.message(row).unwrap_or_default(),
    }
}
