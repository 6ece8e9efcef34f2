//! One pass over a table on every core, the same result on any number of them.

use arrow::array::RecordBatch;
use rayon::prelude::*;

use crate::error::Error;
use crate::table::Table;

/// Row groups that are read at once. A number of its own, so that sums do not depend on the
/// machine; what a pass holds is at most this many counts of a row group.
const AT_ONCE: usize = 8;

/// What a pass counts.
pub trait Count: Send {
    /// Counts a batch, whose first row is `row`.
    fn add(&mut self, row: u64, batch: &RecordBatch) -> Result<(), Error>;

    /// Takes in the count of later rows.
    fn merge(&mut self, later: Self);
}

/// Counts every row of `columns`.
pub fn fold<T: Count>(
    table: &Table,
    columns: &[&str],
    new: impl Fn() -> T + Sync,
) -> Result<T, Error> {
    let mut whole = new();
    for pieces in table.pieces().chunks(AT_ONCE) {
        let counted = pieces.par_iter().map(|piece| {
            let mut count = new();
            let mut row = piece.start;
            for batch in table.read(*piece, Some(columns))? {
                let batch = batch?;
                count.add(row, &batch)?;
                row += batch.num_rows() as u64;
            }
            Ok(count)
        });
        for count in counted.collect::<Result<Vec<_>, Error>>()? {
            whole.merge(count);
        }
    }
    Ok(whole)
}
