//! Every output column: its name, its Arrow field and how it is filled from an encoded batch.
//!
//! Input columns are not here: they pass through the sink unchanged.

mod row;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanBuilder, FixedSizeListArray, Float16Array, Float32Array, StringArray,
    StringBuilder, UInt32Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use half::f16;

use self::row::{Row, of_caption};
use crate::batch::{Embeddings, EncodedBatch, Logit};
use crate::error::Error;
use crate::model::head::Head;
use crate::score;
use crate::spec::{ColumnSpec, EmbeddingType};

/// One output column.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub kind: ColumnSpec,
    pub field: FieldRef,
    embeddings: EmbeddingType,
    /// What gives it, where a head does, and which of its numbers it is; all, or the only one,
    /// where none is said.
    head: Option<(Arc<Head>, Option<usize>)>,
    /// The model that it is about: its place among the batch's.
    model: usize,
    /// Its way to read text, among the batch's.
    reader: usize,
    /// The caption that the column is about, then those that it is compared with: places among the
    /// batch's caption columns.
    captions: Vec<usize>,
    /// All of those, by name.
    caption_columns: Vec<String>,
    /// The input columns of lists that it has a value an element for.
    lists: Vec<String>,
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
    /// It gives every token's state.
    pub text_states: bool,
}

/// The lengths of what a model gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Of an embedding.
    pub embedding: usize,
    /// Of a caption, in tokens.
    pub context: usize,
    /// Of a token's state.
    pub text_width: usize,
}

impl Needs {
    /// The work that a set of columns asks for.
    pub fn of(columns: impl IntoIterator<Item = ColumnSpec>) -> Self {
        let mut needs = Needs::default();
        for column in columns {
            let (images, captions, image_tower, text_tower) = match column {
                ColumnSpec::ImageEmbedding | ColumnSpec::ImageHead => (true, false, true, false),
                ColumnSpec::TextEmbedding | ColumnSpec::TextHead | ColumnSpec::CaptionCosine => {
                    (false, true, false, true)
                }
                ColumnSpec::TextHiddenState => (false, true, false, false),
                ColumnSpec::Cosine
                | ColumnSpec::ClipScore
                | ColumnSpec::SiglipProbability
                | ColumnSpec::RefClipScore
                | ColumnSpec::BestCaption
                | ColumnSpec::BestCaptionColumn
                | ColumnSpec::BestCosine => (true, true, true, true),
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
            needs.text_states |= column == ColumnSpec::TextHiddenState;
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
    /// A column of a kind.
    pub fn new(name: &str, kind: ColumnSpec, embeddings: EmbeddingType, lengths: Lengths) -> Self {
        let nullable = kind != ColumnSpec::Status;
        let field = Arc::new(Field::new(name, data_type(kind, embeddings, lengths), nullable));
        Self {
            name: name.to_owned(),
            kind,
            field,
            embeddings,
            head: None,
            model: 0,
            reader: 0,
            captions: vec![0],
            caption_columns: Vec::new(),
            lists: Vec::new(),
        }
    }

    /// The same, by a model that reads text in a way: their places in a batch.
    pub fn by(self, model: usize, reader: usize) -> Self {
        Self { model, reader, ..self }
    }

    /// The same, about the first of `captions` compared with the others: places in `columns`, the
    /// batch's caption columns.
    pub fn about(self, captions: Vec<usize>, columns: &[String]) -> Self {
        Self { captions, caption_columns: columns.to_vec(), ..self }
    }

    /// The same, with a list a row where there are some: a value for each element of those.
    pub fn in_lists(mut self, lists: Vec<String>) -> Self {
        if !lists.is_empty() {
            let item = Field::new("element", self.field.data_type().clone(), true);
            let list = DataType::List(Arc::new(item));
            self.field = Arc::new(Field::new(&self.name, list, true));
        }
        Self { lists, ..self }
    }

    /// The same, given by a head: one of its numbers or, where it has several and none is said, a
    /// list of all.
    pub fn given_by(self, head: Arc<Head>, index: Option<usize>) -> Self {
        let data_type = match (head.n_outputs(), index) {
            (1, _) | (_, Some(_)) => DataType::Float32,
            (n, None) => list_of(DataType::Float32, n),
        };
        let field = self.field.as_ref().clone().with_data_type(data_type);
        Self { field: Arc::new(field), head: Some((head, index)), ..self }
    }

    /// Whether it tells of what the model at that place in a batch gave.
    pub fn is_by(&self, model: usize) -> bool {
        self.kind.is_of_a_model() && self.model == model
    }

    /// The column's values for a batch, one per row.
    ///
    /// # Errors
    /// `Torch` where LibTorch refuses what a head needs; `Arrow` where values cannot be put into
    /// lists.
    pub fn fill(&self, batch: &EncodedBatch) -> Result<ArrayRef, Error> {
        let values = self.values_of(batch)?;
        let put = match (&batch.listed, self.kind) {
            (None, _) | (_, ColumnSpec::Status | ColumnSpec::ErrorMessage) => return Ok(values),
            (Some(listed), _) if self.lists.is_empty() => listed.one(&values),
            (Some(listed), _) => listed.lists(&values, &self.lists),
        };
        put.map_err(|source| Error::Arrow { action: "put values into lists", source })
    }

    /// The same for rows that are elements, one a row of those.
    fn values_of(&self, batch: &EncodedBatch) -> Result<ArrayRef, Error> {
        let n_rows = batch.rows.num_rows();
        let all = self.captions.as_slice();
        let (&subject, references) = all.split_first().unwrap_or((&0, &[]));
        let model = &batch.models[self.model];
        let floats = |of_row: &dyn Fn(Row<'_>) -> Option<f32>| -> ArrayRef {
            Arc::new(Float32Array::from_iter(Row::all(batch, self.model).map(of_row)))
        };
        let caption_info = || &batch.caption_info[self.reader][subject * n_rows..][..n_rows];
        Ok(match self.kind {
            ColumnSpec::ImageHead => self.scores(&model.image, n_rows)?,
            ColumnSpec::TextHead => {
                let own = of_caption(&model.text, subject, n_rows);
                self.scores(&own, n_rows)?
            }
            ColumnSpec::ImageEmbedding => self.embedding(&model.image, n_rows),
            ColumnSpec::TextEmbedding => {
                let own = of_caption(&model.text, subject, n_rows);
                self.embedding(&own, n_rows)
            }
            ColumnSpec::TextHiddenState => {
                let own = of_caption(&model.text_states, subject, n_rows);
                self.states(&own, n_rows)
            }
            ColumnSpec::Cosine => floats(&|row| row.cosine(subject)),
            ColumnSpec::ClipScore => floats(&|row| row.cosine(subject).map(score::clip_score)),
            ColumnSpec::SiglipProbability => floats(&|row| {
                let Logit { scale, bias } = model.logit;
                Some(score::siglip_probability(row.cosine(subject)?, scale, bias))
            }),
            ColumnSpec::RefClipScore => floats(&|row| {
                let clip_score = row.cosine(subject).map(score::clip_score)?;
                Some(score::ref_clip_score(clip_score, row.nearest(subject, references)?))
            }),
            ColumnSpec::CaptionCosine => floats(&|row| row.nearest(subject, references)),
            ColumnSpec::BestCosine => floats(&|row| Some(row.best(all)?.1)),
            ColumnSpec::BestCaption => self.best_caption(batch),
            ColumnSpec::BestCaptionColumn => {
                let name = |row: Row<'_>| Some(self.caption_columns[row.best(all)?.0].as_str());
                Arc::new(StringArray::from_iter(Row::all(batch, self.model).map(name)))
            }
            ColumnSpec::Status => {
                let mut words = StringBuilder::new();
                let rows = 0..batch.given().num_rows();
                rows.for_each(|row| words.append_value(batch.status(row).as_str()));
                Arc::new(words.finish())
            }
            ColumnSpec::ErrorMessage => {
                let mut messages = StringBuilder::new();
                let rows = 0..batch.given().num_rows();
                rows.for_each(|row| messages.append_option(batch.message(row)));
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
                let tokens = caption_info().iter().map(|info| info.map(|info| info.tokens));
                Arc::new(UInt32Array::from_iter(tokens))
            }
            ColumnSpec::CaptionTruncated => {
                let mut flags = BooleanBuilder::new();
                for info in caption_info() {
                    flags.append_option(info.map(|info| info.truncated));
                }
                Arc::new(flags.finish())
            }
        })
    }

    /// What the head gives of packed embeddings, at their rows; rows without one are null.
    fn scores(&self, embeddings: &Embeddings, n_rows: usize) -> Result<ArrayRef, Error> {
        let (head, index) = self.head.as_ref().expect("the plan gives columns of heads theirs");
        let dim = head.n_outputs();
        let data = head.apply(embeddings)?;
        let scored = Embeddings { data, dim, rows: embeddings.rows.clone() };
        let nulls = Some(NullBuffer::from(valid(&scored, n_rows)));
        let all = scattered(&scored, n_rows * dim, |value| value);
        Ok(match self.data_type() {
            DataType::FixedSizeList(element, length) => {
                let values = Arc::new(Float32Array::from(all));
                Arc::new(FixedSizeListArray::new(element.clone(), *length, values, nulls))
            }
            _ => {
                let one = all.into_iter().skip(index.unwrap_or(0)).step_by(dim).collect();
                Arc::new(Float32Array::new(one, nulls))
            }
        })
    }

    /// Of a value: of a row's, or of each element's.
    fn data_type(&self) -> &DataType {
        match self.field.data_type() {
            DataType::List(item) => item.data_type(),
            other => other,
        }
    }

    /// The text of each row's best caption.
    fn best_caption(&self, batch: &EncodedBatch) -> ArrayRef {
        let texts = self.caption_columns.iter().map(|name| {
            let column = batch.rows.column_by_name(name).expect("the caption was encoded");
            cast(column, &DataType::BinaryView).expect("it was read as bytes before")
        });
        let texts: Vec<ArrayRef> = texts.collect();
        let text = |row: Row<'_>| {
            let (caption, _) = row.best(&self.captions)?;
            // What has an embedding was UTF-8.
            str::from_utf8(texts[caption].as_binary_view().value(row.index())).ok()
        };
        Arc::new(StringArray::from_iter(Row::all(batch, self.model).map(text)))
    }

    /// The same for `[context, width]` numbers a row.
    fn states(&self, states: &Embeddings, n_rows: usize) -> ArrayRef {
        let DataType::FixedSizeList(token, context) = self.data_type() else {
            unreachable!("Column::new gives columns of states a fixed-size list of them");
        };
        let DataType::FixedSizeList(element, width) = token.data_type() else {
            unreachable!("Column::new gives columns of states a fixed-size list of them");
        };
        let values = self.values(states, n_rows * (*context * *width) as usize);
        let tokens = FixedSizeListArray::new(element.clone(), *width, values, None);
        let nulls = Some(NullBuffer::from(valid(states, n_rows)));
        Arc::new(FixedSizeListArray::new(token.clone(), *context, Arc::new(tokens), nulls))
    }

    /// Scatters packed embeddings to their rows; rows without one are null.
    fn embedding(&self, embeddings: &Embeddings, n_rows: usize) -> ArrayRef {
        let DataType::FixedSizeList(element, dim) = self.data_type() else {
            unreachable!("Column::new gives embedding columns a fixed-size list");
        };
        let values = self.values(embeddings, n_rows * *dim as usize);
        let nulls = Some(NullBuffer::from(valid(embeddings, n_rows)));
        Arc::new(FixedSizeListArray::new(element.clone(), *dim, values, nulls))
    }

    /// `n` elements in the type that is written.
    fn values(&self, embeddings: &Embeddings, n: usize) -> ArrayRef {
        match self.embeddings {
            EmbeddingType::F32 => {
                Arc::new(Float32Array::from(scattered(embeddings, n, |value| value)))
            }
            EmbeddingType::F16 => {
                Arc::new(Float16Array::from(scattered(embeddings, n, f16::from_f32)))
            }
        }
    }
}

/// Which rows have one.
fn valid(embeddings: &Embeddings, n_rows: usize) -> Vec<bool> {
    let mut valid = vec![false; n_rows];
    embeddings.rows.iter().for_each(|row| valid[*row as usize] = true);
    valid
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

fn data_type(kind: ColumnSpec, embeddings: EmbeddingType, lengths: Lengths) -> DataType {
    let element = match embeddings {
        EmbeddingType::F16 => DataType::Float16,
        EmbeddingType::F32 => DataType::Float32,
    };
    match kind {
        ColumnSpec::ImageEmbedding | ColumnSpec::TextEmbedding => {
            list_of(element, lengths.embedding)
        }
        ColumnSpec::TextHiddenState => {
            list_of(list_of(element, lengths.text_width), lengths.context)
        }
        ColumnSpec::Cosine
        | ColumnSpec::ImageHead
        | ColumnSpec::TextHead
        | ColumnSpec::ClipScore
        | ColumnSpec::SiglipProbability
        | ColumnSpec::RefClipScore
        | ColumnSpec::CaptionCosine
        | ColumnSpec::BestCosine => DataType::Float32,
        ColumnSpec::Status
        | ColumnSpec::ErrorMessage
        | ColumnSpec::ImageFormat
        | ColumnSpec::BestCaption
        | ColumnSpec::BestCaptionColumn
        | ColumnSpec::ImageSha256 => DataType::Utf8,
        ColumnSpec::ImagePhash => DataType::UInt64,
        ColumnSpec::ImageWidth | ColumnSpec::ImageHeight | ColumnSpec::CaptionTokens => {
            DataType::UInt32
        }
        ColumnSpec::CaptionTruncated => DataType::Boolean,
    }
}

fn list_of(of: DataType, length: usize) -> DataType {
    let length = i32::try_from(length).expect("the model's config was checked, or the head's file");
    DataType::FixedSizeList(Arc::new(Field::new("element", of, true)), length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Encoded, Position};
    use crate::error::{RowError, RowStatus};
    use arrow::array::{Array, RecordBatch, RecordBatchOptions};
    use arrow::datatypes::{Float32Type, Schema};

    const LENGTHS: Lengths = Lengths { embedding: 2, context: 3, text_width: 2 };

    /// Four rows: both embeddings, image only, text only, neither.
    fn batch() -> EncodedBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(4));
        let rows = RecordBatch::try_new_with_options(Schema::empty().into(), vec![], &options);
        let error = |status, message: &str| Some(RowError::new(status, message));
        EncodedBatch {
            position: Position { part: 0, offset: 0, last: true },
            listed: None,
            rows: rows.expect("a batch of no columns"),
            models: vec![Encoded {
                image: Embeddings { data: vec![1.0, 0.0, 0.0, 1.0], dim: 2, rows: vec![0, 1] },
                text: Embeddings { data: vec![0.6, 0.8, 1.0, 0.0], dim: 2, rows: vec![0, 2] },
                text_states: Embeddings::default(),
                logit: Logit::default(),
            }],
            image_info: vec![None; 4],
            image_content: vec![Default::default(); 4],
            caption_info: vec![vec![None; 4]],
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
        let column = Column::new("similarity", ColumnSpec::Cosine, EmbeddingType::F32, LENGTHS);
        let filled = column.fill(&batch()).expect("no head");
        let filled: &Float32Array = filled.as_any().downcast_ref().expect("f32");
        assert!((filled.value(0) - 0.6).abs() < 1e-7);
        assert_eq!((filled.len(), filled.null_count()), (4, 3));
    }

    #[test]
    fn scatters_embeddings_to_their_rows() {
        for kind in [EmbeddingType::F32, EmbeddingType::F16] {
            let column = Column::new("text", ColumnSpec::TextEmbedding, kind, LENGTHS);
            let filled = column.fill(&batch()).expect("no head");
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
