//! Which column of a table is what: as the command says, as the pipeline that made it says, or by
//! the names that people use.

use arrow::datatypes::{DataType, Field};

use crate::error::Error;
use crate::spec::{ColumnSpec, ReportSpec};
use crate::table::Table;
use crate::travel::is_text;

/// Names of score columns, those of clipmill first, then DataComp's.
const SCORES: [&str; 6] = [
    "similarity",
    "cosine",
    "clip_score",
    "clip_l14_similarity_score",
    "clip_b32_similarity_score",
    "score",
];
const CAPTIONS: [&str; 3] = ["caption", "text", "caption_text"];
const IMAGES: [&str; 4] = ["image_path", "image", "path", "file_name"];

/// The columns that a report reads, where they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    pub score: Option<String>,
    pub caption: Option<String>,
    pub image: Option<String>,
    pub status: Option<String>,
    pub error_message: Option<String>,
    pub caption_tokens: Option<String>,
    pub caption_truncated: Option<String>,
    pub by: Vec<String>,
    /// How a threshold is rounded before it is compared with a score: as numpy, polars and
    /// DataComp's script do.
    pub rounding: Rounding,
}

/// The float type of the score column.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Rounding {
    F16,
    F32,
    #[default]
    F64,
}

impl Rounding {
    /// The threshold as the column's type holds it.
    pub fn round(self, value: f64) -> f64 {
        match self {
            Rounding::F16 => half::f16::from_f64(value).to_f64(),
            Rounding::F32 => f64::from(value as f32),
            Rounding::F64 => value,
        }
    }
}

impl Columns {
    /// Finds them.
    ///
    /// # Errors
    /// `NoColumn` or `ColumnType` for one that the settings name.
    pub fn find(table: &Table, spec: &ReportSpec) -> Result<Self, Error> {
        let made = Made::of(table);
        let kind = |kind: ColumnSpec| made.column(kind).unwrap_or(kind.as_str().to_owned());
        let found = |name: String, does: fn(&DataType) -> bool| {
            table.find(&name).is_some_and(|field| does(field.data_type())).then_some(name)
        };
        let own = |asked: &Option<String>, pipeline: Option<String>, names: &[&str], does| {
            Self::pick(table, (asked, pipeline, names), does)
        };
        let score = own(&spec.score, table.made_scores().into_iter().next(), &SCORES, NUMBER)?;
        let data_type = score.as_ref().and_then(|name| table.find(name)).map(Field::data_type);
        let rounding = match data_type {
            Some(DataType::Float16) => Rounding::F16,
            Some(DataType::Float32) => Rounding::F32,
            _ => Rounding::F64,
        };
        for name in &spec.by {
            let field = table.field(name)?;
            if field.data_type().is_nested() {
                return Err(table.wrong_type(name, "rows are grouped by simple values".into()));
            }
        }
        Ok(Self {
            score,
            caption: own(&spec.caption, made.source("caption"), &CAPTIONS, TEXT)?,
            image: own(&spec.image, made.source("image"), &IMAGES, TEXT)?,
            status: found(kind(ColumnSpec::Status), is_text),
            error_message: found(kind(ColumnSpec::ErrorMessage), is_text),
            caption_tokens: found(kind(ColumnSpec::CaptionTokens), DataType::is_integer),
            caption_truncated: found(kind(ColumnSpec::CaptionTruncated), is_bool),
            by: spec.by.clone(),
            rounding,
        })
    }

    /// A column by what is asked for, what made the table, or a usual name.
    fn pick(
        table: &Table,
        (asked, pipeline, names): (&Option<String>, Option<String>, &[&str]),
        (does, wanted): Kind,
    ) -> Result<Option<String>, Error> {
        if let Some(name) = asked {
            return match does(table.field(name)?.data_type()) {
                true => Ok(Some(name.clone())),
                false => Err(table.wrong_type(name, wanted.to_owned())),
            };
        }
        let usual = names.iter().map(|name| (*name).to_owned());
        let fits = |name: &String| table.find(name).is_some_and(|field| does(field.data_type()));
        Ok(pipeline.into_iter().chain(usual).find(fits))
    }

    /// The names of those that are there.
    pub fn names(&self) -> Vec<&str> {
        let one = [
            &self.score,
            &self.caption,
            &self.image,
            &self.status,
            &self.error_message,
            &self.caption_tokens,
            &self.caption_truncated,
        ];
        one.into_iter().flatten().chain(&self.by).map(String::as_str).collect()
    }
}

/// Whether a type does, and what to say of one that does not.
type Kind = (fn(&DataType) -> bool, &'static str);

const NUMBER: Kind = (DataType::is_numeric, "a number is needed");
const TEXT: Kind = (is_text, "text is needed");

fn is_bool(kind: &DataType) -> bool {
    *kind == DataType::Boolean
}

/// The pipeline that a table says it was made by.
pub struct Made(toml::Table);

impl Made {
    pub fn of(table: &Table) -> Self {
        Self(table.pipeline())
    }

    fn section(&self, path: &[&str]) -> Option<&toml::Table> {
        path.iter().try_fold(&self.0, |table, key| table.get(*key)?.as_table())
    }

    /// The name of an input column.
    fn source(&self, key: &str) -> Option<String> {
        let found = self.section(&["source", "parquet"])?.get(key)?;
        // Of several captions the first.
        let first = found.as_array().and_then(|names| names.first()).unwrap_or(found);
        Some(first.as_str()?.to_owned())
    }

    /// The output column of a kind.
    fn column(&self, kind: ColumnSpec) -> Option<String> {
        let columns = self.section(&["columns"])?;
        let (name, _) = columns.iter().find(|(_, is)| is.as_str() == Some(kind.as_str()))?;
        Some(name.clone())
    }

    /// Where the images were.
    pub fn images_root(&self) -> Option<std::path::PathBuf> {
        Some(self.section(&["image", "path"])?.get("root")?.as_str()?.into())
    }
}
