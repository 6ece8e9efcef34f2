//! Kept rows from a table's row groups to an output's, several at once.
//!
//! Embeddings go from page to page (`lists`), everything else over Arrow. Where nothing of a row
//! group is kept, nothing of it is read. What is kept is decided elsewhere.

use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter;
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::schema::types::ColumnDescPtr;
use rayon::prelude::*;

use super::lists::{ListLayout, ListPage, ListReader, ListWriter, chunk};
use super::{Piece, Table};
use crate::error::Error;
use crate::sink::EncodedColumn;

/// Bytes that row groups which are read at once may take together, if they are several.
const WINDOW_BYTES: u64 = 512 << 20;

/// Rows below which row groups after one another are read as one.
const TASK_ROWS: u64 = 16_384;

/// What is read at once: a row group, or several small ones.
pub struct Task {
    pieces: Vec<Piece>,
    bytes: u64,
}

impl Task {
    /// Its first row.
    pub fn start(&self) -> u64 {
        self.pieces.first().map_or(0, |piece| piece.start)
    }

    fn rows(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.rows).sum()
    }
}

/// What becomes of a task's rows.
pub struct Decided {
    pub keep: Vec<bool>,
    pub added: Vec<ArrayRef>,
}

/// Kept rows.
pub struct Block {
    pub rows: usize,
    /// Per column that goes over Arrow, the added ones too: its arrays.
    arrays: Vec<Vec<ArrayRef>>,
    /// Per column that goes from page to page: its pages.
    pages: Vec<Vec<ListPage>>,
}

/// How the columns of a table are copied.
pub struct Copier<'a> {
    table: &'a Table,
    sees: Option<Vec<&'a str>>,
    /// Columns of the output, in order.
    fields: Vec<FieldRef>,
    /// Per field, its layout if it goes from page to page.
    lists: Vec<Option<ListLayout>>,
    /// The table's columns that go over Arrow.
    arrow: Vec<&'a str>,
    tasks: Vec<Task>,
}

impl<'a> Copier<'a> {
    pub fn new(
        table: &'a Table,
        added: &[FieldRef],
        sees: Option<&[&'a str]>,
    ) -> Result<Self, Error> {
        let own = table.schema().fields();
        let layouts = layouts(table)?;
        let arrow = own.iter().zip(&layouts).filter(|(_, list)| list.is_none());
        let mut lists = layouts.clone();
        lists.resize(own.len() + added.len(), None);
        Ok(Self {
            table,
            sees: sees.map(<[_]>::to_vec),
            fields: own.iter().chain(added).cloned().collect(),
            lists,
            arrow: arrow.map(|(field, _)| field.name().as_str()).collect(),
            tasks: tasks(table),
        })
    }

    /// Tasks that are done at once.
    pub fn windows(&self) -> impl Iterator<Item = &[Task]> {
        let largest = self.tasks.iter().map(|task| task.bytes).max().unwrap_or(0).max(1);
        let most = 2 * rayon::current_num_threads() as u64;
        self.tasks.chunks((WINDOW_BYTES / largest).clamp(1, most) as usize)
    }

    /// Reads the columns that rows are decided by.
    pub fn see(&self, tasks: &[Task]) -> Vec<Result<Vec<RecordBatch>, Error>> {
        let read = |task: &Task| {
            let mut batches = Vec::new();
            for piece in &task.pieces {
                for batch in self.table.read(*piece, self.sees.as_deref())? {
                    batches.push(batch?);
                }
            }
            Ok(batches)
        };
        tasks.par_iter().map(read).collect()
    }

    /// Reads the kept rows.
    pub fn copy(&self, tasks: &[Task], decided: Vec<Decided>) -> Vec<Result<Block, Error>> {
        let both = tasks.par_iter().zip(decided);
        both.map(|(task, decided)| self.copy_task(task, decided)).collect()
    }

    fn copy_task(&self, task: &Task, decided: Decided) -> Result<Block, Error> {
        let rows = decided.keep.iter().filter(|keep| **keep).count();
        if rows == 0 {
            return Ok(Block { rows, arrays: Vec::new(), pages: Vec::new() });
        }
        if decided.keep.len() as u64 != task.rows() {
            let path = self.table.files()[task.pieces[0].file].path.clone();
            let (expected, found) = (task.rows(), decided.keep.len() as u64);
            return Err(Error::RowCount { path, expected, found });
        }
        let keep = BooleanArray::from(decided.keep);
        let arrays = self.arrays(task, &keep, decided.added)?;
        let layouts = self.lists.iter().flatten();
        let pages = layouts.map(|layout| self.pages(task, &keep, *layout));
        Ok(Block { rows, arrays, pages: pages.collect::<Result<_, _>>()? })
    }

    /// The kept rows of the columns that go over Arrow.
    fn arrays(
        &self,
        task: &Task,
        keep: &BooleanArray,
        added: Vec<ArrayRef>,
    ) -> Result<Vec<Vec<ArrayRef>>, Error> {
        let mut arrays = vec![Vec::new(); self.arrow.len()];
        let mut row = 0;
        for piece in &task.pieces {
            if self.arrow.is_empty() {
                break;
            }
            for batch in self.table.read(*piece, Some(&self.arrow))? {
                let batch = batch?;
                let kept = keep.slice(row, batch.num_rows().min(keep.len() - row));
                row += batch.num_rows();
                if kept.true_count() == 0 {
                    continue;
                }
                for (all, column) in arrays.iter_mut().zip(batch.columns()) {
                    all.push(compact(filter(column, &kept).map_err(arrow_error)?));
                }
            }
        }
        for column in added {
            arrays.push(vec![filter(&column, keep).map_err(arrow_error)?]);
        }
        Ok(arrays)
    }

    /// The kept rows of a column that goes from page to page.
    fn pages(
        &self,
        task: &Task,
        keep: &BooleanArray,
        layout: ListLayout,
    ) -> Result<Vec<ListPage>, Error> {
        let first = task.pieces[0].file;
        let damaged = |file: usize| {
            let path = self.table.files()[file].path.clone();
            |problem: String| Error::Parquet { path, source: problem.into() }
        };
        let mut writer = ListWriter::new(layout).map_err(damaged(first))?;
        let mut before = 0;
        for piece in &task.pieces {
            let rows = piece.rows as usize;
            let kept = keep.slice(before, rows.min(keep.len() - before));
            before += rows;
            if kept.true_count() == 0 {
                continue;
            }
            let file = &self.table.files()[piece.file];
            let bits = kept.values();
            let mut reader =
                ListReader::new(layout, rows, |row| row < bits.len() && bits.value(row));
            for page in file.pages(piece.group, layout.leaf)? {
                reader.read(&page?, &mut writer).map_err(damaged(piece.file))?;
            }
            let found = reader.end(&mut writer).map_err(damaged(piece.file))?;
            check_rows(&file.path, rows, found)?;
        }
        writer.finish().map_err(damaged(first))
    }
}

fn check_rows(path: &Path, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (expected as u64, found as u64);
    Err(Error::RowCount { path: path.to_owned(), expected, found })
}

/// Per column, its layout if every file stores it plainly and alike.
fn layouts(table: &Table) -> Result<Vec<Option<ListLayout>>, Error> {
    let own = table.schema().fields();
    let mut layouts = vec![None; own.len()];
    let mut plain: Option<Vec<bool>> = None;
    for file in table.files() {
        let leaves = (0..file.parquet.num_columns()).map(|leaf| {
            let root = file.parquet.get_column_root_idx(leaf);
            (root, ListLayout::of(file.schema.field(root), leaf, &file.parquet.column(leaf)))
        });
        let leaves: Vec<_> = leaves.collect();
        if leaves.iter().all(|(_, layout)| layout.is_none()) {
            return Ok(vec![None; own.len()]);
        }
        let here = file.plain_leaves()?;
        let first = plain.is_none();
        let all = plain.get_or_insert_with(|| vec![true; own.len()]);
        for ((root, layout), is_plain) in leaves.into_iter().zip(here) {
            if first {
                layouts[root] = layout;
            }
            all[root] &= is_plain && layout.is_some() && layouts[root] == layout;
        }
    }
    let plain = plain.unwrap_or_default();
    Ok(layouts.into_iter().zip(plain).map(|(layout, plain)| layout.filter(|_| plain)).collect())
}

/// The table's row groups, small ones together.
fn tasks(table: &Table) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    for piece in table.pieces() {
        let file = &table.files()[piece.file];
        // What its rows take in the file, unpacked by a guess.
        let bytes = file.bytes as f64 * piece.rows as f64 / file.rows.max(1) as f64;
        let bytes = (2.0 * bytes) as u64;
        match tasks.last_mut() {
            Some(last) if last.rows() + piece.rows <= TASK_ROWS => {
                last.bytes = last.bytes.saturating_add(bytes);
                last.pieces.push(piece);
            }
            _ => tasks.push(Task { pieces: vec![piece], bytes }),
        }
    }
    tasks
}

/// Views of their own bytes alone: a few kept rows must not hold whole pages.
fn compact(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::BinaryView => std::sync::Arc::new(array.as_binary_view().gc()),
        _ => array,
    }
}

/// What to say of an operation of Arrow's that failed.
pub fn arrow_error(source: ArrowError) -> Error {
    Error::Arrow { action: "put columns together", source }
}

/// An output row group that rows are added to.
pub struct OpenGroup {
    pub rows: usize,
    columns: Vec<OpenColumn>,
}

enum OpenColumn {
    /// A field as batches have it, and the writers of its leaves.
    Arrow(FieldRef, Vec<ArrowColumnWriter>),
    Pages(usize, Vec<ListPage>),
}

impl OpenGroup {
    /// `schema` is what batches have; `index` counts the file's row groups.
    pub fn new(
        copier: &Copier<'_>,
        factory: &ArrowRowGroupWriterFactory,
        schema: SchemaRef,
        index: usize,
    ) -> Result<Self, Error> {
        let writers = factory.create_column_writers(index).map_err(encode_error)?;
        let mut writers = writers.into_iter();
        let mut columns = Vec::new();
        let mut leaf = 0;
        for (field, list) in schema.fields().iter().zip(&copier.lists) {
            let leaves = leaves(field.data_type());
            let own: Vec<_> = writers.by_ref().take(leaves).collect();
            columns.push(match list {
                Some(_) => OpenColumn::Pages(leaf, Vec::new()),
                None => OpenColumn::Arrow(field.clone(), own),
            });
            leaf += leaves;
        }
        debug_assert_eq!(copier.fields.len(), columns.len());
        Ok(Self { rows: 0, columns })
    }

    /// Adds rows, several columns at once.
    pub fn add(&mut self, block: Block) -> Result<(), Error> {
        self.rows += block.rows;
        let (mut arrays, mut pages) = (block.arrays.into_iter(), block.pages.into_iter());
        let given: Vec<_> = self
            .columns
            .iter()
            .map(|column| match column {
                OpenColumn::Arrow(..) => (arrays.next().unwrap_or_default(), Vec::new()),
                OpenColumn::Pages(..) => (Vec::new(), pages.next().unwrap_or_default()),
            })
            .collect();
        let both = self.columns.par_iter_mut().zip(given);
        both.try_for_each(|(column, (arrays, pages))| column.add(arrays, pages))
    }

    /// Bytes that it will take in the file, about.
    pub fn size(&self) -> usize {
        let size = |column: &OpenColumn| match column {
            OpenColumn::Arrow(_, writers) => {
                writers.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum::<usize>()
            }
            OpenColumn::Pages(_, pages) => pages.iter().map(ListPage::size).sum(),
        };
        self.columns.iter().map(size).sum()
    }

    /// Its columns, a leaf each, in order. `column` gives a leaf as the file has it.
    pub fn finish(
        self,
        column: impl Fn(usize) -> ColumnDescPtr + Sync,
    ) -> Result<Vec<EncodedColumn>, Error> {
        let finish = |open: OpenColumn| match open {
            OpenColumn::Arrow(_, writers) => {
                let chunks = writers.into_iter().map(|writer| writer.close());
                chunks.map(|chunk| chunk.map(EncodedColumn::Arrow)).collect::<Result<Vec<_>, _>>()
            }
            OpenColumn::Pages(leaf, pages) => {
                let (bytes, close) = chunk(pages, column(leaf))?;
                Ok(vec![EncodedColumn::Bytes(bytes, close)])
            }
        };
        let columns: Result<Vec<_>, _> = self.columns.into_par_iter().map(finish).collect();
        Ok(columns.map_err(encode_error)?.into_iter().flatten().collect())
    }
}

impl OpenColumn {
    fn add(&mut self, arrays: Vec<ArrayRef>, more: Vec<ListPage>) -> Result<(), Error> {
        match self {
            OpenColumn::Pages(_, pages) => pages.extend(more),
            OpenColumn::Arrow(field, writers) => {
                for array in arrays {
                    let leaves = compute_leaves(field, &array).map_err(encode_error)?;
                    for (writer, leaf) in writers.iter_mut().zip(leaves) {
                        writer.write(&leaf).map_err(encode_error)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn encode_error(error: parquet::errors::ParquetError) -> Error {
    arrow_error(error.into())
}

/// Leaf columns of a type as Parquet stores it.
fn leaves(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| leaves(field.data_type())).sum(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => leaves(item.data_type()),
        _ => 1,
    }
}
