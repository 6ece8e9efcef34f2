//! Rows of equal content: of one hash, or of the same bytes.
//!
//! Held in memory: 20 bytes a row, 16 of them the first half of the value's SHA-256. Two values
//! that differ and agree there are not to be met with, nor to be made (2^64 tries).

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use rayon::slice::ParallelSliceMut;

use super::Found;
use crate::analysis::Reasons;
use crate::digest;
use crate::error::Error;
use crate::table::Table;

/// A row and what its value is told by.
type Keyed = ([u8; 16], [u8; 4]);

/// Joins the rows of equal values; a null or empty one is like none.
pub fn join(table: &Table, column: &str, found: &mut Found) -> Result<Reasons, Error> {
    let mut missing = Reasons::default();
    let mut keyed: Vec<Keyed> = Vec::with_capacity(table.rows() as usize);
    let columns = super::with_status(table, column);
    table.scan(&columns, |first, batch| {
        let values = batch.column_by_name(column).expect("it was asked for");
        for row in 0..batch.num_rows() {
            match value(values.as_ref(), row) {
                Some(value) => {
                    let digest = digest::raw_of_bytes(value);
                    let (half, _) = digest.split_at(16);
                    let row = (first + row as u64) as u32;
                    // As bytes, so that 20 are enough; in this order they sort as the number does.
                    keyed.push((half.try_into().expect("it is half"), row.to_be_bytes()));
                    found.has_key(row);
                }
                None => missing.add(batch, row, "null or empty"),
            }
        }
        Ok(())
    })?;
    keyed.par_sort_unstable();
    for pair in keyed.windows(2) {
        if pair[0].0 == pair[1].0 {
            found.groups.join(u32::from_be_bytes(pair[0].1), u32::from_be_bytes(pair[1].1));
        }
    }
    Ok(missing)
}

/// Whether values of that type can be compared.
pub fn is_content(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Dictionary(_, values) => is_content(values),
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => {
            true
        }
        _ => false,
    }
}

/// Strings and bytes travel as views.
fn value(values: &dyn Array, row: usize) -> Option<&[u8]> {
    let value = match values.data_type() {
        _ if values.is_null(row) => return None,
        DataType::BinaryView => values.as_binary_view().value(row),
        DataType::FixedSizeBinary(_) => values.as_fixed_size_binary().value(row),
        _ => return None,
    };
    (!value.is_empty()).then_some(value)
}
