//! `[report]`: the HTML report on a table, and what the command line of `report` becomes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[report]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportSpec {
    /// The HTML file, replaced if it is there.
    pub out: PathBuf,
    /// An earlier table to compare the scores and statuses with: a file, a folder or a glob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<PathBuf>,
    /// Columns by whose values the scores are grouped.
    pub by: Vec<String>,
    /// The number that ranks rows. By default the pipeline's first score column, else
    /// `similarity`, `clip_score` or DataComp's columns, whichever is there first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// The text. By default the pipeline's caption column, else `caption` or `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// The image's path. By default the pipeline's image column, else `image_path` or `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Where images are; by default where the run that made the table found them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_root: Option<PathBuf>,
    /// Whether images are shown at all.
    pub thumbnails: bool,
    /// The threshold that the report begins at: rows with this score or more are kept. By default
    /// the score that three quarters of the rows reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<f64>,
    /// What the random pairs are drawn with: the same seed, the same report.
    pub seed: u64,
}

impl Default for ReportSpec {
    fn default() -> Self {
        Self {
            out: PathBuf::from("report.html"),
            against: None,
            by: Vec::new(),
            score: None,
            caption: None,
            image: None,
            images_root: None,
            thumbnails: true,
            cut: None,
            seed: 0,
        }
    }
}
