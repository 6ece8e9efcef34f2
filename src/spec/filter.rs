//! `[filter]`: which rows of a scored table are kept, and where they go.
//!
//! Data alone; what a rule does is in `analysis::filter`.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `[filter]`, and what `clipmill filter` is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterSpec {
    /// The folder of the kept rows.
    pub path: PathBuf,
    /// Keep rows for which this SQL expression over the columns is true.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Keep this share of the usable rows, those with the highest scores: 0 < F <= 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_top: Option<f64>,
    /// Keep rows that score at least this quantile of the usable rows' scores: 0 <= Q <= 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_quantile: Option<f64>,
    /// The score column; by default the one that the run made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// The rules of a published dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// What columns a preset and `uids` read, where not the usual ones.
    #[serde(default, skip_serializing_if = "FilterColumns::is_empty")]
    pub columns: FilterColumns,
    /// A folder for the other rows, with a column `rejected_by`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<PathBuf>,
    /// A file for the `uid`s of the kept rows, as DataComp's tools read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uids: Option<PathBuf>,
    /// Replace what other settings left in the output folders.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overwrite: bool,
}

/// `[filter.columns]`: names of columns by what they hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterColumns {
    /// 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<String>,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<String>,
    /// ISO 639-1 codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Sizes of the image files, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_bytes: Option<String>,
}

impl FilterColumns {
    /// Whether every column is the usual one.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The place of a column's name, by what it holds.
    ///
    /// # Errors
    /// What can be named, where it is anything else.
    pub fn set(&mut self, role: &str, name: String) -> Result<(), String> {
        let place = match role {
            "uid" => &mut self.uid,
            "caption" => &mut self.caption,
            "width" => &mut self.width,
            "height" => &mut self.height,
            "language" => &mut self.language,
            "image_bytes" => &mut self.image_bytes,
            other => {
                let roles = "uid, caption, width, height, language, image_bytes";
                return Err(format!("\"{other}\" is none of {roles}"));
            }
        };
        *place = Some(name);
        Ok(())
    }
}

/// The model whose similarity a preset goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipArch {
    B32,
    L14,
}

impl ClipArch {
    /// DataComp's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ClipArch::B32 => "b32",
            ClipArch::L14 => "l14",
        }
    }
}

/// The rules of a published dataset, by name.
///
/// DataComp's are those of `baselines/apply_filter.py` of github.com/mlfoundations/datacomp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// `datacomp-basic`: `basic_filter` there. English, more than 2 words, more than 5 code
    /// points, both sides at least 200 pixels, one at most 3 times the other.
    DatacompBasic,
    /// `datacomp-clip-ARCH-PERCENT`: `clip_score` with a fraction there.
    DatacompFraction(ClipArch, u8),
    /// `datacomp-clip-b32-threshold`: `clip_score` with a threshold of 0.25 there.
    DatacompThreshold,
    /// `laion-400m`: alt text of 5 characters, 5 kB of image, similarity 0.3, at least
    /// (laion.ai/blog/laion-400-open-dataset).
    Laion400m,
    /// `laion-5b-en`: `laion2b` in DataComp's script. English, similarity at least 0.28.
    Laion5bEn,
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fraction = |arch: ClipArch| {
            let percent = text.strip_prefix(&format!("datacomp-clip-{}-", arch.as_str()))?;
            // One way to write each.
            let number = percent.parse::<u8>().ok().filter(|n| n.to_string() == percent)?;
            (1..=100).contains(&number).then_some(Preset::DatacompFraction(arch, number))
        };
        match text {
            "datacomp-basic" => Ok(Preset::DatacompBasic),
            "datacomp-clip-b32-threshold" => Ok(Preset::DatacompThreshold),
            "laion-400m" => Ok(Preset::Laion400m),
            "laion-5b-en" => Ok(Preset::Laion5bEn),
            _ => fraction(ClipArch::B32).or_else(|| fraction(ClipArch::L14)).ok_or_else(|| {
                format!(
                    "\"{text}\" is no preset: datacomp-basic, datacomp-clip-b32-threshold, \
                     datacomp-clip-l14-30 (b32 too, and any whole percentage), laion-400m or \
                     laion-5b-en"
                )
            }),
        }
    }
}

impl std::fmt::Display for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Preset::DatacompBasic => f.write_str("datacomp-basic"),
            Preset::DatacompFraction(arch, percent) => {
                write!(f, "datacomp-clip-{}-{percent}", arch.as_str())
            }
            Preset::DatacompThreshold => f.write_str("datacomp-clip-b32-threshold"),
            Preset::Laion400m => f.write_str("laion-400m"),
            Preset::Laion5bEn => f.write_str("laion-5b-en"),
        }
    }
}

impl<'de> Deserialize<'de> for Preset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Preset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_read_as_they_are_written() {
        for text in [
            "datacomp-basic",
            "datacomp-clip-b32-threshold",
            "datacomp-clip-b32-1",
            "datacomp-clip-l14-30",
            "datacomp-clip-l14-100",
            "laion-400m",
            "laion-5b-en",
        ] {
            assert_eq!(text.parse::<Preset>().map(|preset| preset.to_string()), Ok(text.into()));
        }
        for text in ["datacomp", "datacomp-clip-l14-0", "datacomp-clip-l14-030", "laion"] {
            assert!(text.parse::<Preset>().is_err(), "{text}");
        }
    }
}
