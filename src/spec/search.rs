//! What is searched for in a table, and what is shown of it: the settings of `clipmill search`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[search]`: once the parts are there, what is nearest to these is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSpec {
    /// Texts to search for.
    pub queries: Vec<String>,
    /// Image files to search for.
    pub images: Vec<PathBuf>,
    /// Rows of the table, counted from 0, to search the like of.
    pub like: Vec<u64>,
    /// Results a query.
    pub top: NonZeroUsize,
    /// The column that is searched; by default `image_embedding`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Where a page with the images of the results is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<PathBuf>,
    /// The folder that the table's image paths start in; by default the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_root: Option<PathBuf>,
    /// Whether the page has pictures.
    pub thumbnails: bool,
    /// Where an index of the vectors for other programs is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<PathBuf>,
    /// Whether the vectors are kept in a file beside the table, which makes the next search fast.
    pub cache: bool,
}

impl SearchSpec {
    /// Whether anything is searched for.
    pub fn asks(&self) -> bool {
        !(self.queries.is_empty() && self.images.is_empty() && self.like.is_empty())
    }
}

/// Results a query.
pub const fn default_hits() -> NonZeroUsize {
    const { NonZeroUsize::new(10).unwrap() }
}

impl Default for SearchSpec {
    fn default() -> Self {
        Self {
            queries: Vec::new(),
            images: Vec::new(),
            like: Vec::new(),
            top: default_hits(),
            column: None,
            html: None,
            images_root: None,
            thumbnails: true,
            export: None,
            cache: true,
        }
    }
}
