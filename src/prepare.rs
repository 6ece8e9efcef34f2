//! The second stage: a batch of rows becomes pixels and token ids, on every core.
//!
//! It decides nothing about images or text itself: `images` and `text` do, row by row. A row that
//! fails leaves an error at its index and takes no place among the pixels or the ids.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use rayon::prelude::*;

use crate::batch::lists::{Listed, UsedLists};
use crate::batch::{
    CaptionInfo, Embeddings, ImageContent, ImageInfo, Pixels, Position, PreparedBatch, RowBatch,
    Tokenized,
};
use crate::crash::{InFlight, Journal, Killer, RowId};
use crate::digest;
use crate::error::{Error, RowError, RowStatus};
use crate::images::resize::Size;
use crate::images::{ImageLoader, LoadError, Preprocess};
use crate::text::Tokenizer;
use crate::vectors::Vectors;

/// How the rows' images become pixels.
pub struct ImageStep {
    /// The input column that names the image.
    pub column: String,
    pub loader: Box<dyn ImageLoader>,
    /// One for each way in which models want their pixels, at least one.
    pub preprocess: Vec<Preprocess>,
    /// Whether the encoded bytes are hashed.
    pub sha256: bool,
    /// Where each thread writes down what it decodes.
    pub journal: Option<Arc<Journal>>,
    /// The first row of each part of the plan; of a stream, whose rows nobody finds again, none.
    pub starts: Vec<RowId>,
    /// What is not decoded again.
    pub killers: Vec<Killer>,
}

/// How the rows' captions become token ids.
pub struct CaptionStep {
    /// The input columns that hold the captions.
    pub columns: Vec<String>,
    /// One for each way in which models read text, at least one.
    pub tokenizers: Vec<CaptionReader>,
}

/// A tokenizer, and what is wanted of it.
pub struct CaptionReader {
    pub tokenizer: Tokenizer,
    /// Whether captions are wanted filled up to the context too.
    pub padded: bool,
}

/// How rows have the embeddings of their images already.
pub struct StoredStep {
    /// The input column that holds them.
    pub column: String,
    /// Length of an embedding.
    pub dim: usize,
}

/// The stage's work on one batch. A step that no column needs is absent.
pub struct Prepare {
    /// The input columns that are used, where one of them holds lists: each element is a row.
    pub lists: UsedLists,
    pub image: Option<ImageStep>,
    /// Instead of images: the input column that holds what an earlier run made of them.
    pub stored: Option<StoredStep>,
    pub caption: Option<CaptionStep>,
}

impl Prepare {
    /// How many rows should be announced before the first of them is applied.
    pub fn ahead(&self) -> usize {
        self.image.as_ref().map_or(0, |step| step.loader.ahead())
    }

    /// Begins to get the images of a batch that will be applied later.
    pub fn announce(&self, batch: &RowBatch) -> Result<(), Error> {
        if let Some(step) = &self.image
            && step.loader.ahead() > 0
        {
            let (rows, _) = elements(batch.rows.clone(), &self.lists)?;
            let column = step.loader.bind(named(&rows, &step.column))?;
            step.loader.announce(&column);
        }
        Ok(())
    }

    /// Decodes, resizes and tokenizes on rayon's current pool.
    pub fn apply(&self, batch: RowBatch) -> Result<PreparedBatch, Error> {
        let (rows, listed) = elements(batch.rows, &self.lists)?;
        let n_rows = rows.num_rows();
        let mut images = match &self.image {
            Some(step) => step.apply((batch.position, &rows), listed.as_ref())?,
            None => Images::none(n_rows),
        };
        let stored = match &self.stored {
            Some(step) => step.apply(&rows, &mut images.errors)?,
            None => Embeddings::default(),
        };
        let n_captions = self.caption.as_ref().map_or(1, |step| step.columns.len()) * n_rows;
        let mut caption_errors = vec![None; n_captions];
        let captions = match &self.caption {
            Some(step) => step.apply(&rows, &mut caption_errors)?,
            None => Vec::new(),
        };
        Ok(PreparedBatch {
            position: batch.position,
            rows,
            listed,
            pixels: images.pixels,
            stored,
            captions,
            image_info: images.info,
            image_content: images.content,
            image_errors: images.errors,
            caption_errors,
        })
    }
}

/// What goes through the stage as rows, and of which rows those are elements.
pub fn elements(
    rows: RecordBatch,
    lists: &UsedLists,
) -> Result<(RecordBatch, Option<Listed>), Error> {
    if lists.lists.is_empty() {
        return Ok((rows, None));
    }
    let (rows, listed) = Listed::explode(rows, lists)
        .map_err(|source| Error::Arrow { action: "take lists apart", source })?;
    Ok((rows, Some(listed)))
}

struct Images {
    pixels: Vec<Pixels>,
    info: Vec<Option<ImageInfo>>,
    content: Vec<ImageContent>,
    errors: Vec<Option<RowError>>,
}

impl Images {
    fn none(n_rows: usize) -> Self {
        Self {
            pixels: Vec::new(),
            info: vec![None; n_rows],
            content: vec![ImageContent::default(); n_rows],
            errors: vec![None; n_rows],
        }
    }
}

impl ImageStep {
    fn apply(
        &self,
        (position, rows): (Position, &RecordBatch),
        listed: Option<&Listed>,
    ) -> Result<Images, Error> {
        let id = |row: usize| {
            let row = listed.map_or(row, |listed| listed.row_of(row));
            let start = self.starts.get(position.part);
            let start = start.copied().unwrap_or(RowId { input: NonZeroU64::MIN, row: 0 });
            RowId { row: start.row + position.offset + row as u64, ..start }
        };
        let column = self.loader.bind(named(rows, &self.column))?;
        // A row's pixels in every form, one behind the other.
        let slot_bytes = self.preprocess.iter().map(Preprocess::n_bytes).sum();
        let mut images = Images::none(rows.num_rows());
        let mut packed = Vec::with_capacity(rows.num_rows());
        let firsts = self.first_rows(&column);
        let mut data = vec![0; rows.num_rows() * slot_bytes];
        let outcomes: Vec<_> = data
            .par_chunks_exact_mut(slot_bytes)
            .enumerate()
            .map(|(row, slot)| {
                let prepare = || self.prepare(&column, (id(row), row), slot);
                (firsts[row] == row).then(prepare).transpose()
            })
            .collect::<Result<_, Error>>()?;
        // Where the pixels of each row are, once they are packed.
        let mut slots = vec![0; rows.num_rows()];
        for row in 0..rows.num_rows() {
            let first = firsts[row];
            let found = outcomes[first].clone().expect("first rows were prepared");
            images.info[row] = found.info;
            images.content[row] = found.content;
            match found.outcome {
                Ok(size) => {
                    let slot = packed.len();
                    let from = if first == row { row } else { slots[first] } * slot_bytes;
                    if from != slot * slot_bytes {
                        data.copy_within(from..from + slot_bytes, slot * slot_bytes);
                    }
                    slots[row] = slot;
                    packed.push((row as u32, size));
                }
                Err(error) => images.errors[row] = Some(error),
            }
        }
        data.truncate(packed.len() * slot_bytes);
        images.pixels = self.split(data, &packed);
        Ok(images)
    }

    /// Slots of pixels in every form -> each form by itself. `packed` has each slot's row and the
    /// size of its image, decoded.
    fn split(&self, data: Vec<u8>, packed: &[(u32, Size)]) -> Vec<Pixels> {
        let of = |preprocess: &Preprocess, data| Pixels {
            data,
            shape: preprocess.shape(),
            grids: packed.iter().filter_map(|(_, size)| preprocess.grid(*size)).collect(),
            rows: packed.iter().map(|(row, _)| *row).collect(),
        };
        if let [only] = self.preprocess.as_slice() {
            return vec![of(only, data)];
        }
        let slot_bytes: usize = self.preprocess.iter().map(Preprocess::n_bytes).sum();
        let mut start = 0;
        let forms = self.preprocess.iter().map(|preprocess| {
            let own = start..start + preprocess.n_bytes();
            start = own.end;
            let slots = data.chunks_exact(slot_bytes);
            of(preprocess, slots.flat_map(|slot| &slot[own.clone()]).copied().collect())
        });
        forms.collect()
    }

    /// For each row, the first one that names the same image.
    fn first_rows(&self, column: &ArrayRef) -> Vec<usize> {
        let mut seen = HashMap::new();
        let first = |row| match self.loader.name(column, row) {
            Some(name) => *seen.entry(name).or_insert(row),
            None => row,
        };
        (0..column.len()).map(first).collect()
    }

    fn prepare(
        &self,
        column: &ArrayRef,
        (id, row): (RowId, usize),
        slot: &mut [u8],
    ) -> Result<Prepared, Error> {
        let bytes = match self.loader.load(column, row) {
            Ok(bytes) => bytes,
            Err(LoadError::Row(error)) => return Ok(Prepared::failed(error)),
            Err(LoadError::Machine(error)) => return Err(error),
        };
        let sha256 = self.sha256.then(|| digest::raw_of_bytes(&bytes));
        let content = ImageContent { sha256, phash: None };
        if let Some(error) = Killer::among(&self.killers, &bytes) {
            return Ok(Prepared { content, ..Prepared::failed(error) });
        }
        let in_flight = self.journal.as_ref().map(|journal| journal.enter(id));
        let restart = || in_flight.iter().for_each(InFlight::restart);
        let (info, outcome) = Preprocess::apply_all(&self.preprocess, &bytes, slot, &restart);
        let phash = outcome.as_ref().ok().and_then(|fitted| fitted.phash);
        let content = ImageContent { phash, ..content };
        Ok(Prepared { info, content, outcome: outcome.map(|fitted| fitted.size) })
    }
}

/// What became of one image.
#[derive(Clone)]
struct Prepared {
    info: Option<ImageInfo>,
    content: ImageContent,
    /// The size of the decoded image.
    outcome: Result<Size, RowError>,
}

impl Prepared {
    fn failed(error: RowError) -> Self {
        Self { info: None, content: ImageContent::default(), outcome: Err(error) }
    }
}

/// Token ids and what was learned of the caption, or why there are none.
type Outcome = Result<(Vec<i64>, CaptionInfo), RowError>;

impl CaptionStep {
    /// The captions as each tokenizer reads them: the first column's, then the next one's. One that
    /// a tokenizer cannot use gets an error.
    fn apply(
        &self,
        rows: &RecordBatch,
        errors: &mut [Option<RowError>],
    ) -> Result<Vec<Tokenized>, Error> {
        // Strings travel as bytes; a column of nulls alone has no type.
        let bytes = |column: &String| cast(named(rows, column), &DataType::BinaryView);
        let columns = self.columns.iter().map(bytes).collect::<Result<Vec<_>, _>>();
        let columns =
            columns.map_err(|source| Error::Arrow { action: "read captions as bytes", source })?;
        Ok(self.tokenizers.iter().map(|reader| reader.read(&columns, errors)).collect())
    }
}

impl CaptionReader {
    fn read(&self, columns: &[ArrayRef], errors: &mut [Option<RowError>]) -> Tokenized {
        let mut read = Tokenized { info: vec![None; errors.len()], ..Tokenized::default() };
        let outcomes = columns.iter().flat_map(|column| {
            let captions = column.as_binary_view();
            let encode = |row| self.encode(captions.is_valid(row).then(|| captions.value(row)));
            (0..captions.len()).into_par_iter().map(encode).collect::<Vec<_>>()
        });
        for (caption, encoded) in outcomes.enumerate() {
            match encoded {
                Ok((ids, info)) => {
                    read.info[caption] = Some(info);
                    read.captions.ids.push(ids);
                    read.captions.rows.push(caption as u32);
                }
                Err(error) => {
                    errors[caption].get_or_insert(error);
                }
            }
        }
        if self.padded {
            let Self { tokenizer, .. } = self;
            read.padded = read.captions.padded(tokenizer.context_length(), tokenizer.pad());
        }
        read
    }

    fn encode(&self, caption: Option<&[u8]>) -> Outcome {
        let missing = || RowError::new(RowStatus::CaptionMissing, "the caption is null");
        let caption = str::from_utf8(caption.ok_or_else(missing)?).map_err(|error| {
            let message = format!("the caption is not UTF-8 from byte {} on", error.valid_up_to());
            RowError::new(RowStatus::CaptionInvalid, message)
        })?;
        self.tokenizer.encode(caption)
    }
}

impl StoredStep {
    /// The embeddings that the rows have, each scaled to unit length: f16 is not exact. A row
    /// without one gets an error.
    fn apply(
        &self,
        rows: &RecordBatch,
        errors: &mut [Option<RowError>],
    ) -> Result<Embeddings, Error> {
        let column = named(rows, &self.column);
        let vectors = Vectors::of(column, Some(self.dim)).map_err(|problem| Error::Setting {
            key: format!("image.embedding.column = \"{}\"", self.column),
            problem: format!("{problem}, where the model's have {} numbers", self.dim),
        })?;
        let mut stored = Embeddings { dim: self.dim, ..Embeddings::default() };
        for (row, error) in errors.iter_mut().enumerate() {
            let length = |vector: &[f32]| vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            match vectors.get(row).map(|vector| (vector, length(vector))) {
                Some((vector, length)) if length > 0.0 => {
                    stored.data.extend(vector.iter().map(|x| x / length));
                    stored.rows.push(row as u32);
                }
                _ => {
                    let message = format!("\"{}\" has no embedding of its image", self.column);
                    *error = Some(RowError::new(RowStatus::ImageEmbeddingMissing, message));
                }
            }
        }
        Ok(stored)
    }
}

fn named<'a>(rows: &'a RecordBatch, column: &str) -> &'a ArrayRef {
    rows.column_by_name(column).expect("Plan::resolve checked this column")
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::array::StringViewArray;

    use super::*;

    /// Loads the sample's images by name, and counts.
    struct Counting(Arc<AtomicUsize>);

    impl ImageLoader for Counting {
        fn bind(&self, column: &ArrayRef) -> Result<ArrayRef, Error> {
            Ok(column.clone())
        }

        fn name<'a>(&self, column: &'a dyn Array, row: usize) -> Option<&'a [u8]> {
            let names = column.as_string_view();
            names.is_valid(row).then(|| names.value(row).as_bytes())
        }

        fn load<'a>(&self, column: &'a dyn Array, row: usize) -> Result<Cow<'a, [u8]>, LoadError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let missing = || RowError::new(RowStatus::ImageMissing, "it is not there");
            let name = self.name(column, row).ok_or_else(missing)?;
            let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/images");
            let path = images.join(OsStr::from_bytes(name));
            Ok(Cow::Owned(std::fs::read(path).map_err(|_| missing())?))
        }
    }

    #[test]
    fn an_image_that_several_rows_name_is_loaded_once_and_each_row_has_its_pixels() {
        let (moon, apple) = ("003-1f31c.png", "026-1f335.png");
        let names = [Some(moon), Some("no"), Some(apple), None, Some(moon), Some("no"), None];
        let column: ArrayRef = Arc::new(StringViewArray::from_iter(names));
        let loads = Arc::new(AtomicUsize::new(0));
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/model");
        let preprocess = Preprocess::read(&model, &Default::default()).expect("the sample");
        let step = ImageStep {
            column: "image".into(),
            loader: Box::new(Counting(loads.clone())),
            preprocess: vec![preprocess.with_phash(true)],
            sha256: true,
            journal: None,
            starts: Vec::new(),
            killers: Vec::new(),
        };
        let rows = RecordBatch::try_from_iter([("image", column)]).expect("a batch");
        let position = Position { part: 0, offset: 0, last: true };
        let images = step.apply((position, &rows), None).expect("it ends well");
        // Two images, one that is missing, and two rows without a name.
        assert_eq!(loads.load(Ordering::Relaxed), 5);
        let [pixels] = images.pixels.as_slice() else { panic!("one form of pixels") };
        assert_eq!(pixels.rows, [0, 2, 4]);
        let n = step.preprocess[0].n_bytes();
        let slot = |index: usize| &pixels.data[index * n..(index + 1) * n];
        assert_eq!((pixels.data.len(), slot(0)), (3 * n, slot(2)));
        assert_ne!(slot(0), slot(1));
        let failed: Vec<_> = images.errors.iter().map(Option::is_some).collect();
        assert_eq!(failed, [false, true, false, true, false, true, true]);
        assert_eq!(images.info[4], images.info[0]);
        assert_eq!(images.content[4], images.content[0]);
        let hashed: Vec<_> = images.content.iter().map(|content| content.phash.is_some()).collect();
        assert_eq!(hashed, [true, false, true, false, true, false, false]);
    }
}
