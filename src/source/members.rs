//! What samples of files of one name hold: images by their extension, captions by theirs or in a
//! field of their JSON. Where the files are (a tar shard, a folder) is not known here.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};

use crate::error::Error;

/// Where a sample's things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The extensions of images; the first that a sample has counts.
    pub images: Vec<String>,
    /// The extensions of captions, or `json.FIELD`; each is a column.
    pub captions: Vec<String>,
}

impl Members {
    /// Reads `"jpg;png"`.
    pub fn of(images: &str, captions: &[String]) -> Self {
        let images = images.split(';').map(|word| word.trim().to_lowercase());
        Self {
            images: images.filter(|word| !word.is_empty()).collect(),
            captions: captions.to_vec(),
        }
    }

    /// The columns of text after those that are `first`: the captions and, where samples have some
    /// and it is no caption, `json`.
    ///
    /// # Errors
    /// `NoColumn` where no sample has what is asked for, among the extensions that there are.
    pub fn schema(
        &self,
        first: &[(&str, bool)],
        extensions: &BTreeSet<Vec<u8>>,
        path: &Path,
    ) -> Result<SchemaRef, Error> {
        let has = |wanted: &str| extensions.contains(wanted.as_bytes());
        let images = self.images.iter().any(|image| has(image));
        let wanted = self.captions.iter().find(|caption| !has(extension(caption)));
        let missing = match (images, wanted) {
            _ if extensions.is_empty() => None,
            (false, _) => Some(self.images.join(";")),
            (true, caption) => caption.cloned(),
        };
        if let Some(column) = missing {
            let names: Vec<_> = extensions.iter().map(|own| String::from_utf8_lossy(own)).collect();
            let hint = format!(": its samples have {}", names.join(", "));
            return Err(Error::NoColumn { path: path.to_owned(), column, hint });
        }
        let json = has("json") && !self.captions.iter().any(|caption| caption == "json");
        let field = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
        let mut fields: Vec<_> =
            first.iter().map(|(name, nullable)| field(name, *nullable)).collect();
        fields.extend(self.captions.iter().map(|name| field(name, true)));
        fields.extend(json.then(|| field("json", true)));
        Ok(Arc::new(arrow::datatypes::Schema::new(fields)))
    }
}

/// What a caption's file is called.
pub fn extension(caption: &str) -> &str {
    if caption.starts_with("json.") { "json" } else { caption }
}

/// What a sample has for each column of text. `read` gives what it has of an extension.
pub fn texts<'a>(
    columns: impl Iterator<Item = &'a str>,
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>, Error>,
) -> Result<Vec<Option<Vec<u8>>>, Error> {
    let mut json = None;
    let mut values = Vec::new();
    for name in columns {
        let Some(field) = name.strip_prefix("json.") else {
            values.push(read(name)?);
            continue;
        };
        if json.is_none() {
            let text = read("json")?.unwrap_or_default();
            json = Some(serde_json::from_slice(&text).unwrap_or(serde_json::Value::Null));
        }
        let found = json.as_ref().and_then(|json| json.get(field)?.as_str());
        values.push(found.map(|text| text.as_bytes().to_vec()));
    }
    Ok(values)
}
