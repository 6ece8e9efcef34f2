//! What is written of each file of the table: the arrays, and the other columns beside them.
//!
//! Every file is published whole; a file of the table of which no row is kept has none.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::npy::{self, Element};
use super::{ArraySummary, Export, Summary};
use crate::analysis::Reasons;
use crate::digest;
use crate::error::Error;
use crate::files;
use crate::sink::{ParquetSink, PartOptions, Sink};
use crate::spec::ExportLayout;
use crate::table::{Made, Table, Vectors};
use crate::travel::travel_schema;

/// Writes the files of one export, in order.
pub struct Writer<'a> {
    table: &'a Table,
    export: &'a Export<'a>,
    /// Of the Parquet files beside the arrays.
    options: PartOptions,
    /// The lengths of the vectors, once they are known.
    dims: Vec<Option<usize>>,
    elements: Vec<Element>,
    /// The file of the table that is being read.
    file: usize,
    open: Option<Open>,
    parts: Vec<(String, String)>,
    files: usize,
    rows: u64,
    without: Reasons,
}

/// What is written of one file of the table.
struct Open {
    arrays: Vec<npy::Vectors<File>>,
    others: ParquetSink,
}

impl<'a> Writer<'a> {
    pub fn new(table: &'a Table, export: &'a Export<'a>) -> Result<Self, Error> {
        let of_array = |(column, _): &(String, &str)| {
            let field = table.field(column)?;
            Ok(match field.data_type() {
                DataType::FixedSizeList(item, dim) => (item.clone(), Some(*dim as usize)),
                DataType::List(item) | DataType::LargeList(item) => (item.clone(), None),
                _ => return Err(table.wrong_type(column, "a list of numbers is needed".into())),
            })
        };
        let found = export.arrays.iter().map(of_array).collect::<Result<Vec<_>, Error>>()?;
        let element = |item: &Field| match item.data_type() {
            DataType::Float16 => Element::F16,
            _ => Element::F32,
        };
        let elements = found.iter().map(|(item, _)| element(item)).collect();
        let own = table.written_schema();
        let row = Arc::new(Field::new(&export.spec.row, DataType::UInt64, false));
        let others = export.others.iter().map(|at| own.fields()[*at].clone());
        let fields: Vec<_> = std::iter::once(row).chain(others).collect();
        let declared = Schema::new_with_metadata(fields, own.metadata().clone());
        let options = PartOptions {
            schema: travel_schema(&declared),
            declared: Arc::new(declared),
            input: table.files()[0].parquet.clone(),
            metadata: table.files()[0].made_by.clone(),
        };
        Ok(Self {
            table,
            export,
            options,
            dims: found.iter().map(|(_, dim)| *dim).collect(),
            elements,
            file: 0,
            open: None,
            parts: Vec::new(),
            files: 0,
            rows: 0,
            without: Reasons::default(),
        })
    }

    /// Goes on to a file of the table; what is open of another is done.
    pub fn at_file(&mut self, file: usize) -> Result<(), Error> {
        if file != self.file {
            self.close()?;
            self.file = file;
        }
        Ok(())
    }

    /// Writes what is kept of a batch, whose first row is that row of the table.
    pub fn write(&mut self, first: u64, batch: &RecordBatch) -> Result<(), Error> {
        let mut vectors = Vec::with_capacity(self.dims.len());
        for ((column, _), dim) in self.export.arrays.iter().zip(&mut self.dims) {
            let wrong = |problem| self.table.wrong_type(column, problem);
            let array = batch.column_by_name(column).ok_or_else(|| wrong("it is gone".into()))?;
            let found = Vectors::of(array, *dim)
                .map_err(|problem| wrong(format!("it has {problem}: an array has one length")))?;
            if dim.is_none() && found.dim > 0 {
                *dim = Some(found.dim);
            }
            vectors.push(found);
        }
        let keep: Vec<bool> = (0..batch.num_rows())
            .map(|row| vectors.iter().all(|vectors| vectors.valid[row]))
            .collect();
        for (row, _) in keep.iter().enumerate().filter(|(_, keep)| !**keep) {
            self.without.add(batch, row, "no vector");
        }
        if !keep.contains(&true) {
            return Ok(());
        }
        let rows = filtered(&self.options.schema, (first, batch), &self.export.others, &keep)?;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        for ((vectors, file), at) in vectors.iter().zip(&mut open.arrays).zip(0..) {
            let of_rows = (0..batch.num_rows()).filter(|row| keep[*row]);
            let mut all = of_rows.filter_map(|row| vectors.get(row));
            let pushed = all.try_for_each(|vector| file.push(vector));
            pushed.map_err(Error::io("write", self.export.place(at, self.files, self.width())))?;
        }
        self.rows += rows.num_rows() as u64;
        open.others.write(&rows)?;
        self.open = Some(open);
        Ok(())
    }

    /// Digits of the files' numbers, as clip-retrieval counts them.
    fn width(&self) -> usize {
        self.table.files().len().to_string().len()
    }

    fn begin(&self) -> Result<Open, Error> {
        let mut arrays = Vec::new();
        for (at, (dim, element)) in self.dims.iter().zip(&self.elements).enumerate() {
            let path = self.export.place(at, self.files, self.width());
            make_folder_of(&path)?;
            let temporary = files::temporary(&path);
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(true);
            let file = options.open(&temporary).map_err(Error::io("create", &temporary))?;
            let begun = npy::Vectors::new(file, *element, dim.unwrap_or(0));
            arrays.push(begun.map_err(Error::io("write", &temporary))?);
        }
        let path = self.export.beside(self.files, self.width());
        make_folder_of(&path)?;
        let (dir, name) = split(&path);
        let mut others = ParquetSink::new(dir, self.options.clone());
        others.begin(&name, &self.table.files()[self.file].metadata)?;
        Ok(Open { arrays, others })
    }

    /// Publishes what is open, if anything is.
    fn close(&mut self) -> Result<(), Error> {
        let Some(Open { arrays, mut others }) = self.open.take() else { return Ok(()) };
        let (number, width) = (self.files, self.width());
        let mut done = Vec::new();
        for (at, array) in arrays.into_iter().enumerate() {
            let path = self.export.place(at, number, width);
            done.push((path.clone(), array.finish().map_err(Error::io("write", path))?));
        }
        if self.export.spec.layout == ExportLayout::Npz {
            let path = self.export.spec.path.join(format!("{number:08}.npz"));
            let temporary = files::temporary(&path);
            let mut file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
            let names = self.export.arrays.iter().map(|(column, _)| column.clone());
            let (paths, arrays): (Vec<_>, Vec<_>) = done.into_iter().unzip();
            let archived = npy::archive(&mut file, names.zip(arrays).collect());
            archived.map_err(Error::io("write", &temporary))?;
            for path in paths {
                files::remove(&files::temporary(&path))?;
            }
            done = vec![(path, file)];
        }
        for (path, file) in done {
            let sha256 = digest::of_file(&files::temporary(&path))?;
            files::publish(file, &path)?;
            self.record(&path, sha256);
        }
        let about = serde_json::json!({ "command": "export" }).to_string();
        let published = others.publish(about)?;
        self.record(&self.export.beside(number, width), published.sha256);
        self.files += 1;
        Ok(())
    }

    fn record(&mut self, path: &Path, sha256: String) {
        let name = path.strip_prefix(&self.export.spec.path).unwrap_or(path);
        self.parts.push((name.display().to_string(), sha256));
    }

    /// A table without rows has its files too, of none.
    pub fn finish(mut self) -> Result<Made, Error> {
        if self.open.is_none() && self.files == 0 {
            self.open = Some(self.begin()?);
        }
        self.close()?;
        let arrays = self.export.arrays.iter().zip(self.dims.iter().zip(&self.elements));
        let arrays = arrays.map(|((column, name), (dim, element))| {
            let name = if name.is_empty() { column.as_str() } else { name };
            let element = if *element == Element::F16 { "f16" } else { "f32" };
            ArraySummary {
                name: name.to_owned(),
                column: column.clone(),
                dim: dim.unwrap_or(0),
                element: element.to_owned(),
            }
        });
        let arrays = arrays.collect();
        let summary = Summary { arrays, files: self.files, without: self.without };
        let summary = serde_json::to_value(summary).expect("it is plain data");
        Ok(Made { rows_out: self.rows, parts: self.parts, summary })
    }
}

/// The rows that are kept of a batch: their numbers, and the other columns.
fn filtered(
    schema: &SchemaRef,
    (first, batch): (u64, &RecordBatch),
    others: &[usize],
    keep: &[bool],
) -> Result<RecordBatch, Error> {
    let numbers = UInt64Array::from_iter_values(first..first + batch.num_rows() as u64);
    let others = others.iter().map(|at| batch.column(*at).clone());
    let columns = std::iter::once(Arc::new(numbers) as ArrayRef).chain(others).collect();
    RecordBatch::try_new(schema.clone(), columns)
        .and_then(|batch| filter_record_batch(&batch, &BooleanArray::from(keep.to_vec())))
        .map_err(|source| Error::Arrow { action: "leave out rows without vectors", source })
}

fn make_folder_of(path: &Path) -> Result<(), Error> {
    let (dir, _) = split(path);
    files::create_folder(dir)
}

fn split(path: &Path) -> (&Path, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (path.parent().unwrap_or(Path::new(".")), name)
}
