//! What travels between the stages: `RowBatch` -> `PreparedBatch` -> `EncodedBatch`.
//!
//! Each stage takes one type and gives the next, so a batch that skipped a stage does not
//! compile. Good rows are packed (`rows[slot]` is the batch row that a slot belongs to) and
//! only they take a place on the device; failed rows are carried as errors at their index.
//! Nothing here computes or fills a column.

pub mod hidden;
pub mod lists;
mod pixels;

use arrow::array::RecordBatch;

pub use self::pixels::{Grid, ImageShape, PixelScale, Pixels};

use self::lists::Listed;
use crate::error::{RowError, RowStatus};

/// Failures of a row's elements that are told in words.
const MOST_MESSAGES: usize = 8;

/// Where a batch belongs: which part of the plan, and whether it is that part's last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Index into the plan's parts.
    pub part: usize,
    /// Row of the part at which the batch starts.
    pub offset: u64,
    /// True for the part's last batch. A part of 0 rows has one empty batch.
    pub last: bool,
}

/// Rows as they were read. A batch never straddles two parts.
#[derive(Debug, Clone)]
pub struct RowBatch {
    pub position: Position,
    /// All input columns, unchanged; then perhaps one that is `hidden`.
    pub rows: RecordBatch,
}

/// What was learned about an encoded image from its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// Width in pixels as stored, before EXIF orientation.
    pub width: u32,
    /// Height in pixels as stored, before EXIF orientation.
    pub height: u32,
    pub format: ImageFormat,
}

/// What tells an image from others by its content; only what a column asks for is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImageContent {
    /// SHA-256 of the encoded bytes: there as soon as they were read, whether they decode or not.
    pub sha256: Option<[u8; 32]>,
    /// `images::phash` of the decoded pixels.
    pub phash: Option<u64>,
}

/// The formats that clipmill decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    Bmp,
    Gif,
    Jpeg,
    Png,
    Tiff,
    Webp,
}

impl ImageFormat {
    /// The word in the `image_format` column.
    pub const fn as_str(self) -> &'static str {
        match self {
            ImageFormat::Bmp => "bmp",
            ImageFormat::Gif => "gif",
            ImageFormat::Jpeg => "jpeg",
            ImageFormat::Png => "png",
            ImageFormat::Tiff => "tiff",
            ImageFormat::Webp => "webp",
        }
    }
}

/// Tokenized captions, packed. Not padded: the encoder decides which lengths share a pass.
///
/// Where rows have several captions, those of one column stand behind those of another: the `c`-th
/// caption of a row is at `c * n_rows + row`, here and in everything else that is per caption.
#[derive(Debug, Clone, Default)]
pub struct Captions {
    /// Token ids of each slot, start-of-text and end-of-text included, at most the context long.
    pub ids: Vec<Vec<i64>>,
    /// The caption of each slot, ascending.
    pub rows: Vec<u32>,
}

impl Captions {
    /// Every caption filled up to `len` tokens with `pad`.
    pub fn padded(&self, len: usize, pad: i64) -> Self {
        let fill = |ids: &Vec<i64>| {
            let mut ids = ids.clone();
            ids.resize(len, pad);
            ids
        };
        Self { ids: self.ids.iter().map(fill).collect(), rows: self.rows.clone() }
    }
}

/// What was learned about a caption from tokenizing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptionInfo {
    /// Tokens before truncation, start-of-text and end-of-text included; of the first 64 KiB.
    pub tokens: u32,
    /// Whether tokens were cut to fit the model's context.
    pub truncated: bool,
}

/// A batch's captions as one tokenizer reads them.
#[derive(Debug, Clone, Default)]
pub struct Tokenized {
    pub captions: Captions,
    /// The same captions, each as long as the context; empty when no column needs them.
    pub padded: Captions,
    /// Per caption; `None` where there is none.
    pub info: Vec<Option<CaptionInfo>>,
}

/// Rows whose images are decoded and whose captions are tokenized.
#[derive(Debug, Clone)]
pub struct PreparedBatch {
    pub position: Position,
    pub rows: RecordBatch,
    /// Where `rows` are elements of lists: the rows that those are of.
    pub listed: Option<Listed>,
    /// One for each way in which models want their pixels; none when no column needs images.
    pub pixels: Vec<Pixels>,
    /// What the table has of the images, where they are not encoded anew.
    pub stored: Embeddings,
    /// One for each way in which models read text; none when no column needs captions.
    pub captions: Vec<Tokenized>,
    /// Per row; `None` where no image could be opened.
    pub image_info: Vec<Option<ImageInfo>>,
    /// Per row.
    pub image_content: Vec<ImageContent>,
    /// Per row.
    pub image_errors: Vec<Option<RowError>>,
    /// Per caption.
    pub caption_errors: Vec<Option<RowError>>,
}

/// Unit-length embeddings, packed.
#[derive(Debug, Clone, Default)]
pub struct Embeddings {
    /// Shape `[rows.len(), dim]`, row-major, each row of length 1.
    pub data: Vec<f32>,
    pub dim: usize,
    /// The batch row of each slot, or the caption, ascending.
    pub rows: Vec<u32>,
}

impl Embeddings {
    /// The embedding of a row, or of a caption, if it has one.
    pub fn get(&self, row: usize) -> Option<&[f32]> {
        let slot = self.rows.binary_search(&(row as u32)).ok()?;
        Some(self.slot(slot))
    }

    /// The embedding in a slot.
    pub fn slot(&self, slot: usize) -> &[f32] {
        &self.data[slot * self.dim..(slot + 1) * self.dim]
    }
}

/// What one model made of a batch.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    /// Per row.
    pub image: Embeddings,
    /// Per caption.
    pub text: Embeddings,
    /// Per caption, `context * width` numbers each: a token's state after the other.
    pub text_states: Embeddings,
    pub logit: Logit,
}

/// What the model's weights say of its cosines, before a softmax or a sigmoid.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Logit {
    pub scale: f32,
    /// 0 where the weights have none.
    pub bias: f32,
}

/// Rows with everything that the columns need.
#[derive(Debug, Clone)]
pub struct EncodedBatch {
    pub position: Position,
    pub rows: RecordBatch,
    /// Where `rows` are elements of lists: the rows that those are of.
    pub listed: Option<Listed>,
    /// One a model, in the plan's order.
    pub models: Vec<Encoded>,
    pub image_info: Vec<Option<ImageInfo>>,
    pub image_content: Vec<ImageContent>,
    /// One for each way in which models read text, each per caption.
    pub caption_info: Vec<Vec<Option<CaptionInfo>>>,
    pub image_errors: Vec<Option<RowError>>,
    pub caption_errors: Vec<Option<RowError>>,
}

impl EncodedBatch {
    /// The rows as they were read.
    pub fn given(&self) -> &RecordBatch {
        self.listed.as_ref().map_or(&self.rows, |listed| &listed.rows)
    }

    /// A row's word for the `status` column: the image's failure before the caption's. Of a row with
    /// lists, that of its first element that may go better another time, or else failed.
    pub fn status(&self, row: usize) -> RowStatus {
        let passes = self.errors(row).find(|error| error.status.may_pass());
        let error = passes.or_else(|| self.errors(row).next());
        error.map_or(RowStatus::Ok, |error| error.status)
    }

    /// A row's failures in words, or `None` where all went well.
    pub fn message(&self, row: usize) -> Option<String> {
        let mut messages: Vec<_> = self.errors(row).map(|error| error.message.as_str()).collect();
        messages.dedup();
        let more = messages.len().saturating_sub(MOST_MESSAGES);
        messages.truncate(MOST_MESSAGES);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        (!messages.is_empty()).then(|| messages.join("; ") + &more)
    }

    /// Of each of the row's elements, the image's before the caption's.
    fn errors(&self, row: usize) -> impl Iterator<Item = &RowError> {
        let elements = self.listed.as_ref().map_or(row..row + 1, |listed| listed.of_row(row));
        elements
            .flat_map(|at| [&self.image_errors[at], &self.caption_errors[at]].into_iter().flatten())
    }
}
