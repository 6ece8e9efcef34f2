//! Rows that hold several images or captions: each goes through the stages as a row of its own,
//! beside what the row has one of, and what comes out is put into lists again.
//!
//! A row without any (an empty list, a null) goes through as one with a null, for its status.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, UInt32Array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;

/// The type of a list's elements, where the type is one of lists.
pub fn element(data_type: &DataType) -> Option<&FieldRef> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item)
        }
        _ => None,
    }
}

/// The input columns that are used, where some of them are lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsedLists {
    pub lists: Vec<String>,
    /// The others.
    pub beside: Vec<String>,
}

/// The rows of a batch whose elements are rows of another.
#[derive(Debug, Clone)]
pub struct Listed {
    /// As they were read.
    pub rows: RecordBatch,
    /// For each row, its first element's; then their number.
    starts: Vec<u32>,
    /// For each column of lists, its name and how many each row has; `None` for a null.
    lengths: Vec<(String, Vec<Option<u32>>)>,
}

impl Listed {
    /// Takes the elements of lists out of `rows`, with what the columns beside have for their row.
    /// Where lists of a row differ in length, the shorter is filled up with nulls.
    ///
    /// # Errors
    /// What Arrow says of a column that cannot be taken apart.
    pub fn explode(rows: RecordBatch, used: &UsedLists) -> Result<(RecordBatch, Self), ArrowError> {
        let n_rows = rows.num_rows();
        let mut lists = Vec::new();
        for name in &used.lists {
            let column = rows.column_by_name(name);
            let item = column.and_then(|column| Some((column, element(column.data_type())?)));
            let Some((column, item)) = item else {
                let what = format!("column \"{name}\" is none of lists");
                return Err(ArrowError::SchemaError(what));
            };
            let list = cast(column, &DataType::List(item.clone()))?;
            lists.push((name.as_str(), list.as_list::<i32>().clone()));
        }
        let length =
            |list: &ListArray, row| list.is_valid(row).then(|| list.value_length(row) as u32);
        let lengths: Vec<(String, Vec<_>)> = lists
            .iter()
            .map(|(name, list)| {
                ((*name).to_owned(), (0..n_rows).map(|row| length(list, row)).collect())
            })
            .collect();
        let mut starts = Vec::with_capacity(n_rows + 1);
        let (mut from, mut end) = (Vec::new(), 0);
        for row in 0..n_rows {
            starts.push(end);
            let most = lengths.iter().filter_map(|(_, lengths)| lengths[row]).max();
            let n = most.unwrap_or(0).max(1);
            from.extend(std::iter::repeat_n(row as u32, n as usize));
            end += n;
        }
        starts.push(end);
        let listed = Self { rows, starts, lengths };
        let from = UInt32Array::from(from);
        let elements = lists
            .iter()
            .map(|(name, list)| Ok((*name, take(list.values(), &listed.places(list), None)?)));
        let beside = used.beside.iter().filter_map(|name| {
            let column = listed.rows.column_by_name(name)?;
            Some(take(column, &from, None).map(|column| (name.as_str(), column)))
        });
        let taken = elements.chain(beside).collect::<Result<Vec<_>, ArrowError>>()?;
        // A batch knows its rows by its columns.
        let flat = RecordBatch::try_from_iter_with_nullable(
            taken.into_iter().map(|(name, elements)| (name, elements, true)),
        )?;
        Ok((flat, listed))
    }

    /// Where each element is among a list's values.
    fn places(&self, list: &ListArray) -> UInt32Array {
        let of_row = |row: usize| {
            let n = self.of_row(row).len() as u32;
            let first = list.value_offsets()[row] as u32;
            let own = if list.is_valid(row) { list.value_length(row) as u32 } else { 0 };
            (0..n).map(move |at| (at < own).then_some(first + at))
        };
        (0..self.rows.num_rows()).flat_map(of_row).collect()
    }

    /// The elements of a row.
    pub fn of_row(&self, row: usize) -> Range<usize> {
        self.starts[row] as usize..self.starts[row + 1] as usize
    }

    /// The row of an element.
    pub fn row_of(&self, element: usize) -> usize {
        self.starts.partition_point(|start| *start as usize <= element) - 1
    }

    /// A value an element -> a value a row, where all elements of a row have the same.
    pub fn one(&self, values: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let n_rows = self.rows.num_rows();
        take(values, &UInt32Array::from(self.starts[..n_rows].to_vec()), None)
    }

    /// A value an element -> a list a row, as long as the longest of its lists in `columns`; a null
    /// where all of them are.
    pub fn lists(&self, values: &ArrayRef, columns: &[String]) -> Result<ArrayRef, ArrowError> {
        let lengths: Vec<_> = self
            .lengths
            .iter()
            .filter_map(|(name, lengths)| columns.contains(name).then_some(lengths))
            .collect();
        let n_rows = self.rows.num_rows();
        let most = |row: usize| lengths.iter().filter_map(|lengths| lengths[row]).max();
        let most: Vec<_> = (0..n_rows).map(most).collect();
        let kept = most
            .iter()
            .zip(&self.starts)
            .flat_map(|(n, start)| (0..n.unwrap_or(0)).map(move |at| start + at));
        let values = take(values, &UInt32Array::from_iter_values(kept), None)?;
        let offsets = OffsetBuffer::from_lengths(most.iter().map(|n| n.unwrap_or(0) as usize));
        let nulls = NullBuffer::from_iter(most.iter().map(Option::is_some));
        let item = Arc::new(Field::new("element", values.data_type().clone(), true));
        Ok(Arc::new(ListArray::try_new(item, offsets, values, Some(nulls))?))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, ListBuilder, StringArray, StringBuilder};

    use super::*;

    fn lists(rows: &[Option<&[&str]>]) -> ArrayRef {
        let mut builder = ListBuilder::new(StringBuilder::new());
        for row in rows {
            row.iter().copied().flatten().for_each(|text| builder.values().append_value(text));
            builder.append(row.is_some());
        }
        Arc::new(builder.finish())
    }

    #[test]
    fn elements_are_rows_and_become_lists_of_the_same_lengths() {
        let captions =
            lists(&[Some(&["unused"]), Some(&["a", "b"]), Some(&[]), None, Some(&["c"])]);
        let images = StringArray::from(vec!["-", "x", "y", "z", "w"]);
        let rows = RecordBatch::try_from_iter([
            ("image", Arc::new(images) as ArrayRef),
            ("caption", captions),
        ]);
        let rows = rows.expect("equally long").slice(1, 4);
        let names = ["caption".to_owned()];
        let used = UsedLists { lists: names.to_vec(), beside: vec!["image".into()] };
        let (flat, listed) = Listed::explode(rows, &used).expect("lists");
        let text = |name: &str| -> Vec<Option<String>> {
            let column = flat.column_by_name(name).expect("there").as_string::<i32>().clone();
            column.iter().map(|text| text.map(str::to_owned)).collect()
        };
        let some =
            |words: [&str; 5]| words.map(|word| Some(word.to_owned()).filter(|_| word != "-"));
        assert_eq!(text("image"), some(["x", "x", "y", "z", "w"]));
        assert_eq!(text("caption"), some(["a", "b", "-", "-", "c"]));
        assert_eq!((0..5).map(|at| listed.row_of(at)).collect::<Vec<_>>(), [0, 0, 1, 2, 3]);
        let values: ArrayRef = Arc::new(Int32Array::from(vec![0, 1, 2, 3, 4]));
        let found = listed.lists(&values, &names).expect("lists");
        let found = found.as_list::<i32>();
        let lengths: Vec<_> =
            (0..4).map(|row| found.is_valid(row).then(|| found.value_length(row))).collect();
        assert_eq!(lengths, [Some(2), Some(0), None, Some(1)]);
        assert_eq!(found.values().as_ref(), &Int32Array::from(vec![0, 1, 4]));
        let one = listed.one(&values).expect("a value a row");
        assert_eq!(one.as_ref(), &Int32Array::from(vec![0, 2, 3, 4]));
    }

    #[test]
    fn the_shorter_of_two_lists_is_filled_up_and_keeps_its_length() {
        let rows = RecordBatch::try_from_iter([
            ("a", lists(&[Some(&["1", "2"]), None])),
            ("b", lists(&[Some(&["3"]), Some(&["4"])])),
        ]);
        let names = ["a", "b"].map(str::to_owned);
        let used = UsedLists { lists: names.to_vec(), beside: vec![] };
        let (flat, listed) = Listed::explode(rows.expect("equally long"), &used).expect("lists");
        assert_eq!(flat.num_rows(), 3);
        assert_eq!((flat.column(0).null_count(), flat.column(1).null_count()), (1, 1));
        let values: ArrayRef = Arc::new(Int32Array::from(vec![0, 1, 2]));
        let lengths = |columns: &[String]| -> Vec<_> {
            let lists = listed.lists(&values, columns).expect("lists");
            let lists = lists.as_list::<i32>();
            (0..2).map(|row| lists.is_valid(row).then(|| lists.value_length(row))).collect()
        };
        assert_eq!(lengths(&names[..1]), [Some(2), None]);
        assert_eq!(lengths(&names[1..]), [Some(1), Some(1)]);
        assert_eq!(lengths(&names), [Some(2), Some(1)]);
    }
}
