//! Every output column: its name, its Arrow field and how it is filled from an encoded batch.
//!
//! Input columns are not here: they pass through the sink unchanged.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, FixedSizeListArray, Float16Array, Float32Array, StringBuilder,
    UInt32Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef};
use half::f16;

use crate::batch::{Embeddings, EncodedBatch};
use crate::score;
use crate::spec::{ColumnSpec, EmbeddingType};

/// One output column.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub kind: ColumnSpec,
    pub field: FieldRef,
    embeddings: EmbeddingType,
}

/// Which work the declared columns ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Images are decoded.
    pub images: bool,
    /// The encoded bytes of images are hashed.
    pub image_sha256: bool,
    /// Images are hashed by what they look like.
    pub image_phash: bool,
    /// Captions are tokenized.
    pub captions: bool,
    /// The image tower runs.
    pub image_tower: bool,
    /// The text tower runs.
    pub text_tower: bool,
}

impl Needs {
    /// The work that a set of columns asks for.
    pub fn of(columns: impl IntoIterator<Item = ColumnSpec>) -> Self {
        let mut needs = Needs::default();
        for column in columns {
            let (images, captions, image_tower, text_tower) = match column {
                ColumnSpec::ImageEmbedding => (true, false, true, false),
                ColumnSpec::TextEmbedding => (false, true, false, true),
                ColumnSpec::Cosine | ColumnSpec::ClipScore => (true, true, true, true),
                ColumnSpec::ImageWidth
                | ColumnSpec::ImageHeight
                | ColumnSpec::ImageFormat
                | ColumnSpec::ImageSha256
                | ColumnSpec::ImagePhash => (true, false, false, false),
                ColumnSpec::CaptionTokens | ColumnSpec::CaptionTruncated => {
                    (false, true, false, false)
                }
                ColumnSpec::Status | ColumnSpec::ErrorMessage => (false, false, false, false),
            };
            needs.images |= images;
            needs.image_sha256 |= column == ColumnSpec::ImageSha256;
            needs.image_phash |= column == ColumnSpec::ImagePhash;
            needs.captions |= captions;
            needs.image_tower |= image_tower;
            needs.text_tower |= text_tower;
        }
        needs
    }
}

impl Column {
    /// A column of a kind. `dim` is the length of the model's embeddings.
    pub fn new(name: &str, kind: ColumnSpec, embeddings: EmbeddingType, dim: usize) -> Self {
        let nullable = kind != ColumnSpec::Status;
        let field = Arc::new(Field::new(name, data_type(kind, embeddings, dim), nullable));
        Self { name: name.to_owned(), kind, field, embeddings }
    }

    /// The column's values for a batch, one per row.
    pub fn fill(&self, batch: &EncodedBatch) -> ArrayRef {
        let n_rows = batch.rows.num_rows();
        match self.kind {
            ColumnSpec::ImageEmbedding => self.embedding(&batch.image_embeddings, n_rows),
            ColumnSpec::TextEmbedding => self.embedding(&batch.text_embeddings, n_rows),
            ColumnSpec::Cosine => scores(batch, |cosine| cosine),
            ColumnSpec::ClipScore => scores(batch, score::clip_score),
            ColumnSpec::Status => {
                let mut words = StringBuilder::new();
                (0..n_rows).for_each(|row| words.append_value(batch.status(row).as_str()));
                Arc::new(words.finish())
            }
            ColumnSpec::ErrorMessage => {
                let mut messages = StringBuilder::new();
                (0..n_rows).for_each(|row| messages.append_option(batch.message(row)));
                Arc::new(messages.finish())
            }
            ColumnSpec::ImageWidth => {
                let widths = batch.image_info.iter().map(|info| info.map(|info| info.width));
                Arc::new(UInt32Array::from_iter(widths))
            }
            ColumnSpec::ImageHeight => {
                let heights = batch.image_info.iter().map(|info| info.map(|info| info.height));
                Arc::new(UInt32Array::from_iter(heights))
            }
            ColumnSpec::ImageFormat => {
                let mut names = StringBuilder::new();
                for info in &batch.image_info {
                    names.append_option(info.map(|info| info.format.as_str()));
                }
                Arc::new(names.finish())
            }
            ColumnSpec::ImageSha256 => {
                let mut digests = StringBuilder::new();
                for content in &batch.image_content {
                    digests.append_option(content.sha256.map(hexadecimal));
                }
                Arc::new(digests.finish())
            }
            ColumnSpec::ImagePhash => {
                let hashes = batch.image_content.iter().map(|content| content.phash);
                Arc::new(UInt64Array::from_iter(hashes))
            }
            ColumnSpec::CaptionTokens => {
                let tokens = batch.caption_info.iter().map(|info| info.map(|info| info.tokens));
                Arc::new(UInt32Array::from_iter(tokens))
            }
            ColumnSpec::CaptionTruncated => {
                let mut flags = BooleanBuilder::new();
                for info in &batch.caption_info {
                    flags.append_option(info.map(|info| info.truncated));
                }
                Arc::new(flags.finish())
            }
        }
    }

    /// Scatters packed embeddings to their rows; rows without one are null.
    fn embedding(&self, embeddings: &Embeddings, n_rows: usize) -> ArrayRef {
        let DataType::FixedSizeList(element, dim) = self.field.data_type() else {
            unreachable!("Column::new gives embedding columns a fixed-size list");
        };
        let mut valid = vec![false; n_rows];
        embeddings.rows.iter().for_each(|row| valid[*row as usize] = true);
        let values: ArrayRef = match self.embeddings {
            EmbeddingType::F32 => {
                let values = scattered(embeddings, n_rows * *dim as usize, |value| value);
                Arc::new(Float32Array::from(values))
            }
            EmbeddingType::F16 => {
                let values = scattered(embeddings, n_rows * *dim as usize, f16::from_f32);
                Arc::new(Float16Array::from(values))
            }
        };
        let nulls = Some(NullBuffer::from(valid));
        Arc::new(FixedSizeListArray::new(element.clone(), *dim, values, nulls))
    }
}

fn hexadecimal(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `n` elements, each packed embedding at its row, in the type that is written.
fn scattered<T: Copy + Default>(embeddings: &Embeddings, n: usize, to: fn(f32) -> T) -> Vec<T> {
    let mut scattered = vec![T::default(); n];
    for (slot, row) in embeddings.rows.iter().enumerate() {
        let place = &mut scattered[*row as usize * embeddings.dim..][..embeddings.dim];
        for (place, value) in place.iter_mut().zip(embeddings.slot(slot)) {
            *place = to(*value);
        }
    }
    scattered
}

fn data_type(kind: ColumnSpec, embeddings: EmbeddingType, dim: usize) -> DataType {
    match kind {
        ColumnSpec::ImageEmbedding | ColumnSpec::TextEmbedding => {
            let element = match embeddings {
                EmbeddingType::F16 => DataType::Float16,
                EmbeddingType::F32 => DataType::Float32,
            };
            let dim = i32::try_from(dim).expect("the model's config was checked");
            DataType::FixedSizeList(Arc::new(Field::new("element", element, true)), dim)
        }
        ColumnSpec::Cosine | ColumnSpec::ClipScore => DataType::Float32,
        ColumnSpec::Status
        | ColumnSpec::ErrorMessage
        | ColumnSpec::ImageFormat
        | ColumnSpec::ImageSha256 => DataType::Utf8,
        ColumnSpec::ImagePhash => DataType::UInt64,
        ColumnSpec::ImageWidth | ColumnSpec::ImageHeight | ColumnSpec::CaptionTokens => {
            DataType::UInt32
        }
        ColumnSpec::CaptionTruncated => DataType::Boolean,
    }
}

/// One score per row that has both embeddings; null elsewhere.
fn scores(batch: &EncodedBatch, of_cosine: fn(f32) -> f32) -> ArrayRef {
    let mut scores = vec![None; batch.rows.num_rows()];
    let (images, texts) = (&batch.image_embeddings, &batch.text_embeddings);
    let mut text = 0;
    // Both lists of rows ascend, so one walk pairs them.
    for (image, row) in images.rows.iter().enumerate() {
        while text < texts.rows.len() && texts.rows[text] < *row {
            text += 1;
        }
        if texts.rows.get(text) == Some(row) {
            let cosine = score::cosine(images.slot(image), texts.slot(text));
            scores[*row as usize] = Some(of_cosine(cosine));
        }
    }
    Arc::new(Float32Array::from(scores))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Position;
    use crate::error::{RowError, RowStatus};
    use arrow::array::{Array, RecordBatch, RecordBatchOptions};
    use arrow::datatypes::{Float32Type, Schema};

    /// Four rows: both embeddings, image only, text only, neither.
    fn batch() -> EncodedBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(4));
        let rows = RecordBatch::try_new_with_options(Schema::empty().into(), vec![], &options);
        let error = |status, message: &str| Some(RowError::new(status, message));
        EncodedBatch {
            position: Position { part: 0, offset: 0, last: true },
            rows: rows.expect("a batch of no columns"),
            image_embeddings: Embeddings {
                data: vec![1.0, 0.0, 0.0, 1.0],
                dim: 2,
                rows: vec![0, 1],
            },
            text_embeddings: Embeddings {
                data: vec![0.6, 0.8, 1.0, 0.0],
                dim: 2,
                rows: vec![0, 2],
            },
            image_info: vec![None; 4],
            image_content: vec![Default::default(); 4],
            caption_info: vec![None; 4],
            image_errors: vec![
                None,
                None,
                error(RowStatus::ImageMissing, "no file"),
                error(RowStatus::ImageTruncated, "cut"),
            ],
            caption_errors: vec![
                None,
                error(RowStatus::CaptionEmpty, "no words"),
                None,
                error(RowStatus::CaptionMissing, "null"),
            ],
        }
    }

    #[test]
    fn scores_only_rows_with_both_embeddings() {
        let column = Column::new("similarity", ColumnSpec::Cosine, EmbeddingType::F32, 2);
        let filled = column.fill(&batch());
        let filled: &Float32Array = filled.as_any().downcast_ref().expect("f32");
        assert!((filled.value(0) - 0.6).abs() < 1e-7);
        assert_eq!((filled.len(), filled.null_count()), (4, 3));
    }

    #[test]
    fn scatters_embeddings_to_their_rows() {
        for kind in [EmbeddingType::F32, EmbeddingType::F16] {
            let column = Column::new("text", ColumnSpec::TextEmbedding, kind, 2);
            let filled = column.fill(&batch());
            let filled: &FixedSizeListArray = filled.as_any().downcast_ref().expect("a list");
            let valid: Vec<_> = (0..4).map(|row| filled.is_valid(row)).collect();
            assert_eq!(valid, [true, false, true, false]);
            let third = arrow::compute::cast(&filled.value(2), &DataType::Float32).expect("a cast");
            let third = arrow::array::AsArray::as_primitive::<Float32Type>(&third).values();
            assert_eq!(third.to_vec(), [1.0, 0.0]);
        }
    }

    #[test]
    fn status_names_the_image_first_and_the_message_both() {
        let batch = batch();
        assert_eq!(batch.status(0), RowStatus::Ok);
        assert_eq!(batch.status(1), RowStatus::CaptionEmpty);
        assert_eq!(batch.status(3), RowStatus::ImageTruncated);
        assert_eq!(batch.message(3).as_deref(), Some("cut; null"));
        assert_eq!(batch.message(0), None);
    }
}
