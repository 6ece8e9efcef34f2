//! What a few rows hold in text columns, to be shown with them.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray};
use rayon::prelude::*;

use crate::error::Error;
use crate::table::{Piece, Table};

/// Per row, the bytes of each column, where it is not null.
pub type Texts = BTreeMap<u64, Vec<Option<Vec<u8>>>>;

/// Reads text columns of some rows: the row groups that they are in, several at once. A column
/// that the table lacks, or that holds no texts, gives nothing.
///
/// # Errors
/// What reading gives.
pub fn texts(table: &Table, columns: &[&str], rows: &BTreeSet<u64>) -> Result<Texts, Error> {
    let within = |piece: &Piece| rows.range(piece.start..piece.start + piece.rows);
    let pieces: Vec<_> =
        table.pieces().into_iter().filter(|piece| within(piece).next().is_some()).collect();
    let read = |piece: &Piece| {
        let mut found = Texts::new();
        let mut first = piece.start;
        for batch in table.read(*piece, Some(columns))? {
            let batch = batch?;
            let end = first + batch.num_rows() as u64;
            for row in rows.range(first..end) {
                let cell = |name: &&str| {
                    let texts = batch.column_by_name(name)?.as_binary_view_opt()?;
                    let at = (row - first) as usize;
                    texts.is_valid(at).then(|| texts.value(at).to_vec())
                };
                found.insert(*row, columns.iter().map(cell).collect());
            }
            first = end;
        }
        Ok(found)
    };
    let found: Vec<Texts> = pieces.par_iter().map(read).collect::<Result<_, Error>>()?;
    Ok(found.into_iter().flatten().collect())
}
