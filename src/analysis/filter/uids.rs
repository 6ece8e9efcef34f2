//! The `uid`s of rows as DataComp's tools read them: a sorted NumPy file of pairs of u64, the first
//! and the last 16 hexadecimal digits.
//!
//! Byte for byte what `uids.sort(); np.save(path, uids)` of DataComp's `apply_filter.py` writes.

use std::path::Path;

use arrow::array::{Array, AsArray};

use super::super::export::npy;
use crate::error::Error;
use crate::files;
use crate::table::Table;

/// The element type: a pair of numbers.
const PAIRS: &str = "[('f0', '<u8'), ('f1', '<u8')]";

/// Writes the `uid`s of a table and gives their number. Holds 16 bytes a row.
///
/// # Errors
/// `NoColumn`; `Setting` for a value that is not 32 hexadecimal digits; what reading and writing
/// give.
pub fn write(table: &Table, column: &str, path: &Path) -> Result<u64, Error> {
    let mut uids: Vec<(u64, u64)> = Vec::with_capacity(table.rows() as usize);
    table.scan(&[column], |first, batch| {
        let texts = batch.column(0).as_binary_view();
        for row in 0..texts.len() {
            let text = if texts.is_valid(row) { texts.value(row) } else { b"null" };
            uids.push(parse(text).ok_or_else(|| {
                let (text, row) = (String::from_utf8_lossy(text), first + row as u64);
                let problem = format!(
                    "\"{text}\" in row {row} of those kept is not 32 hexadecimal digits, as the \
                     subset file of uids needs them"
                );
                Error::Setting { key: format!("column \"{column}\""), problem }
            })?);
        }
        Ok(())
    })?;
    uids.sort_unstable();
    let mut bytes = npy::header(PAIRS, uids.len() as u64, "");
    bytes.reserve(uids.len() * 16);
    for (high, low) in &uids {
        bytes.extend(high.to_le_bytes());
        bytes.extend(low.to_le_bytes());
    }
    files::replace(path, &bytes)?;
    Ok(uids.len() as u64)
}

fn parse(text: &[u8]) -> Option<(u64, u64)> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.len() == 32)?;
    // `from_str_radix` takes a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let half = |digits| u64::from_str_radix(digits, 16).ok();
    Some((half(&digits[..16])?, half(&digits[16..])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_32_digits_and_nothing_else() {
        assert_eq!(parse(b"0000000000000001ffffFFFFffffffff"), Some((1, u64::MAX)));
        for text in ["", "+000000000000001ffffffffffffffff", "0x00000000000001ffffffffffffffff"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
