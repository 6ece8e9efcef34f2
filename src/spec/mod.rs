//! The pipeline file, field for field: pure data, read with serde, unknown keys refused.
//!
//! What is written here is what was asked for. Whether the files exist, the columns fit and
//! the device is there is found by `plan`.

mod cluster;
mod declared;
mod dedup;
mod export;
mod family;
pub mod filter;
mod head;
mod hub;
mod label;
pub mod layers;
mod models;
mod report;
mod search;
mod source;
mod url;
mod values;

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub use cluster::{
    ClusterSpec, TrainingSpec, default_batch, default_iterations, default_passes, default_top_words,
};
pub use declared::{DeclaredColumn, Names};
pub use dedup::{DedupSpec, default_distance, default_threshold};
pub use export::{ExportLayout, ExportSpec};
pub use family::{Family, PrecisionSpec};
pub use head::{HeadActivation, HeadOutput, HeadSpec};
pub use hub::{HubSpec, ModelPlace, is_commit};
pub use label::{LabelSpec, default_labels, label_names};
pub use models::{DeclaredModel, ModelSpec, ModelsSpec};
pub use report::ReportSpec;
pub use search::{SearchSpec, default_hits};
pub use source::{
    FolderSourceSpec, HiveSpec, ParquetSourceSpec, Paths, SourceSpec, WebdatasetSourceSpec,
};
pub use url::{ImageUrlSpec, UrlScheme};
pub use values::{DeviceSpec, MaxFailed};

/// A pipeline file (TOML).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineSpec {
    /// The version of the file format: 1.
    pub version: u32,
    pub source: SourceSpec,
    /// Where images come from. May be absent when no column needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSpec>,
    #[serde(default)]
    pub preprocess: PreprocessSpec,
    #[serde(default)]
    pub caption: CaptionSpec,
    pub model: ModelsSpec,
    /// Networks over embeddings, by the names that columns give them.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub head: IndexMap<String, HeadSpec>,
    /// Output column name -> how it is filled, in output order.
    pub columns: IndexMap<String, DeclaredColumn>,
    pub sink: SinkSpec,
    /// Once all rows are scored; classes of the output's rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<LabelSpec>,
    /// Then; the rows in clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterSpec>,
    /// Then; the best of rows that are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupSpec>,
    /// Then; the rows that rules keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<filter::FilterSpec>,
    /// Then; their embeddings as NumPy files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<ExportSpec>,
    /// Then; what of them is nearest to some queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchSpec>,
    /// At last; a page about what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportSpec>,
    #[serde(default)]
    pub run: RunSpec,
}

/// The sections that say what is done with a finished output. They change nothing in it.
pub const STEPS: [&str; 7] = ["label", "cluster", "dedup", "filter", "export", "search", "report"];

/// `[image.KIND]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSpec {
    Path(ImagePathSpec),
    Url(ImageUrlSpec),
    Bytes(ImageBytesSpec),
    Shard(ImageShardSpec),
    Embedding(StoredEmbeddingSpec),
}

/// `[image.embedding]`: the images were embedded by an earlier run; only captions are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredEmbeddingSpec {
    /// The input column that holds the images' embeddings, by the same weights.
    pub column: String,
}

/// `[image.path]`: the image column holds paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePathSpec {
    /// Relative paths start here and may not leave it.
    pub root: PathBuf,
    /// Whether absolute paths in the table are read too, whatever they name: only for a table that
    /// is trusted.
    #[serde(default)]
    pub allow_absolute: bool,
}

/// `[image.bytes]`: the image column holds the encoded images themselves, as binary values or as
/// Hugging Face's `{bytes, path}`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageBytesSpec {
    /// Where bytes are null, files of the struct's relative `path`s are read beneath it; without
    /// it, such rows are `image_missing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
}

/// `[image.shard]`: the image column holds the keys of samples in the tar shard beside each table, as
/// img2dataset writes both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageShardSpec {
    /// The extensions of images, in the order in which they are looked for.
    pub image: String,
}

impl Default for ImageShardSpec {
    fn default() -> Self {
        Self { image: source::default_images() }
    }
}

/// `[preprocess]`: what is not in the model's preprocessor_config.json.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PreprocessSpec {
    /// Whether photos are turned as their EXIF orientation says. The reference does not.
    pub exif: ExifSpec,
    /// Images of more pixels than this are `image_too_large`.
    pub max_pixels: u64,
    /// Files of more bytes than this are `image_too_large`.
    pub max_bytes: u64,
    /// Images with one side more than this many times the other are `image_too_large`.
    pub max_aspect_ratio: u32,
}

impl Default for PreprocessSpec {
    fn default() -> Self {
        Self {
            exif: ExifSpec::Ignore,
            max_pixels: 64_000_000,
            max_bytes: 256 << 20,
            max_aspect_ratio: 1_000,
        }
    }
}

/// `exif = ...`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExifSpec {
    #[default]
    Ignore,
    Apply,
}

/// `[caption]`: how captions become tokens.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionSpec {
    /// What `<|endoftext|>` inside a caption is: text, or the control token as in transformers.
    pub special_tokens: SpecialTokensSpec,
    /// Put before every caption, as CLIPScore's reference does with `"A photo depicts "`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// `special_tokens = ...`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpecialTokensSpec {
    /// Spelled out like any other text.
    #[default]
    Text,
    /// One control token, as `CLIPTokenizerFast` reads it.
    Control,
}

/// How an output column is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnSpec {
    /// The image tower's embedding, unit length.
    ImageEmbedding,
    /// The text tower's embedding, unit length.
    TextEmbedding,
    /// The text tower's output for every token, the context long, as image generators take it.
    TextHiddenState,
    /// What a head gives of the image's embedding.
    ImageHead,
    /// What a head gives of the caption's.
    TextHead,
    /// Cosine similarity of the two.
    Cosine,
    /// `2.5 * max(cosine, 0)`.
    ClipScore,
    /// `sigmoid(scale * cosine + bias)`, with the model's own: SigLIP's.
    SiglipProbability,
    /// The harmonic mean of CLIPScore and of how near the caption is to the nearest reference.
    RefClipScore,
    /// Cosine similarity of the caption and its one reference.
    CaptionCosine,
    /// The caption that fits the image best, of all of them.
    BestCaption,
    /// The column that it stands in.
    BestCaptionColumn,
    /// Its cosine similarity.
    BestCosine,
    /// `ok`, or why the row failed.
    Status,
    /// The failure in words.
    ErrorMessage,
    /// Pixels, as stored.
    ImageWidth,
    /// Pixels, as stored.
    ImageHeight,
    /// `jpeg`, `png`, ...
    ImageFormat,
    /// SHA-256 of the encoded bytes, in hexadecimal.
    ImageSha256,
    /// Perceptual hash of the decoded pixels, 64 bits.
    ImagePhash,
    /// Tokens before truncation.
    CaptionTokens,
    /// Whether the caption was cut to the model's context.
    CaptionTruncated,
}

impl ColumnSpec {
    /// The word in the pipeline file.
    pub const fn as_str(self) -> &'static str {
        match self {
            ColumnSpec::ImageEmbedding => "image_embedding",
            ColumnSpec::TextEmbedding => "text_embedding",
            ColumnSpec::TextHiddenState => "text_hidden_state",
            ColumnSpec::ImageHead => "image_head",
            ColumnSpec::TextHead => "text_head",
            ColumnSpec::Cosine => "cosine",
            ColumnSpec::ClipScore => "clip_score",
            ColumnSpec::SiglipProbability => "siglip_probability",
            ColumnSpec::RefClipScore => "ref_clip_score",
            ColumnSpec::CaptionCosine => "caption_cosine",
            ColumnSpec::BestCaption => "best_caption",
            ColumnSpec::BestCaptionColumn => "best_caption_column",
            ColumnSpec::BestCosine => "best_cosine",
            ColumnSpec::Status => "status",
            ColumnSpec::ErrorMessage => "error_message",
            ColumnSpec::ImageWidth => "image_width",
            ColumnSpec::ImageHeight => "image_height",
            ColumnSpec::ImageFormat => "image_format",
            ColumnSpec::ImageSha256 => "image_sha256",
            ColumnSpec::ImagePhash => "image_phash",
            ColumnSpec::CaptionTokens => "caption_tokens",
            ColumnSpec::CaptionTruncated => "caption_truncated",
        }
    }

    /// Whether the column is a number that ranks image-caption pairs.
    pub const fn is_score(self) -> bool {
        use ColumnSpec::*;
        matches!(self, Cosine | ClipScore | SiglipProbability | RefClipScore | BestCosine)
    }

    /// Whether the column is the cosine similarity of an image and a caption.
    pub const fn is_cosine(self) -> bool {
        matches!(self, ColumnSpec::Cosine | ColumnSpec::BestCosine)
    }

    /// Whether the column is about a model, which may be named.
    pub const fn is_of_a_model(self) -> bool {
        use ColumnSpec::*;
        match self {
            ImageEmbedding | TextEmbedding | TextHiddenState | ImageHead | TextHead | Cosine
            | ClipScore | SiglipProbability | RefClipScore | CaptionCosine | BestCaption
            | BestCaptionColumn | BestCosine | CaptionTokens | CaptionTruncated => true,
            Status | ErrorMessage | ImageWidth | ImageHeight | ImageFormat | ImageSha256
            | ImagePhash => false,
        }
    }

    /// Whether the column is about the caption that fits best.
    pub const fn is_of_the_best(self) -> bool {
        use ColumnSpec::*;
        matches!(self, BestCaption | BestCaptionColumn | BestCosine)
    }

    /// Whether the column is what a head gives, which is named.
    pub const fn is_of_a_head(self) -> bool {
        matches!(self, ColumnSpec::ImageHead | ColumnSpec::TextHead)
    }

    /// Whether the column is about one caption, which may be named.
    pub const fn is_of_a_caption(self) -> bool {
        use ColumnSpec::*;
        matches!(
            self,
            TextEmbedding
                | TextHiddenState
                | TextHead
                | Cosine
                | ClipScore
                | SiglipProbability
                | RefClipScore
                | CaptionCosine
                | CaptionTokens
                | CaptionTruncated
        )
    }
}

/// `[sink.KIND]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkSpec {
    Parquet(ParquetSinkSpec),
}

/// `[sink.parquet]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParquetSinkSpec {
    /// The output folder.
    pub path: PathBuf,
    #[serde(default)]
    pub on_row_error: OnRowError,
    /// The most rows in one part file.
    #[serde(default = "default_rows_per_part")]
    pub rows_per_part: NonZeroU32,
    /// The element type of the embedding columns.
    #[serde(default)]
    pub embeddings: EmbeddingType,
}

fn default_rows_per_part() -> NonZeroU32 {
    const { NonZeroU32::new(16_384).unwrap() }
}

/// What becomes of a row that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRowError {
    /// Written with nulls and a status.
    #[default]
    Keep,
    /// Left out of the output, and counted.
    Drop,
    /// Stops the run.
    Fail,
}

/// `embeddings = ...`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingType {
    /// Half the bytes; scores are computed before rounding and do not change.
    F16,
    #[default]
    F32,
}

/// `[run]`: where and how fast; nothing here changes what the output means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSpec {
    /// `auto`, `cpu`, `cuda`, `cuda:N` or `cuda:*` (every GPU).
    pub device: DeviceSpec,
    /// Rows a batch; by default the plan chooses for the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<NonZeroUsize>,
    /// CPU threads; by default the cores that the process may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroUsize>,
    /// Bytes that all images that are being decoded may take together; one more waits. By default
    /// 128 MiB a thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_memory: Option<NonZeroU64>,
    /// Seconds that decoding one image may take. After them the run ends (75), and the next one
    /// tries that image in a process of its own.
    pub decode_timeout: NonZeroU32,
    /// The most rows that may fail before the run exits with 3: a count or a percentage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failed: Option<MaxFailed>,
    /// The least that the median of every cosine similarity may be before the run exits with 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_median_similarity: Option<f64>,
    /// The most that a quartile of any score may differ from the last run that was as it should be,
    /// likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drift: Option<f64>,
}

impl Default for RunSpec {
    fn default() -> Self {
        Self {
            device: DeviceSpec::Auto,
            batch_size: None,
            threads: None,
            image_memory: None,
            decode_timeout: const { NonZeroU32::new(60).unwrap() },
            max_failed: None,
            min_median_similarity: None,
            max_drift: None,
        }
    }
}
