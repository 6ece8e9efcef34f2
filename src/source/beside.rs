//! Images in tar shards beside the tables that tell of them, as img2dataset leaves both: 00000.tar
//! and 00000.parquet. The table's rows are read, those too that have no image; a row's image is that
//! of the sample with its key, and its place travels with the row (see `batch::hidden`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::builder::FixedSizeBinaryBuilder;
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use rayon::prelude::*;

use super::Source;
use super::input::InputFile;
use super::members::Members;
use super::samples::Samples;
use crate::batch::RowBatch;
use crate::batch::hidden::{self, Place};
use crate::error::Error;
use crate::store::is_url;

/// The shard beside a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    pub path: PathBuf,
    /// Length in bytes, and when it was last written in nanoseconds since 1970.
    pub stamp: (u64, i128),
    /// SHA-256 of its members' headers.
    pub headers: String,
}

/// Where the shard of a table is.
pub fn shard_of(table: &Path) -> PathBuf {
    table.with_extension("tar")
}

/// Finds the shard beside each table and walks over it once, several at once.
///
/// # Errors
/// `NotFound` where there is none, `Tar` for a damaged one or one with a sample twice.
pub fn find_beside(inputs: &mut [InputFile], members: &Members) -> Result<(), Error> {
    let found = inputs.par_iter().map(|input| {
        if is_url(&input.path) {
            let problem = format!("{}: shards are read from disks alone", input.path.display());
            return Err(Error::Setting { key: "image.shard".into(), problem });
        }
        let path = shard_of(&input.path);
        if !path.exists() {
            let hint = ": [image.shard] reads images from the .tar of each table's name".into();
            return Err(Error::NotFound { what: "the shard", path, hint });
        }
        let index = Index::of(&path, members)?;
        Ok(Beside { path, stamp: index.stamp, headers: index.headers })
    });
    let found = found.collect::<Result<Vec<_>, _>>()?;
    for (input, beside) in inputs.iter_mut().zip(found) {
        input.beside = Some(beside);
    }
    Ok(())
}

/// Where a shard's images are.
struct Index {
    images: HashMap<Vec<u8>, (u64, u64)>,
    stamp: (u64, i128),
    headers: String,
}

impl Index {
    fn of(path: &Path, members: &Members) -> Result<Self, Error> {
        let (mut samples, mut images) = (Samples::open(path)?, HashMap::new());
        while let Some(sample) = samples.next_sample()? {
            let image = members.images.iter().find_map(|extension| sample.member(extension));
            let Some(image) = image else { continue };
            let (place, at) = ((image.offset, image.bytes), image.offset);
            let key = String::from_utf8_lossy(&sample.key).into_owned();
            if images.insert(sample.key, place).is_some() {
                return Err(samples.walker.wrong(at, format!("the sample {key:?} is there twice")));
            }
        }
        let walker = samples.walker;
        walker.check_unchanged()?;
        Ok(Self { images, stamp: walker.stamp(), headers: walker.headers_sha256() })
    }
}

/// Adds the places of images to the rows of tables.
pub struct BesideSource {
    tables: Box<dyn Source>,
    /// The input of each part.
    of_part: HashMap<usize, usize>,
    inputs: Arc<[InputFile]>,
    members: Members,
    /// The column of keys.
    column: String,
    /// Of the input that was read last.
    index: Option<(usize, Index)>,
}

impl BesideSource {
    /// For the rows of `tables`, whose `parts` (the plan's index, the input's) are of `inputs`.
    pub fn new(
        tables: Box<dyn Source>,
        parts: impl IntoIterator<Item = (usize, usize)>,
        inputs: Arc<[InputFile]>,
        (members, column): (Members, String),
    ) -> Self {
        let of_part = parts.into_iter().collect();
        Self { tables, of_part, inputs, members, column, index: None }
    }

    /// Where the shard beside an input has its images.
    fn index(&mut self, input: usize) -> Result<&Index, Error> {
        let index = match self.index.take() {
            Some((of, index)) if of == input => index,
            _ => {
                let beside = self.inputs[input].beside.as_ref().expect("`find_beside` found it");
                let index = Index::of(&beside.path, &self.members)?;
                if (index.stamp, &index.headers) != (beside.stamp, &beside.headers) {
                    return Err(Error::InputChanged { path: beside.path.clone() });
                }
                index
            }
        };
        Ok(&self.index.insert((input, index)).1)
    }

    fn places(&mut self, rows: &RecordBatch, input: usize) -> Result<ArrayRef, Error> {
        let keys = rows.column_by_name(&self.column).expect("the plan made sure of it");
        let refused = |source| Error::Arrow { action: "read the keys of images", source };
        let keys = cast(keys, &DataType::BinaryView).map_err(refused)?;
        let index = self.index(input)?;
        let mut places = FixedSizeBinaryBuilder::new(hidden::WIDTH as i32);
        for key in keys.as_binary_view() {
            match key.and_then(|key| index.images.get(key)) {
                None => places.append_null(),
                Some(&(offset, bytes)) => {
                    let place = Place { file: input as u32, offset, bytes };
                    places.append_value(place.to_bytes()).map_err(refused)?;
                }
            }
        }
        Ok(Arc::new(places.finish()))
    }
}

impl Source for BesideSource {
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
        let Some(RowBatch { position, rows }) = self.tables.next_batch()? else { return Ok(None) };
        let input = self.of_part[&position.part];
        let places = self.places(&rows, input)?;
        let kind = DataType::FixedSizeBinary(hidden::WIDTH as i32);
        let hidden = Arc::new(Field::new(hidden::COLUMN, kind, true));
        let fields: Vec<_> = rows.schema().fields().iter().cloned().chain([hidden]).collect();
        let schema = Schema::new_with_metadata(fields, rows.schema().metadata().clone());
        let columns = rows.columns().iter().cloned().chain([places]).collect();
        let rows = RecordBatch::try_new(Arc::new(schema), columns)
            .map_err(|source| Error::Arrow { action: "add the places of images", source })?;
        Ok(Some(RowBatch { position, rows }))
    }
}
