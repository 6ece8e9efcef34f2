//! Rows with lists, a few at a time: what is made of a batch is as large as its elements are many,
//! whatever the number of its rows.

use std::collections::VecDeque;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use super::Source;
use crate::batch::lists::element;
use crate::batch::{Position, RowBatch};
use crate::error::Error;

/// The most elements that a row's list may have.
const MOST: usize = 1024;

/// Gives the batches of a source in pieces of so many elements, a row at least.
pub struct ElementsSource {
    rows: Box<dyn Source>,
    /// The columns that are lists.
    lists: Vec<String>,
    wanted: usize,
    pieces: VecDeque<RowBatch>,
}

impl ElementsSource {
    pub fn new(rows: Box<dyn Source>, lists: Vec<String>, wanted: usize) -> Self {
        Self { rows, lists, wanted, pieces: VecDeque::new() }
    }

    /// How many elements each row has: the most of its lists.
    fn lengths(&self, rows: &RecordBatch) -> Result<Vec<usize>, Error> {
        let mut lengths = vec![1; rows.num_rows()];
        let refused = |source| Error::Arrow { action: "take lists apart", source };
        for column in self.lists.iter().filter_map(|name| rows.column_by_name(name)) {
            let Some(item) = element(column.data_type()) else { continue };
            let lists = cast(column, &DataType::List(item.clone())).map_err(refused)?;
            let lists = lists.as_list::<i32>();
            for (row, length) in
                lengths.iter_mut().enumerate().filter(|(row, _)| lists.is_valid(*row))
            {
                *length = (*length).max(lists.value_length(row) as usize);
            }
        }
        match lengths.iter().find(|length| **length > MOST) {
            Some(&n) => Err(Error::LongList { n, most: MOST }),
            None => Ok(lengths),
        }
    }

    fn cut(&mut self, batch: RowBatch) -> Result<(), Error> {
        let lengths = self.lengths(&batch.rows)?;
        let Position { part, offset, last } = batch.position;
        let mut start = 0;
        loop {
            let (mut end, mut n) = (start, 0);
            while end < lengths.len() && (end == start || n + lengths[end] <= self.wanted) {
                n += lengths[end];
                end += 1;
            }
            let rows = batch.rows.slice(start, end - start);
            let position = Position {
                part,
                offset: offset + start as u64,
                last: last && end == lengths.len(),
            };
            self.pieces.push_back(RowBatch { position, rows });
            start = end;
            if start == lengths.len() {
                return Ok(());
            }
        }
    }
}

impl Source for ElementsSource {
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
        if self.pieces.is_empty() {
            let Some(batch) = self.rows.next_batch()? else { return Ok(None) };
            self.cut(batch)?;
        }
        Ok(self.pieces.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ListBuilder, UInt8Builder};

    use super::*;

    struct Once(Option<RowBatch>);

    impl Source for Once {
        fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
            Ok(self.0.take())
        }
    }

    fn pieces(lengths: &[usize]) -> Result<Vec<(u64, usize, bool)>, Error> {
        let mut lists = ListBuilder::new(UInt8Builder::new());
        for &length in lengths {
            (0..length).for_each(|_| lists.values().append_value(0));
            lists.append(length != 1);
        }
        let rows = RecordBatch::try_from_iter([("x", Arc::new(lists.finish()) as _)]);
        let position = Position { part: 3, offset: 10, last: true };
        let batch = RowBatch { position, rows: rows.expect("a column") };
        let mut source = ElementsSource::new(Box::new(Once(Some(batch))), vec!["x".into()], 4);
        let mut found = Vec::new();
        while let Some(RowBatch { position, rows }) = source.next_batch()? {
            found.push((position.offset, rows.num_rows(), position.last));
        }
        Ok(found)
    }

    #[test]
    fn a_batch_is_cut_by_its_elements_and_a_long_row_is_alone() {
        let found = pieces(&[2, 2, 1, 7, 0, 3]).expect("short lists");
        assert_eq!(found, [(10, 2, false), (12, 1, false), (13, 1, false), (14, 2, true)]);
        assert_eq!(pieces(&[]).expect("no rows"), [(10, 0, true)]);
        assert!(matches!(pieces(&[2000]), Err(Error::LongList { n: 2000, .. })));
    }
}
