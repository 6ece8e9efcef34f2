//! `[dedup]`: of rows that are alike, the best one.
//!
//! Pure data, as the command line or the pipeline file gives it.

use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::DeviceSpec;

/// What `clipmill dedup` is asked for. Rows are alike by any of the likenesses that are asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupSpec {
    /// The output folder.
    pub path: PathBuf,
    /// Rows of equal content.
    #[serde(default)]
    pub exact: bool,
    /// The column whose values are compared: a hash, or the image's bytes.
    #[serde(default = "default_exact_column")]
    pub exact_column: String,
    /// Rows whose images look the same.
    #[serde(default)]
    pub perceptual: bool,
    /// The column of perceptual hashes.
    #[serde(default = "default_phash_column")]
    pub phash_column: String,
    /// Of the 64 bits, how many may differ.
    #[serde(default = "default_distance")]
    pub distance: u32,
    /// Rows whose embeddings are near.
    #[serde(default)]
    pub semantic: bool,
    /// The embedding column; by default `image_embedding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The least cosine of embeddings that are near.
    #[serde(default = "default_threshold")]
    pub threshold: f64,
    /// Cells within which embeddings are compared; by default the square root of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<NonZeroU32>,
    /// The cells' seed.
    #[serde(default)]
    pub seed: u64,
    /// The column whose highest value is kept; by default `similarity` where there is one, else the
    /// first row is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// Whether rows are only marked, not left out.
    #[serde(default)]
    pub mark: bool,
    /// The column with the row that a row's group is kept by.
    #[serde(default = "default_group_column")]
    pub group_column: String,
    /// With `mark`, the column that says whether a row would be left out.
    #[serde(default = "default_duplicate_column")]
    pub duplicate_column: String,
    /// Where products are computed.
    #[serde(default)]
    pub device: DeviceSpec,
    /// Whether an output that was asked for differently is replaced.
    #[serde(default)]
    pub overwrite: bool,
}

/// Bits.
pub const fn default_distance() -> u32 {
    4
}

/// A cosine.
pub const fn default_threshold() -> f64 {
    0.95
}

fn default_exact_column() -> String {
    "image_sha256".to_owned()
}

fn default_phash_column() -> String {
    "image_phash".to_owned()
}

fn default_group_column() -> String {
    "duplicate_group".to_owned()
}

fn default_duplicate_column() -> String {
    "is_duplicate".to_owned()
}
