//! The families of models, by the words that pipeline files and tables call them.
//!
//! What a family's folder holds and how its towers are built is known in `model`.

use std::fmt;
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
