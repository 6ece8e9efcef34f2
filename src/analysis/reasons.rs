//! Why rows have no value that can be used, and how many for each reason.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

/// The column that says what became of a row.
const STATUS: &str = "status";

/// The most reasons that are told apart: a column named `status` may hold anything.
const MOST: usize = 64;

/// Reason -> rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons(pub BTreeMap<String, u64>);

impl Reasons {
    /// Counts a row of a batch: its status, where it has one that is not `ok`, or else `why`.
    pub fn add(&mut self, batch: &RecordBatch, row: usize, why: &str) {
        let word = match status(batch, row) {
            Some(word) if word != "ok" => word,
            _ => why.to_owned(),
        };
        let is_new = !self.0.contains_key(&word);
        let word = if is_new && self.0.len() >= MOST { "another status".to_owned() } else { word };
        *self.0.entry(word).or_default() += 1;
    }

    /// Rows of all reasons.
    pub fn rows(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Strings travel as bytes.
fn status(batch: &RecordBatch, row: usize) -> Option<String> {
    let column = batch.column_by_name(STATUS)?;
    if *column.data_type() != DataType::BinaryView || column.is_null(row) {
        return None;
    }
    let word = String::from_utf8_lossy(column.as_binary_view().value(row)).into_owned();
    Some(word.chars().take(64).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryViewArray};

    use super::*;

    #[test]
    fn a_status_says_why_and_their_number_is_bounded() {
        let words = BinaryViewArray::from_iter([Some(&b"ok"[..]), Some(b"image_missing"), None]);
        let batch = RecordBatch::try_from_iter([("status", Arc::new(words) as ArrayRef)]);
        let batch = batch.expect("a batch");
        let mut reasons = Reasons::default();
        (0..3).for_each(|row| reasons.add(&batch, row, "null"));
        assert_eq!(reasons.0, BTreeMap::from([("image_missing".into(), 1), ("null".into(), 2)]));
        let words: Vec<_> = (0..100).map(|n| n.to_string().into_bytes()).collect();
        let words = BinaryViewArray::from_iter(words.into_iter().map(Some));
        let batch = RecordBatch::try_from_iter([("status", Arc::new(words) as ArrayRef)]);
        let batch = batch.expect("a batch");
        (0..100).for_each(|row| reasons.add(&batch, row, "null"));
        assert_eq!((reasons.0.len(), reasons.rows()), (MOST + 1, 103));
    }
}
