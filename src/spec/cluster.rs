//! `[cluster]`: rows put into k groups by their embeddings.
//!
//! Pure data, as the command line or the pipeline file gives it.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::DeviceSpec;

/// What `clipmill cluster` is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSpec {
    /// The output folder.
    pub path: PathBuf,
    /// How many clusters. With `centroids` it is theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<NonZeroU32>,
    /// Centroids of an earlier clustering, to which rows are assigned; nothing is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub centroids: Option<PathBuf>,
    /// The embedding column; by default `image_embedding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Another seed, another result; the same seed, the same.
    #[serde(default)]
    pub seed: u64,
    /// The most rounds over the sample.
    #[serde(default = "default_iterations")]
    pub iterations: NonZeroU32,
    /// Rows a mini-batch.
    #[serde(default = "default_batch")]
    pub batch: NonZeroUsize,
    /// The most rows that are held in memory. By default 256 a cluster, at least 65,536, in at
    /// most 512 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<NonZeroUsize>,
    /// Rounds over all rows after the mini-batches, where there are more rows than the sample has.
    #[serde(default = "default_passes")]
    pub passes: u32,
    /// A file of words or phrases, one a line, after which clusters are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<PathBuf>,
    /// How many words a cluster's name has.
    #[serde(default = "default_top_words")]
    pub top_words: NonZeroUsize,
    /// The column with the cluster's number; the distance is in `NAME_distance`.
    #[serde(default = "default_name")]
    pub name: String,
    /// Where products are computed.
    #[serde(default)]
    pub device: DeviceSpec,
    /// Whether an output that was asked for differently is replaced.
    #[serde(default)]
    pub overwrite: bool,
}

/// How k-means is trained: part of a `ClusterSpec`, and of what `dedup` does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingSpec {
    pub seed: u64,
    pub iterations: NonZeroU32,
    pub batch: NonZeroUsize,
    pub sample: Option<NonZeroUsize>,
    pub passes: u32,
}

impl ClusterSpec {
    /// How its centroids are trained.
    pub fn training(&self) -> TrainingSpec {
        let Self { seed, iterations, batch, sample, passes, .. } = *self;
        TrainingSpec { seed, iterations, batch, sample, passes }
    }
}

impl TrainingSpec {
    /// The defaults, with a seed.
    pub fn with_seed(seed: u64) -> Self {
        let (iterations, batch, passes) = (default_iterations(), default_batch(), default_passes());
        Self { seed, iterations, batch, sample: None, passes }
    }
}

/// Rounds.
pub const fn default_iterations() -> NonZeroU32 {
    const { NonZeroU32::new(100).unwrap() }
}

/// Rows.
pub const fn default_batch() -> NonZeroUsize {
    const { NonZeroUsize::new(8192).unwrap() }
}

/// Rounds.
pub const fn default_passes() -> u32 {
    1
}

/// Words.
pub const fn default_top_words() -> NonZeroUsize {
    const { NonZeroUsize::new(3).unwrap() }
}

fn default_name() -> String {
    "cluster".to_owned()
}
