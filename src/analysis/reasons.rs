//! Why rows have no value that can be used, and how many for each reason.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use serde::{Deserialize, Serialize};

/// The column that says what became of a row.
const STATUS: &str = "status";

/// The most reasons that are told apart: a column named `status` may hold anything.
const MOST: usize = 24;

/// The longest reason, in bytes.
const LONGEST: usize = 64;

/// What the others are counted under.
const OTHER: &str = "another status";

/// Reason -> rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons(pub BTreeMap<String, u64>);

impl Reasons {
    /// Counts a row of a batch: its status, where it has one that is not `ok`, or else `why`.
    pub fn add(&mut self, batch: &RecordBatch, row: usize, why: &str) {
        match status(batch, row) {
            Some(word) if word != b"ok" => self.count(word, 1),
            _ => self.count(why.as_bytes(), 1),
        }
    }

    /// Counts rows of a reason. What is no short word is counted among the others, and so is
    /// another one where there are many.
    pub fn count(&mut self, reason: &[u8], rows: u64) {
        let is_word = |c: &u8| c.is_ascii_alphanumeric() || b"_ ,".contains(c);
        let is_plain = reason.len() <= LONGEST && reason.iter().all(is_word);
        let word = std::str::from_utf8(reason).ok().filter(|_| is_plain);
        let known = word.filter(|word| self.0.contains_key(*word) || self.0.len() < MOST);
        *self.0.entry(known.unwrap_or(OTHER).to_owned()).or_default() += rows;
    }

    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(reason, rows)| self.count(reason.as_bytes(), *rows));
    }

    /// Rows of all reasons.
    pub fn rows(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Strings travel as bytes.
fn status(batch: &RecordBatch, row: usize) -> Option<&[u8]> {
    let column = batch.column_by_name(STATUS)?.as_binary_view_opt()?;
    column.is_valid(row).then(|| column.value(row))
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
        reasons.count("<b>é</b>".as_bytes(), 2);
        reasons.count(&[b'a'; 65], 2);
        assert_eq!((reasons.0.len(), reasons.rows()), (MOST + 1, 107));
    }
}
