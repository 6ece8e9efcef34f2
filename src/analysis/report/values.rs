//! The columns of one batch as a pass looks at them: is a row ok, what is its score.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::columns::Columns;
use crate::analysis::strings::Strings;
use crate::error::Error;

/// Status words of rows that did not fail: clipmill's, and img2dataset's.
const GOOD: [&[u8]; 2] = [b"ok", b"success"];

/// A batch's columns.
pub struct Values {
    pub status: Strings,
    pub error_message: Strings,
    pub caption: Strings,
    pub image: Strings,
    has_status: bool,
    scores: Option<ArrayRef>,
    tokens: Option<ArrayRef>,
    truncated: Option<ArrayRef>,
}

/// What a row's score is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Score {
    Of(f64),
    /// NaN or infinite.
    NotFinite,
    None,
}

impl Values {
    pub fn of(batch: &RecordBatch, columns: &Columns) -> Result<Self, Error> {
        let text = |name: &Option<String>| Strings::of(batch, name.as_deref());
        let number = |name: &Option<String>, to: DataType| {
            let Some(values) = name.as_deref().and_then(|name| batch.column_by_name(name)) else {
                return Ok(None);
            };
            let wrong = |source| Error::Arrow { action: "read a column as numbers", source };
            cast(values, &to).map(Some).map_err(wrong)
        };
        Ok(Self {
            status: text(&columns.status)?,
            error_message: text(&columns.error_message)?,
            caption: text(&columns.caption)?,
            image: text(&columns.image)?,
            has_status: columns.status.is_some(),
            scores: number(&columns.score, DataType::Float64)?,
            tokens: number(&columns.caption_tokens, DataType::UInt64)?,
            truncated: number(&columns.caption_truncated, DataType::Boolean)?,
        })
    }

    /// Whether the row did not fail, or nothing says so.
    pub fn is_ok(&self, row: usize) -> bool {
        let is_good = |word| GOOD.contains(&word);
        !self.has_status || self.status.raw(row).is_some_and(is_good)
    }

    pub fn score(&self, row: usize) -> Score {
        let Some(scores) = &self.scores else { return Score::None };
        let scores = scores.as_primitive::<Float64Type>();
        match scores.is_valid(row).then(|| scores.value(row)) {
            None => Score::None,
            // -0.0 would be ranked below 0.0.
            Some(value) if value.is_finite() => Score::Of(value + 0.0),
            Some(_) => Score::NotFinite,
        }
    }

    pub fn tokens(&self, row: usize) -> Option<u64> {
        let tokens = self.tokens.as_ref()?.as_primitive::<UInt64Type>();
        tokens.is_valid(row).then(|| tokens.value(row))
    }

    pub fn truncated(&self, row: usize) -> Option<bool> {
        let truncated = self.truncated.as_ref()?.as_boolean();
        truncated.is_valid(row).then(|| truncated.value(row))
    }
}

/// A group's name is cut to this many bytes.
const MOST_NAME: usize = 120;

/// Calls `with` for every row of a column of simple values with what is written there, cut, and
/// `None` for null.
pub fn each_name(
    batch: &RecordBatch,
    column: &str,
    mut with: impl FnMut(usize, Option<&[u8]>),
) -> Result<(), Error> {
    let arrow = |source| Error::Arrow { action: "write a column's values as text", source };
    let Some(values) = batch.column_by_name(column) else { return Ok(()) };
    if *values.data_type() == DataType::BinaryView {
        let names = values.as_binary_view();
        for row in 0..names.len() {
            let name = names.is_valid(row).then(|| names.value(row));
            with(row, name.map(|name| &name[..name.len().min(MOST_NAME)]));
        }
        return Ok(());
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(values, &options).map_err(arrow)?;
    let mut name = String::new();
    for row in 0..values.len() {
        name.clear();
        if values.is_valid(row) {
            formatter.value(row).write(&mut name).map_err(arrow)?;
        }
        let cut = &name.as_bytes()[..name.len().min(MOST_NAME)];
        with(row, values.is_valid(row).then_some(cut));
    }
    Ok(())
}
