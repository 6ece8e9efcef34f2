//! Part files and the manifest.
//!
//! It decides when a part is complete. How a file is laid out and published is the sink's affair.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Filled, OutputRows, Writer};
use crate::batch::EncodedBatch;
use crate::error::Error;
use crate::manifest::{Manifest, PartAbout, PartRecord};
use crate::sink::{Published, Sink};
use crate::source::{InputFile, Part};

/// What happens to parts, told to whoever follows.
#[derive(Debug, Clone, Copy)]
pub enum PartEvent<'a> {
    /// Its first batch is here.
    Started(Part),
    /// So many of its rows are written.
    Rows(Part, u64),
    /// It is complete.
    Done(Part, &'a PartRecord),
}

/// Follows parts. An error of it ends the run.
pub type Follow = Box<dyn FnMut(PartEvent<'_>) -> Result<(), Error>>;

/// What the stage needs to know of the plan.
pub struct Output {
    pub dir: PathBuf,
    pub rows: OutputRows,
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
    pub follow: Follow,
    /// Whether the folder's manifest is this run's to write. Else others work on the output too,
    /// and what the parts say of themselves is collected in the end.
    pub writes_manifest: bool,
}

/// Writes part files and records them.
pub struct PartWriter {
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

impl PartWriter {
    /// Writes through `sink` what `output` describes.
    pub fn new(sink: Box<dyn Sink>, output: Output) -> Self {
        Self { sink, output, open: None }
    }

    fn publish(&mut self) -> Result<(), Error> {
        let OpenPart { part, rows_in, statuses } =
            self.open.take().expect("only called with an open part");
        let input = &self.output.inputs[part.input];
        if rows_in != part.rows {
            let (path, expected) = (input.path.clone(), part.rows);
            return Err(Error::RowCount { path, expected, found: rows_in });
        }
        let (key, start) = (self.output.keys[part.index].clone(), part.start);
        let about = PartAbout { key, input: input.full_name(), start, rows_in, statuses };
        let Published { rows: rows_out, bytes, sha256 } = self.sink.publish(about.to_json())?;
        let record = PartRecord { about, rows_out, bytes, sha256 };
        let recorded = self.output.manifest.parts.entry(part.file_name()).insert_entry(record);
        (self.output.follow)(PartEvent::Done(part, recorded.get()))?;
        match self.output.writes_manifest && self.is_time_to_record() {
            true => self.output.manifest.write(&self.output.dir),
            false => Ok(()),
        }
    }

    /// Whether the manifest is to be written now. A large one is not after every part: what it does
    /// not know of, a hundredth of the parts at most, is read again by whoever goes on.
    fn is_time_to_record(&self) -> bool {
        let n_recorded = self.output.manifest.parts.len();
        n_recorded.is_multiple_of(1 + n_recorded / 100) || self.is_complete()
    }
}

impl Writer for PartWriter {
    type Done = Manifest;

    /// Writes a batch and, if it is its part's last, publishes and records the part.
    fn write(&mut self, batch: &EncodedBatch) -> Result<u64, Error> {
        let open = match self.open.take() {
            Some(open) => self.open.insert(open),
            None => {
                let part = self.output.part(batch.position.part);
                self.sink.begin(&part.file_name(), &self.output.inputs[part.input].metadata)?;
                (self.output.follow)(PartEvent::Started(part))?;
                self.open.insert(OpenPart { part, rows_in: 0, statuses: BTreeMap::new() })
            }
        };
        let (part, inputs) = (open.part, &self.output.inputs);
        let place = |row| {
            (inputs[part.input].path.clone(), part.start + batch.position.offset + row as u64)
        };
        let Filled { rows, failed } = self.output.rows.fill(batch, &mut open.statuses, place)?;
        open.rows_in += batch.given().num_rows() as u64;
        self.sink.write(&rows)?;
        let (part, rows) = (open.part, open.rows_in);
        (self.output.follow)(PartEvent::Rows(part, rows))?;
        if batch.position.last {
            self.publish()?;
        }
        Ok(failed)
    }

    fn interrupted(&self, signal: i32) -> Error {
        Error::Interrupted {
            signal,
            complete: self.output.manifest.parts.len(),
            parts: self.output.total_parts,
            output: self.output.dir.clone(),
        }
    }

    /// Whether every part of this run is published and recorded.
    fn is_complete(&self) -> bool {
        let recorded = &self.output.manifest.parts;
        self.output.parts.iter().all(|part| recorded.contains_key(&part.file_name()))
    }

    /// Makes sure that every part is there.
    fn complete(self) -> Result<Manifest, Error> {
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
}
