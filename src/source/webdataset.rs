//! Tar shards of images and captions: a row a sample, in the order of the tar.
//!
//! Text is read; images are not, but their places travel with the rows (see `batch::hidden`), for
//! the loader to read them. A shard's samples are counted by walking over its headers.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::builder::{BinaryViewBuilder, FixedSizeBinaryBuilder};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rayon::prelude::*;

use super::input::InputFile;
use super::members::{Members, extension, texts};
use super::parquet::BATCH_BYTES;
use super::samples::{Sample, Samples};
use super::tar::Member;
use super::{Part, Source};
use crate::batch::hidden::{self, Place};
use crate::batch::{Position, RowBatch};
use crate::error::Error;
use crate::travel::travel_schema;

/// More kinds of members than this are counted no further.
const MOST_EXTENSIONS: usize = 100;

/// What a shard holds.
struct Scanned {
    rows: u64,
    stamp: (u64, i128),
    headers: String,
    extensions: BTreeSet<Vec<u8>>,
}

fn scan(path: &Path) -> Result<Scanned, Error> {
    let (mut samples, mut rows, mut extensions) = (Samples::open(path)?, 0, BTreeSet::new());
    while let Some(sample) = samples.next_sample()? {
        rows += 1;
        for (extension, _) in sample.members {
            if extensions.len() < MOST_EXTENSIONS {
                extensions.insert(extension);
            }
        }
    }
    let walker = samples.walker;
    walker.check_unchanged()?;
    Ok(Scanned { rows, stamp: walker.stamp(), headers: walker.headers_sha256(), extensions })
}

/// Walks over shards, several at once, and says what they hold.
///
/// # Errors
/// `Tar` for a damaged one, `NoColumn` where no sample has a member that is asked for.
pub fn open_shards(paths: &[PathBuf], members: &Members) -> Result<Vec<InputFile>, Error> {
    let scanned = paths.par_iter().map(|path| scan(path)).collect::<Result<Vec<_>, _>>()?;
    let all = scanned.iter().flat_map(|shard| shard.extensions.iter().cloned()).collect();
    let schema = members.schema(&[("__key__", false), ("__shard__", false)], &all, &paths[0])?;
    let columns = InputFile::of_columns(&paths[0], schema)?;
    let files = paths.iter().zip(scanned).map(|(path, shard)| InputFile {
        path: path.clone(),
        rows: shard.rows,
        groups: vec![shard.rows],
        bytes: shard.stamp.0,
        modified: shard.stamp.1,
        footer: shard.headers,
        ..columns.clone()
    });
    Ok(files.collect())
}

/// Reads parts of shards, in the order given.
pub struct WebdatasetSource {
    inputs: Arc<[InputFile]>,
    members: Members,
    parts: VecDeque<Part>,
    batch_size: usize,
    open: Option<OpenShard>,
    /// Rows of the first part in `parts` that have been given out.
    given: u64,
    schema: SchemaRef,
}

/// A shard being read.
struct OpenShard {
    input: usize,
    /// The row that comes next.
    at: u64,
    samples: Samples,
}

impl WebdatasetSource {
    /// A source of `parts`, each cut from one of `inputs`, in batches of `batch_size` rows.
    pub fn new(
        inputs: Arc<[InputFile]>,
        members: Members,
        parts: Vec<Part>,
        batch_size: usize,
    ) -> Self {
        let travelling = travel_schema(&inputs[0].schema);
        let mut fields = travelling.fields().to_vec();
        let place = DataType::FixedSizeBinary(hidden::WIDTH as i32);
        fields.push(Arc::new(Field::new(hidden::COLUMN, place, true)));
        let schema = Arc::new(Schema::new(fields));
        Self { inputs, members, parts: parts.into(), batch_size, open: None, given: 0, schema }
    }

    /// The shard of a part, where its next row is next.
    fn open(&mut self, part: Part) -> Result<OpenShard, Error> {
        let at = part.start + self.given;
        if let Some(open) = self.open.take()
            && (open.input, open.at) == (part.input, at)
        {
            return Ok(open);
        }
        let input = &self.inputs[part.input];
        let mut samples = Samples::open(&input.path)?;
        if samples.walker.stamp() != (input.bytes, input.modified) {
            return Err(Error::InputChanged { path: input.path.clone() });
        }
        for row in 0..at {
            if samples.next_sample()?.is_none() {
                return Err(row_count(input, row));
            }
        }
        Ok(OpenShard { input: part.input, at, samples })
    }

    /// The next rows of a shard: as many as are wanted, or fit.
    fn take(&self, open: &mut OpenShard, wanted: u64) -> Result<RecordBatch, Error> {
        let input = &self.inputs[open.input];
        let n_text = self.schema.fields().len() - 1;
        let mut text: Vec<_> = (0..n_text).map(|_| BinaryViewBuilder::new()).collect();
        let mut places = FixedSizeBinaryBuilder::new(hidden::WIDTH as i32);
        let shard = input.path.to_string_lossy();
        let (mut rows, mut bytes) = (0, 0);
        while rows < wanted {
            let Some(sample) = open.samples.next_sample()? else {
                return Err(row_count(input, open.at + rows));
            };
            let own = self.text_bytes(&sample) + (sample.key.len() + shard.len()) as u64;
            if own > BATCH_BYTES {
                let (path, row) = (input.path.clone(), open.at + rows);
                return Err(Error::RowSize { path, row, bytes: own, most: BATCH_BYTES });
            }
            if rows > 0 && bytes + own > BATCH_BYTES {
                open.samples.give_back(sample);
                break;
            }
            text[0].append_value(&sample.key);
            text[1].append_value(shard.as_bytes());
            let values = self.texts(open, &sample)?;
            for (column, value) in text[2..].iter_mut().zip(values) {
                column.append_option(value);
            }
            let image = self.members.images.iter().find_map(|image| sample.member(image));
            let added = match image {
                Some(image) => {
                    let (offset, bytes) = (image.offset, image.bytes);
                    places.append_value(Place { file: open.input as u32, offset, bytes }.to_bytes())
                }
                None => {
                    places.append_null();
                    Ok(())
                }
            };
            added.map_err(|source| Error::Arrow { action: "note where an image is", source })?;
            rows += 1;
            bytes += own;
        }
        open.at += rows;
        let mut columns: Vec<ArrayRef> =
            text.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        columns.push(Arc::new(places.finish()));
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|source| Error::Arrow { action: "put a shard's columns together", source })
    }

    /// The names of the columns of text, after those of the sample itself.
    fn columns(&self) -> impl Iterator<Item = &str> {
        let n_text = self.schema.fields().len() - 1;
        self.schema.fields()[2..n_text].iter().map(|field| field.name().as_str())
    }

    /// At the most.
    fn text_bytes(&self, sample: &Sample) -> u64 {
        let members = self.columns().filter_map(|name| sample.member(extension(name)));
        members.map(|member| member.bytes).fold(0, u64::saturating_add)
    }

    /// What the sample has for each of them.
    fn texts(&self, open: &OpenShard, sample: &Sample) -> Result<Vec<Option<Vec<u8>>>, Error> {
        texts(self.columns(), |extension| {
            let member = sample.member(extension);
            let read = |member: &Member| open.samples.walker.read(member.offset, member.bytes);
            member.map(read).transpose()
        })
    }
}

fn row_count(input: &InputFile, found: u64) -> Error {
    Error::RowCount { path: input.path.clone(), expected: input.rows, found }
}

impl Source for WebdatasetSource {
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
        let Some(part) = self.parts.front().copied() else { return Ok(None) };
        let offset = self.given;
        let wanted = (part.rows - offset).min(self.batch_size as u64);
        let mut open = self.open(part)?;
        let rows = self.take(&mut open, wanted)?;
        self.given += rows.num_rows() as u64;
        let last = self.given == part.rows;
        if last {
            // What was read is published as what the plan was made for.
            open.samples.walker.check_unchanged()?;
            self.parts.pop_front();
            self.given = 0;
        }
        self.open = Some(open);
        Ok(Some(RowBatch { position: Position { part: part.index, offset, last }, rows }))
    }
}
