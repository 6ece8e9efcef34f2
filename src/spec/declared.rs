//! A column as it is declared: `name = "kind"`, or a table where there is more to say.

use serde::{Deserialize, Serialize};

use super::ColumnSpec;

/// How one output column is filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredColumn {
    pub kind: ColumnSpec,
    /// The model that it is about, where there are several.
    pub model: Option<String>,
    /// The caption column that it is about; the first of the source's where none is named.
    pub caption: Option<String>,
    /// The caption columns that it is compared with.
    pub references: Vec<String>,
    /// The head that gives it, for what a head gives.
    pub head: Option<String>,
    /// Which of a head's numbers it is, from 0; all where none is named.
    pub index: Option<usize>,
}

/// `{ kind = "...", model = "...", caption = "...", references = [...], head = "...", index = 0 }`
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kind: ColumnSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caption: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    references: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
}

impl From<ColumnSpec> for DeclaredColumn {
    fn from(kind: ColumnSpec) -> Self {
        let references = Vec::new();
        Self { kind, model: None, caption: None, references, head: None, index: None }
    }
}

impl<'de> Deserialize<'de> for DeclaredColumn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Table(table) => {
                let Table { kind, model, caption, references, head, index } = table
                    .try_into()
                    .map_err(|error: toml::de::Error| D::Error::custom(error.message()))?;
                Ok(Self { kind, model, caption, references, head, index })
            }
            word => {
                let kind = word.try_into::<ColumnSpec>();
                kind.map(Self::from).map_err(|error| D::Error::custom(error.message()))
            }
        }
    }
}

impl Serialize for DeclaredColumn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Self::from(self.kind) {
            return self.kind.serialize(serializer);
        }
        let Self { kind, model, caption, references, head, index } = self.clone();
        Table { kind, model, caption, references, head, index }.serialize(serializer)
    }
}

/// `caption = "caption"`, or `caption = ["caption", "alt_text"]`: one name or several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names(pub Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(name) => vec![name],
            other => other.try_into().map_err(|_| {
                serde::de::Error::custom("expected a column's name, or a list of names")
            })?,
        };
        Ok(Self(names))
    }
}

impl Serialize for Names {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [only] => only.serialize(serializer),
            names => names.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DeclaredColumn, String> {
        let table: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
        table["x"].clone().try_into().map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn a_column_is_a_word_or_a_table_and_is_written_as_it_was_read() {
        for text in [
            "x = \"cosine\"\n",
            "[x]\nkind = \"cosine\"\ncaption = \"alt\"\n",
            "[x]\nkind = \"ref_clip_score\"\nreferences = [\"a\", \"b\"]\n",
            "[x]\nkind = \"image_head\"\nhead = \"nsfw\"\nindex = 2\n",
        ] {
            let written = toml::Table::from_iter([(
                "x".to_owned(),
                toml::Value::try_from(read(text).expect("it is one")).expect("plain data"),
            )]);
            assert_eq!(written.to_string(), text);
        }
        assert!(read("x = \"cosin\"").is_err_and(|error| error.contains("unknown variant")));
        let wrong = read("x = { kind = \"cosine\", of = \"alt\" }");
        assert!(wrong.is_err_and(|error| error.contains("unknown field `of`")));
        assert!(read("x = { caption = \"alt\" }").is_err());
    }
}
