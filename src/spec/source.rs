//! `[source.KIND]`: which tables are read, and which of their columns hold what. Nothing is looked
//! for here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Names;

/// `[source.KIND]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceSpec {
    Parquet(ParquetSourceSpec),
    Webdataset(WebdatasetSourceSpec),
    Folder(FolderSourceSpec),
}

impl SourceSpec {
    /// The word in the section's name.
    pub fn kind(&self) -> &'static str {
        match self {
            SourceSpec::Parquet(_) => "parquet",
            SourceSpec::Webdataset(_) => "webdataset",
            SourceSpec::Folder(_) => "folder",
        }
    }

    /// The most rows that are read.
    pub fn limit(&self) -> Option<u64> {
        match self {
            SourceSpec::Parquet(source) => source.limit,
            SourceSpec::Webdataset(source) => source.limit,
            SourceSpec::Folder(source) => source.limit,
        }
    }

    /// The columns that hold captions.
    pub fn captions(&self) -> Vec<String> {
        let captions = match self {
            SourceSpec::Parquet(source) => &source.caption,
            SourceSpec::Webdataset(source) => &source.caption,
            SourceSpec::Folder(source) => &source.caption,
        };
        captions.clone().unwrap_or_default().0
    }
}

/// `[source.webdataset]`: tar shards, with a row for each sample. They bring their images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebdatasetSourceSpec {
    /// A shard, a folder (its `*.tar`, sorted by name), a glob, braces (`{00000..00012}`), `@` and
    /// a file that lists them, or several of these.
    pub path: Paths,
    /// The extensions of images, in the order in which they are looked for.
    #[serde(default = "default_images")]
    pub image: String,
    /// The extension of each sample's caption, `json.FIELD` for a field of its JSON, or several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<Names>,
    /// Read no more than this many rows, from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// `[source.folder]`: images in a folder and those in it, with captions in files beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderSourceSpec {
    /// The folder.
    pub path: PathBuf,
    /// The extensions of images.
    #[serde(default = "default_folder_images")]
    pub image: String,
    /// The extension of captions, `json.FIELD` for a field of a JSON file, or several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<Names>,
    /// Read no more than this many rows, from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

fn default_folder_images() -> String {
    "jpg;jpeg;png;webp;gif;bmp;tif;tiff".to_owned()
}

pub(super) fn default_images() -> String {
    "jpg;jpeg;png;webp".to_owned()
}

/// `[source.parquet]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParquetSourceSpec {
    /// A file, a folder (its `*.parquet`, sorted by name), a glob, `@` and a file that lists them, or
    /// several of these.
    pub path: Paths,
    /// Whether folders that are named `key=value` are columns.
    #[serde(default)]
    pub hive: HiveSpec,
    /// The column that names each row's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The column that holds each row's caption, or several of them. A row's status tells of the
    /// first; columns that need another caption are null where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<Names>,
    /// Read no more than this many rows, from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// `hive = ...`: what a file's folders say in their names, as `year=2024/month=01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HiveSpec {
    /// Columns, where every file's folders beneath the path have the same keys and no file has a
    /// column of such a name.
    #[default]
    Auto,
    /// Columns; anything else is an error.
    Yes,
    /// Only names.
    No,
}

impl<'de> Deserialize<'de> for HiveSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Boolean(true) => Ok(HiveSpec::Yes),
            toml::Value::Boolean(false) => Ok(HiveSpec::No),
            toml::Value::String(word) if word == "auto" => Ok(HiveSpec::Auto),
            _ => Err(serde::de::Error::custom("expected true, false or \"auto\"")),
        }
    }
}

impl Serialize for HiveSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            HiveSpec::Auto => serializer.serialize_str("auto"),
            HiveSpec::Yes => serializer.serialize_bool(true),
            HiveSpec::No => serializer.serialize_bool(false),
        }
    }
}

/// `path = "a"` or `path = ["a", "b"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths(pub Vec<PathBuf>);

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let paths: Vec<PathBuf> = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(path) => vec![path.into()],
            other => other
                .try_into()
                .map_err(|_| D::Error::custom("expected a path, or a list of them"))?,
        };
        match paths.is_empty() {
            true => Err(D::Error::custom("expected at least one path")),
            false => Ok(Self(paths)),
        }
    }
}

impl Serialize for Paths {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [only] => only.serialize(serializer),
            paths => paths.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_hive_are_written_as_they_were_read() {
        for text in [
            "path = \"a\"\nhive = \"auto\"\n",
            "path = [\"a\", \"b\"]\nhive = true\n",
            "path = \"@list\"\nhive = false\n",
        ] {
            let spec: ParquetSourceSpec = toml::from_str(text).expect("it is one");
            assert_eq!(toml::Table::try_from(&spec).expect("plain data").to_string(), text);
        }
        for wrong in ["path = []", "path = 1", "path = \"a\"\nhive = \"yes\""] {
            assert!(toml::from_str::<ParquetSourceSpec>(wrong).is_err(), "{wrong}");
        }
    }
}
