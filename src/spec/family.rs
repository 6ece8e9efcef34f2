//! The families of models, and the precisions in which one runs.
//!
//! What a family's folder holds and how its towers are built is known in `model`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A family of models: what `[model.FAMILY]` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// A Hugging Face `CLIPModel` folder.
    Clip,
    /// A Hugging Face `SiglipModel` folder: SigLIP, or SigLIP 2 of a fixed resolution; or a
    /// `Siglip2Model` folder: SigLIP 2 of any resolution.
    Siglip,
    /// A folder of OpenCLIP's own layout.
    OpenClip,
    /// A Hugging Face `ChineseCLIPModel` folder.
    ChineseClip,
}

impl Family {
    /// All there are.
    pub const ALL: [Self; 4] =
        [Family::Clip, Family::Siglip, Family::OpenClip, Family::ChineseClip];

    /// The word in the pipeline file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Family::Clip => "clip",
            Family::Siglip => "siglip",
            Family::OpenClip => "open_clip",
            Family::ChineseClip => "chinese_clip",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|family| family.as_str() == word);
        known.ok_or_else(|| {
            let words = Self::ALL.map(Self::as_str).join(", ");
            format!("\"{word}\" is no family of models: there are {words}")
        })
    }
}

/// `precision = ...`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionSpec {
    /// f16 on CUDA; bf16 on a CPU that multiplies it natively; else f32.
    #[default]
    Auto,
    F32,
    Bf16,
    F16,
}
