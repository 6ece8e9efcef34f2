//! A column of text as the bytes it holds: a caption may be anything.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use crate::error::Error;

/// A longer text is shown to here, in bytes.
const MOST_TEXT: usize = 4096;

/// A batch's column of text, or none.
pub struct Strings(Option<ArrayRef>);

impl Strings {
    /// The column of that name, where there is one.
    ///
    /// # Errors
    /// `Arrow` for a column that holds no text.
    pub fn of(batch: &RecordBatch, column: Option<&str>) -> Result<Self, Error> {
        let Some(values) = column.and_then(|name| batch.column_by_name(name)) else {
            return Ok(Self(None));
        };
        let values = cast(values, &DataType::BinaryView)
            .map_err(|source| Error::Arrow { action: "read a column as bytes", source })?;
        Ok(Self(Some(values)))
    }

    /// The bytes of a row.
    pub fn raw(&self, row: usize) -> Option<&[u8]> {
        let values = self.0.as_ref()?.as_binary_view();
        values.is_valid(row).then(|| values.value(row))
    }

    /// The text of a row, with what is not UTF-8 in it replaced, and cut to 4 KiB.
    pub fn get(&self, row: usize) -> Option<String> {
        let text = self.raw(row)?;
        let cut = &text[..text.len().min(MOST_TEXT)];
        let shown = match str::from_utf8(cut) {
            // The cut went through a character.
            Err(error) if error.error_len().is_none() && cut.len() < text.len() => {
                &cut[..error.valid_up_to()]
            }
            _ => cut,
        };
        Some(String::from_utf8_lossy(shown).into_owned())
    }
}
