//! How many rows to hold at once: as many as fit a number of bytes, whatever a row's size is.
//!
//! Views repeat the values of a dictionary at no cost, until they are written or cast. So a batch
//! is cut to pieces by what its values would take if each were there on its own.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, GenericListViewArray, OffsetSizeTrait, RecordBatch,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{ArrowNativeType, DataType};
use parquet::basic::Encoding;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

/// Rows to read at once, however small they are said to be: a footer's sizes may be lies. Reading
/// few at a time costs half a microsecond a row.
pub const MOST_ROWS: u64 = 8;

/// Rows to read at once so that their values take about `limit` bytes: for values that pages hold
/// one by one, compressed a thousand times or honestly large.
pub fn rows_per_read(footer: &ParquetMetaData, limit: u64) -> usize {
    let fits = footer.row_groups().iter().map(|group| {
        // Such a page says what each value has in common with the one before it, which is there
        // again and again once it is read.
        let is_delta = |column: &ColumnChunkMetaData| {
            column.encodings().any(|encoding| encoding == Encoding::DELTA_BYTE_ARRAY)
        };
        if group.columns().iter().any(is_delta) {
            return 1;
        }
        let sizes = group.columns().iter().map(|column| column.uncompressed_size().max(0) as u64);
        let bytes = sizes.fold(0, u64::saturating_add).max(1);
        let each = bytes / (group.num_rows().max(1) as u64);
        limit / each.max(1)
    });
    fits.min().unwrap_or(MOST_ROWS).clamp(1, MOST_ROWS) as usize
}

/// For each row of a batch, and for its end, the bytes that the rows before it take.
///
/// It is the same for the same rows, however they were read and joined.
pub fn row_ends(batch: &RecordBatch) -> Vec<u64> {
    let mut ends = vec![0; batch.num_rows() + 1];
    for column in batch.columns() {
        add(&mut ends, &bytes_up_to(column));
    }
    ends
}

/// How many rows, of those whose [`row_ends`] these are, take at most `limit` bytes: at least one,
/// if there is one.
pub fn rows_that_fit(ends: &[u64], limit: u64) -> usize {
    let within = ends.partition_point(|end| end - ends[0] <= limit);
    within.saturating_sub(1).max(1).min(ends.len() - 1)
}

/// For each of an array's positions, and for its end, the bytes that the values before it take
/// when each is written out.
fn bytes_up_to(array: &ArrayRef) -> Vec<u64> {
    match array.data_type() {
        DataType::BinaryView => view_bytes(array.as_binary_view()),
        DataType::List(_) => at(array.as_list::<i32>().offsets(), array.as_list::<i32>().values()),
        DataType::LargeList(_) => {
            at(array.as_list::<i64>().offsets(), array.as_list::<i64>().values())
        }
        DataType::ListView(_) => in_list_views(array.as_list_view::<i32>()),
        DataType::LargeListView(_) => in_list_views(array.as_list_view::<i64>()),
        DataType::Map(..) => {
            let (map, mut ends) = (array.as_map(), vec![0; array.len() + 1]);
            add(&mut ends, &at(map.offsets(), map.keys()));
            add(&mut ends, &at(map.offsets(), map.values()));
            ends
        }
        DataType::FixedSizeList(_, size) => {
            let list = array.as_fixed_size_list();
            let inner = bytes_up_to(list.values());
            (0..=list.len()).map(|end| inner[end * *size as usize]).collect()
        }
        DataType::Struct(_) => {
            let mut ends = vec![0; array.len() + 1];
            for column in array.as_struct().columns() {
                add(&mut ends, &bytes_up_to(column));
            }
            ends
        }
        other => {
            let each = width(other);
            (0..=array.len() as u64).map(|end| end * each).collect()
        }
    }
}

/// Bytes of a value of a type whose values all have the same size.
fn width(data_type: &DataType) -> u64 {
    match data_type {
        DataType::FixedSizeBinary(bytes) => *bytes as u64,
        // Numbers, whatever is said of them.
        DataType::Dictionary(_, values) => width(values),
        other => other.primitive_width().unwrap_or(1) as u64,
    }
}

fn view_bytes(array: &BinaryViewArray) -> Vec<u64> {
    let mut end = 0;
    let view = size_of::<u128>() as u64;
    let lengths = (0..array.len()).map(|row| match array.is_valid(row) {
        // A view's first 32 bits are its length. A null's may be anything.
        true => view + u64::from(array.views()[row] as u32),
        false => view,
    });
    let ends = lengths.map(|length| {
        end += length;
        end
    });
    std::iter::once(0).chain(ends).collect()
}

/// The bytes of lists with these offsets into `values`, each with those before it.
fn at<O: ArrowNativeType>(offsets: &OffsetBuffer<O>, values: &ArrayRef) -> Vec<u64> {
    let inner = bytes_up_to(values);
    let first = inner[offsets[0].as_usize()];
    offsets.iter().map(|offset| inner[offset.as_usize()] - first).collect()
}

/// The same for lists that may be anywhere in their values.
fn in_list_views<O: OffsetSizeTrait>(lists: &GenericListViewArray<O>) -> Vec<u64> {
    let inner = bytes_up_to(lists.values());
    let mut ends = vec![0];
    for (offset, size) in lists.offsets().iter().zip(lists.sizes()) {
        let (start, end) = (offset.as_usize(), offset.as_usize() + size.as_usize());
        ends.push(ends.last().expect("it begins with one") + inner[end] - inner[start]);
    }
    ends
}

fn add(ends: &mut [u64], others: &[u64]) {
    for (end, other) in ends.iter_mut().zip(others) {
        *end += other;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        FixedSizeListArray, Float32Array, Int32Array, ListArray, ListViewArray, StructArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;

    use super::*;

    fn views(lengths: &[usize]) -> ArrayRef {
        Arc::new(BinaryViewArray::from_iter_values(lengths.iter().map(|n| vec![b'x'; *n])))
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).expect("equally long")
    }

    fn rows(batch: &RecordBatch, limit: u64) -> Vec<usize> {
        let ends = row_ends(batch);
        let (mut start, mut rows) = (0, Vec::new());
        while start < batch.num_rows() {
            rows.push(rows_that_fit(&ends[start..], limit));
            start += rows.last().expect("it was just pushed");
        }
        rows
    }

    #[test]
    fn a_piece_holds_as_many_rows_as_fit_and_a_larger_row_is_alone() {
        let texts = batch(vec![("text", views(&[40, 60, 1, 500, 100, 0, 0]))]);
        assert_eq!(rows(&texts, 100), [1, 2, 1, 1, 2]);
        assert_eq!(rows(&texts, 0), [1; 7]);
        assert_eq!(rows(&texts, u64::MAX), [7]);
        assert_eq!(rows_that_fit(&row_ends(&texts.slice(0, 0)), 100), 0);
        // Where a batch was cut before makes no difference.
        assert_eq!(rows(&texts.slice(1, 5), 100), [2, 1, 1, 1]);
    }

    #[test]
    fn values_in_lists_and_structs_count_for_their_rows() {
        let item = Arc::new(Field::new("item", DataType::BinaryView, true));
        let offsets = OffsetBuffer::from_lengths([2, 0, 3]);
        let list = ListArray::new(item.clone(), offsets, views(&[10, 20, 30, 40, 50]), None);
        let list_view: ArrayRef = Arc::new(ListViewArray::from(list.clone()));
        assert_eq!(bytes_up_to(&list_view), [0, 62, 62, 230]);
        let fields =
            vec![item.clone(), Arc::new(Field::new("list", list.data_type().clone(), true))];
        let columns = vec![views(&[1, 2, 3]), Arc::new(list) as ArrayRef];
        let nested = StructArray::new(fields.into(), columns, None);
        let float = Arc::new(Field::new("item", DataType::Float32, true));
        let floats = Arc::new(Float32Array::from(vec![0.0; 6]));
        let embedding = FixedSizeListArray::new(float, 2, floats, None);
        let number = Arc::new(Int32Array::from(vec![1, 2, 3]));
        let batch = batch(vec![
            ("nested", Arc::new(nested)),
            ("embedding", Arc::new(embedding)),
            ("number", number),
        ]);
        assert_eq!(row_ends(&batch), [0, 91, 121, 320]);
        assert_eq!(row_ends(&batch.slice(1, 2)), [0, 30, 229]);
    }
}
