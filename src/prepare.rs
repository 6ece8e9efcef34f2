//! The second stage: a batch of rows becomes pixels and token ids, on every core.
//!
//! It decides nothing about images or text itself: `images` and `text` do, row by row. A row that
//! fails leaves an error at its index and takes no place among the pixels or the ids.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use rayon::prelude::*;

use crate::batch::{CaptionInfo, Captions, ImageInfo, Pixels, PreparedBatch, RowBatch};
use crate::error::{Error, RowError, RowStatus};
use crate::images::{ImageLoader, Preprocess};
use crate::text::Tokenizer;

/// How the rows' images become pixels.
pub struct ImageStep {
    /// The input column that names the image.
    pub column: String,
    pub loader: Box<dyn ImageLoader>,
    pub preprocess: Preprocess,
}

/// How the rows' captions become token ids.
pub struct CaptionStep {
    /// The input column that holds the caption.
    pub column: String,
    pub tokenizer: Tokenizer,
}

/// The stage's work on one batch. A step that no column needs is absent.
pub struct Prepare {
    pub image: Option<ImageStep>,
    pub caption: Option<CaptionStep>,
}

impl Prepare {
    /// Decodes, resizes and tokenizes on rayon's current pool.
    pub fn apply(&self, batch: RowBatch) -> Result<PreparedBatch, Error> {
        let n_rows = batch.rows.num_rows();
        let images = match &self.image {
            Some(step) => step.apply(&batch.rows)?,
            None => Images::none(n_rows),
        };
        let mut captions = Captions::default();
        let mut caption_info = vec![None; n_rows];
        let mut caption_errors = vec![None; n_rows];
        if let Some(step) = &self.caption {
            for (row, encoded) in step.apply(&batch.rows)?.into_iter().enumerate() {
                match encoded {
                    Ok((ids, info)) => {
                        caption_info[row] = Some(info);
                        captions.ids.push(ids);
                        captions.rows.push(row as u32);
                    }
                    Err(error) => caption_errors[row] = Some(error),
                }
            }
        }
        Ok(PreparedBatch {
            position: batch.position,
            rows: batch.rows,
            pixels: images.pixels,
            captions,
            image_info: images.info,
            caption_info,
            image_errors: images.errors,
            caption_errors,
        })
    }
}

struct Images {
    pixels: Pixels,
    info: Vec<Option<ImageInfo>>,
    errors: Vec<Option<RowError>>,
}

impl Images {
    fn none(n_rows: usize) -> Self {
        Self { pixels: Pixels::default(), info: vec![None; n_rows], errors: vec![None; n_rows] }
    }
}

impl ImageStep {
    fn apply(&self, rows: &RecordBatch) -> Result<Images, Error> {
        let column = self.loader.bind(named(rows, &self.column))?;
        let (height, width) = (self.preprocess.height(), self.preprocess.width());
        let slot_bytes = self.preprocess.n_bytes();
        let mut images = Images::none(rows.num_rows());
        images.pixels = Pixels { data: Vec::new(), height, width, rows: Vec::new() };
        let mut data = vec![0; rows.num_rows() * slot_bytes];
        let outcomes: Vec<_> = data
            .par_chunks_exact_mut(slot_bytes)
            .enumerate()
            .map(|(row, slot)| self.prepare(&column, row, slot))
            .collect();
        for (row, (info, outcome)) in outcomes.into_iter().enumerate() {
            images.info[row] = info;
            match outcome {
                Ok(()) => {
                    let slot = images.pixels.rows.len();
                    if slot != row {
                        let from = row * slot_bytes;
                        data.copy_within(from..from + slot_bytes, slot * slot_bytes);
                    }
                    images.pixels.rows.push(row as u32);
                }
                Err(error) => images.errors[row] = Some(error),
            }
        }
        data.truncate(images.pixels.rows.len() * slot_bytes);
        images.pixels.data = data;
        Ok(images)
    }

    fn prepare(
        &self,
        column: &ArrayRef,
        row: usize,
        slot: &mut [u8],
    ) -> (Option<ImageInfo>, Result<(), RowError>) {
        match self.loader.load(column, row) {
            Ok(bytes) => self.preprocess.apply(&bytes, slot),
            Err(error) => (None, Err(error)),
        }
    }
}

/// Token ids and what was learned of the caption, or why there are none.
type Outcome = Result<(Vec<i64>, CaptionInfo), RowError>;

impl CaptionStep {
    fn apply(&self, rows: &RecordBatch) -> Result<Vec<Outcome>, Error> {
        // Whichever string type the file has.
        let column = cast(named(rows, &self.column), &DataType::Utf8View)
            .map_err(|source| Error::Arrow { action: "read captions as strings", source })?;
        let captions = column.as_string_view();
        let encode = |row| {
            if captions.is_null(row) {
                return Err(RowError::new(RowStatus::CaptionMissing, "the caption is null"));
            }
            self.tokenizer.encode(captions.value(row))
        };
        Ok((0..rows.num_rows()).into_par_iter().map(encode).collect())
    }
}

fn named<'a>(rows: &'a RecordBatch, column: &str) -> &'a ArrayRef {
    rows.column_by_name(column).expect("Plan::resolve checked this column")
}
