//! `[model.FAMILY]`: the families of models, and where one is.
//!
//! What a family's folder holds and how its towers are built is known in `crate::model`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A family of models: what `[model.FAMILY]` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Clip,
    Siglip,
    OpenClip,
}

impl Family {
    /// All there are.
    pub const ALL: [Self; 3] = [Family::Clip, Family::Siglip, Family::OpenClip];

    /// The word in the pipeline file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Family::Clip => "clip",
            Family::Siglip => "siglip",
            Family::OpenClip => "open_clip",
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

/// `[model.FAMILY]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSpec {
    /// A Hugging Face `CLIPModel` folder.
    Clip(ModelDirSpec),
    /// A Hugging Face `SiglipModel` folder: SigLIP, or SigLIP 2 of a fixed resolution.
    Siglip(ModelDirSpec),
    /// A folder of OpenCLIP's own layout.
    OpenClip(ModelDirSpec),
}

impl ModelSpec {
    /// A model of that family in a folder, in the precision that is best where it runs.
    pub fn new(family: Family, dir: impl Into<PathBuf>) -> Self {
        let dir = ModelDirSpec { dir: dir.into(), precision: PrecisionSpec::default() };
        match family {
            Family::Clip => ModelSpec::Clip(dir),
            Family::Siglip => ModelSpec::Siglip(dir),
            Family::OpenClip => ModelSpec::OpenClip(dir),
        }
    }

    /// The kind of model.
    pub fn family(&self) -> Family {
        match self {
            ModelSpec::Clip(_) => Family::Clip,
            ModelSpec::Siglip(_) => Family::Siglip,
            ModelSpec::OpenClip(_) => Family::OpenClip,
        }
    }

    /// The precision that the pipeline asks for.
    pub fn precision(&self) -> PrecisionSpec {
        self.settings().precision
    }

    /// The model's folder.
    pub fn dir(&self) -> &Path {
        &self.settings().dir
    }

    fn settings(&self) -> &ModelDirSpec {
        match self {
            ModelSpec::Clip(settings)
            | ModelSpec::Siglip(settings)
            | ModelSpec::OpenClip(settings) => settings,
        }
    }
}

/// What a model family's section says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDirSpec {
    /// The model's folder.
    pub dir: PathBuf,
    #[serde(default)]
    pub precision: PrecisionSpec,
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
