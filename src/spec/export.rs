//! Embeddings as NumPy files: the settings of `clipmill export`.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[export]`: once the rows are scored and filtered, their embeddings as other tools read them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSpec {
    /// The output folder.
    pub path: PathBuf,
    pub layout: ExportLayout,
    /// The image embeddings of `npy`; by default the column that the run made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The text embeddings of `npy`; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The arrays of `npz`; by default every column of vectors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrays: Vec<String>,
    /// What the new column of row numbers is called.
    #[serde(default = "default_row")]
    pub row: String,
    /// Whether an output of other settings may be replaced.
    #[serde(default)]
    pub overwrite: bool,
}

/// `layout = ...`: how files are named, and what is in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ExportLayout {
    /// clip-retrieval's: img_emb/img_emb_0.npy, text_emb/text_emb_0.npy, metadata/metadata_0.parquet.
    Npy,
    /// DataComp's: 00000000.npz, an array a column of embeddings, and 00000000.parquet.
    Npz,
}

impl ExportLayout {
    /// The word in the pipeline file.
    pub const fn as_str(self) -> &'static str {
        match self {
            ExportLayout::Npy => "npy",
            ExportLayout::Npz => "npz",
        }
    }
}

impl fmt::Display for ExportLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn default_row() -> String {
    "row".to_owned()
}
