//! What a Parquet footer says that cannot be so.
//!
//! Readers believe a footer: they allocate what it says, and count on its sums. What is checked
//! here is what every writer gets right, so that no good file is refused.

use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::schema::types::Type;

/// Schemas nested more deeply than this are refused: readers recurse into them, and Arrow's of the
/// types that are written beside a schema gives up at 62.
pub const MOST_DEPTH: usize = 60;

/// More rows than this are a lie.
const MOST_ROWS: i64 = 1 << 40;

/// Makes sure that a footer is one that a file of `bytes` bytes can have.
///
/// # Errors
/// What cannot be so, in words that follow "the file is damaged: ".
pub fn check_footer(footer: &ParquetMetaData, bytes: u64) -> Result<(), String> {
    let file = footer.file_metadata();
    if is_deeper(file.schema(), MOST_DEPTH) {
        return Err(format!("its schema is nested more than {MOST_DEPTH} deep"));
    }
    let rows = file.num_rows();
    if !(0..=MOST_ROWS).contains(&rows) {
        return Err(format!("its footer claims {rows} rows"));
    }
    let mut sum = 0_i64;
    for (index, group) in footer.row_groups().iter().enumerate() {
        check_group(group, bytes).map_err(|problem| format!("row group {index} {problem}"))?;
        // Both are at most `MOST_ROWS`, until the check below.
        sum += group.num_rows();
        if sum > rows {
            break;
        }
    }
    if sum != rows {
        return Err(format!("its footer claims {rows} rows, and its row groups hold {sum}"));
    }
    Ok(())
}

fn check_group(group: &RowGroupMetaData, bytes: u64) -> Result<(), String> {
    let rows = group.num_rows();
    if !(0..=MOST_ROWS).contains(&rows) {
        return Err(format!("claims {rows} rows"));
    }
    for column in group.columns() {
        let path = column.column_path();
        let (values, flat) = (column.num_values(), column.column_descr().max_rep_level() == 0);
        if values < 0 || (flat && values != rows) {
            return Err(format!("claims {rows} rows and {values} values of {path}"));
        }
        // Where the pages begin; some writers say 0 for a dictionary that there is not.
        let pages = column.data_page_offset();
        let start = column.dictionary_page_offset().unwrap_or(pages);
        let size = column.compressed_size();
        let end = u64::try_from(start)
            .ok()
            .zip(u64::try_from(size).ok())
            .and_then(|(start, size)| start.checked_add(size));
        let inside = end.is_some_and(|end| end <= bytes);
        if !inside || !u64::try_from(pages).is_ok_and(|pages| pages <= bytes) {
            return Err(format!("says that {path} is {size} bytes at {start}, of {bytes} in all"));
        }
    }
    Ok(())
}

/// Whether a type has more than `most` levels below it.
fn is_deeper(node: &Type, most: usize) -> bool {
    match node {
        Type::PrimitiveType { .. } => false,
        Type::GroupType { fields, .. } => {
            !fields.is_empty() && (most == 0 || fields.iter().any(|f| is_deeper(f, most - 1)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, RecordBatch};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData};
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;

    use super::*;

    const BYTES: u64 = 1000;

    fn footer() -> ParquetMetaData {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_from_iter([("x", column)]).expect("a batch");
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("written")
    }

    fn claiming(rows: i64) -> ParquetMetaData {
        let footer = footer();
        let schema = footer.file_metadata().schema_descr_ptr();
        let file = FileMetaData::new(1, rows, None, None, schema, None);
        ParquetMetaData::new(file, footer.row_groups().to_vec())
    }

    fn with_column(
        change: impl FnOnce(
            ColumnChunkMetaData,
        ) -> Result<ColumnChunkMetaData, parquet::errors::ParquetError>,
    ) -> ParquetMetaData {
        let footer = footer();
        let group = footer.row_group(0).clone();
        let column = change(group.column(0).clone()).expect("it can be changed");
        let group = group.into_builder().set_column_metadata(vec![column]).build();
        footer.into_builder().set_row_groups(vec![group.expect("a row group")]).build()
    }

    fn nested(depth: usize) -> ParquetMetaData {
        let (open, close) = ("optional group g {".repeat(depth - 1), "}".repeat(depth));
        let message = format!("message m {{ {open} optional int32 x; {close}");
        let message = parse_message_type(&message).expect("it is one");
        let schema = Arc::new(SchemaDescriptor::new(message.into()));
        ParquetMetaData::new(FileMetaData::new(1, 0, None, None, schema, None), vec![])
    }

    #[test]
    fn what_a_writer_says_is_so() {
        assert_eq!(check_footer(&footer(), BYTES), Ok(()));
        assert_eq!(check_footer(&claiming(3), BYTES), Ok(()));
        assert_eq!(check_footer(&nested(MOST_DEPTH), BYTES), Ok(()));
    }

    #[test]
    fn numbers_of_rows_that_do_not_agree_are_refused() {
        for rows in [-1, 0, 2, 4, i64::MAX, i64::MIN] {
            assert!(check_footer(&claiming(rows), BYTES).is_err(), "{rows}");
        }
        for values in [-3, 0, 4] {
            let changed =
                with_column(|column| column.into_builder().set_num_values(values).build());
            assert!(check_footer(&changed, BYTES).is_err(), "{values}");
        }
    }

    #[test]
    fn columns_outside_of_the_file_and_deep_schemas_are_refused() {
        for offset in [-1, 990, i64::MAX] {
            let changed = with_column(|column| {
                column.into_builder().set_dictionary_page_offset(Some(offset)).build()
            });
            assert!(check_footer(&changed, BYTES).is_err(), "{offset}");
        }
        for size in [-1, 1000, i64::MAX] {
            let changed =
                with_column(|column| column.into_builder().set_total_compressed_size(size).build());
            assert!(check_footer(&changed, BYTES).is_err(), "{size}");
        }
        assert!(check_footer(&nested(MOST_DEPTH + 1), BYTES).is_err());
    }
}
